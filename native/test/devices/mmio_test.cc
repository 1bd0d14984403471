#include "devices/virtio/mmio.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "test/devices/virtio_driver.h"

using namespace ckptfs;
using D = TestDriver;

namespace {

/** Returns every chain as it is, and counts. */
class EchoDevice final : public VirtioMmio {
 public:
  EchoDevice(const GuestRam& ram, InterruptLine line)
      : VirtioMmio({.deviceId = 77, .features = 0x30, .queues = 2}, ram, std::move(line)) {}
  std::unique_ptr<Frozen> freeze() const override {
    const Lock lock(mutex_);
    return std::make_unique<FrozenState<VirtioState>>(stillState());
  }
  void thaw(const Json& json) override {
    VirtioState state;
    from_json(json, state);
    const Lock lock(mutex_);
    adopt(std::move(state));
  }
  int looks = 0;

 protected:
  void process(unsigned index) noexcept override {
    ++looks;
    DescriptorChain chain;
    for (;;) switch (peek(index, chain)) {
        case VirtQueue::Peek::chain:
          if (!push(index, chain.head, 0)) return;
          queue(index).take();
          break;
        case VirtQueue::Peek::broken:
          return needReset();
        default:
          return;
      }
  }
  std::span<const std::byte> config() const noexcept override {
    return std::as_bytes(std::span(kBytes));
  }

 private:
  static constexpr uint8_t kBytes[6] = {1, 2, 3, 4, 5, 6};
};

struct Rig {
  GuestMemory memory{1 << 20, Geometry{}};
  TestLine line;
  EchoDevice device{GuestRam(memory, D::kRamBase), line.input()};
  D driver{device, memory};
};

}  // namespace

TEST_CASE("mmio: identification and constants") {
  Rig rig;
  D& d = rig.driver;
  CHECK(d.get(reg::magic) == 0x74726976);
  CHECK(d.get(reg::version) == 2);
  CHECK(d.get(reg::deviceId) == 77);
  CHECK(d.get(reg::generation) == 0);
  CHECK(d.get(reg::sharedLengthLow) == UINT32_MAX);
  CHECK(d.get(reg::queueSizeMax) == kQueueSizeMax);
  d.set(reg::queueSelect, 2);
  CHECK(d.get(reg::queueSizeMax) == 0);
  d.set(reg::queueReady, 1);
  CHECK(d.get(reg::queueReady) == 0);
  d.set(reg::queueSelect, UINT32_MAX);
  CHECK(d.get(reg::queueSizeMax) == 0);
  CHECK(rig.device.read(reg::magic, 1) == 0);
  CHECK(rig.device.read(reg::magic, 8) == 0);
  CHECK(rig.device.read(2, 4) == 0);
}

TEST_CASE("mmio: configuration space in any size") {
  Rig rig;
  CHECK(rig.device.read(reg::config, 1) == 1);
  CHECK(rig.device.read(reg::config + 1, 2) == 0x0302);
  CHECK(rig.device.read(reg::config + 2, 4) == 0x06050403);
  CHECK(rig.device.read(reg::config + 3, 4) == 0);
  CHECK(rig.device.read(reg::config, 8) == 0);
  CHECK(rig.device.read(reg::config + 6, 1) == 0);
  CHECK(rig.device.read(0xfff, 1) == 0);
  rig.device.write(reg::config, 4, 9);
  CHECK(rig.device.read(reg::config, 1) == 1);
}

TEST_CASE("mmio: features are accepted only if offered and with version 1") {
  Rig rig;
  D& d = rig.driver;
  CHECK(d.offered() == (D::kVersion1 | D::kIndirectFeature | 0x30));
  d.set(reg::deviceFeaturesSelect, 2);
  CHECK(d.get(reg::deviceFeatures) == 0);
  CHECK_FALSE(d.negotiate(0));
  CHECK_FALSE(d.negotiate(0x30));
  CHECK_FALSE(d.negotiate(D::kVersion1 | 1));
  CHECK_FALSE(d.negotiate(D::kVersion1 | uint64_t{1} << 40));
  d.set(reg::status, 3 | 8 | 4);  // the driver goes on regardless
  CHECK(d.get(reg::status) == 3);
  CHECK(d.negotiate(D::kVersion1 | 0x10));
  d.set(reg::driverFeaturesSelect, 0);
  d.set(reg::driverFeatures, 0x1);  // too late
  CHECK(rig.device.freeze()->toJson()["driverFeatures"] == "0x100000010");
  d.set(reg::status, 3 | 8 | 4 | 64);  // the device's own bit
  CHECK(d.get(reg::status) == 15);
}

TEST_CASE("mmio: a queue is run only when all is set up") {
  Rig rig;
  D& d = rig.driver;
  d.negotiate(d.offered());
  d.setUpQueue(8);
  CHECK(d.get(reg::queueReady) == 1);
  d.describe(0, D::kData, 4);
  d.offer(0);
  d.kick();
  CHECK(rig.device.looks == 0);  // no DRIVER_OK
  d.set(reg::status, 15);
  d.set(reg::queueNotify, 1);  // not ready
  d.set(reg::queueNotify, 2);
  d.set(reg::queueNotify, UINT32_MAX);
  CHECK(rig.device.looks == 0);
  d.kick();
  CHECK(rig.device.looks == 1);
  REQUIRE(d.poll());
  CHECK(rig.line.level());
  CHECK(d.get(reg::interruptStatus) == 1);
  d.set(reg::interruptAck, 2);
  CHECK(rig.line.level());
  d.set(reg::interruptAck, 1);
  CHECK_FALSE(rig.line.level());
}

TEST_CASE("mmio: the layout of a ready queue does not change") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  const Json before = rig.device.freeze()->toJson();
  d.set(reg::queueSize, 16);
  d.set(reg::descriptorsLow, 0);
  d.set(reg::availableHigh, 5);
  d.set(reg::usedLow, 1);
  d.set(reg::queueReady, 1);
  CHECK(rig.device.freeze()->toJson() == before);
}

TEST_CASE("mmio: stopping a queue and starting it again begins at index 0") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.describe(0, D::kData, 4);
  for (int i = 0; i < 3; ++i) d.offer(0);
  d.kick();
  CHECK(d.usedIndex() == 3);
  d.set(reg::queueReady, 0);
  CHECK(d.get(reg::queueReady) == 0);
  d.offer(0);
  d.kick();
  CHECK(rig.device.looks == 1);
  d.setUpQueue(8);
  d.describe(0, D::kData, 4);
  d.offer(0);
  d.kick();
  CHECK(d.usedIndex() == 1);
}

TEST_CASE("mmio: a queue that cannot be is refused with a request for reset") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.set(reg::queueReady, 0);
  SUBCASE("size not a power of two") {
    d.set(reg::queueSize, 12);
  }
  SUBCASE("size 0") {
    d.set(reg::queueSize, 0);
  }
  SUBCASE("size too large") {
    d.set(reg::queueSize, 256);
  }
  SUBCASE("size whose low half is good") {
    d.set(reg::queueSize, 0x10008);
  }
  SUBCASE("rings outside RAM") {
    d.set(reg::usedHigh, 7);
  }
  SUBCASE("rings misaligned") {
    d.set(reg::descriptorsLow, 0x80000004);
  }
  d.set(reg::queueReady, 1);
  CHECK(d.get(reg::queueReady) == 0);
  CHECK(d.needsReset());
  CHECK(d.get(reg::interruptStatus) == 2);
  d.start(8);
  CHECK_FALSE(d.needsReset());
  CHECK_FALSE(rig.line.level());
}

TEST_CASE("mmio: a broken ring stops the device until it is reset") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.offer(99);
  d.kick();
  CHECK(d.needsReset());
  CHECK(rig.line.level());
  CHECK(rig.device.looks == 1);
  d.kick();
  CHECK(rig.device.looks == 1);
  d.set(reg::status, 15);  // not the way to clear it
  CHECK(d.needsReset());
  d.start(8);
  CHECK_FALSE(d.needsReset());
  d.describe(0, D::kData, 4);
  d.offer(0);
  d.kick();
  CHECK(d.poll());
}

TEST_CASE("mmio: reset forgets everything") {
  Rig rig;
  D& d = rig.driver;
  const Json fresh = rig.device.freeze()->toJson();
  d.start(8);
  d.describe(0, D::kData, 4);
  d.offer(0);
  d.kick();
  CHECK(rig.line.level());
  d.set(reg::status, 0);
  CHECK_FALSE(rig.line.level());
  CHECK(rig.device.freeze()->toJson() == fresh);
}

TEST_CASE("mmio: a held device keeps its requests for later") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.describe(0, D::kData, 4);
  rig.device.hold();
  CHECK(rig.device.waitDrained(std::chrono::milliseconds(0)));
  d.offer(0);
  d.kick();
  CHECK_FALSE(d.poll());
  rig.device.retry();
  CHECK_FALSE(d.poll());
  rig.device.release();
  CHECK(d.poll());
}

TEST_CASE("mmio: state makes a round trip, and a thawed device waits for release") {
  Rig before;
  D& d = before.driver;
  d.start(8);
  d.describe(0, D::kData, 4);
  d.offer(0);
  d.kick();
  before.device.hold();
  d.offer(0);
  d.kick();
  const std::string text = before.device.freeze()->toJson().dump();

  TestLine line;
  EchoDevice after(GuestRam(before.memory, D::kRamBase), line.input());
  after.thaw(Json::parse(text));
  CHECK(after.freeze()->toJson().dump() == text);
  CHECK(line.level());
  d.moveTo(after);
  CHECK(d.poll());
  CHECK_FALSE(d.poll());
  d.kick();
  CHECK(after.looks == 0);
  after.release();
  CHECK(d.poll());
  CHECK_FALSE(d.poll());
  CHECK(d.get(reg::interruptStatus) == 1);
}

TEST_CASE("mmio: thaw refuses damaged state and changes nothing") {
  Rig rig;
  rig.driver.start(8);
  const Json good = rig.device.freeze()->toJson();
  const auto refuse = [&](auto change) {
    Json bad = good;
    change(bad);
    CAPTURE(bad.dump());
    CHECK_THROWS_AS(rig.device.thaw(bad), Error);
  };
  for (const auto& [key, value] : good.items()) refuse([&](Json& j) { j.erase(key); });
  for (const auto& [key, value] : good["queues"][0].items()) {
    refuse([&](Json& j) { j["queues"][0].erase(key); });
    refuse([&](Json& j) { j["queues"][0][key] = nullptr; });
  }
  refuse([](Json& j) { j["deviceId"] = 2; });
  refuse([](Json& j) { j["status"] = 31; });
  refuse([](Json& j) { j["status"] = 256; });
  refuse([](Json& j) { j["status"] = 7; });
  refuse([](Json& j) { j["interruptStatus"] = 4; });
  refuse([](Json& j) { j["queueSelect"] = uint64_t{1} << 32; });
  refuse([](Json& j) { j["driverFeatures"] = "0x10"; });
  refuse([](Json& j) { j["driverFeatures"] = "0x100000001"; });
  refuse([](Json& j) { j["queues"].erase(1); });
  refuse([](Json& j) { j["queues"].push_back(j["queues"][1]); });
  refuse([](Json& j) { j["queues"] = "none"; });
  refuse([](Json& j) { j["queues"][0]["size"] = 3; });
  refuse([](Json& j) { j["queues"][0]["size"] = 65536; });
  refuse([](Json& j) { j["queues"][0]["used"] = "0x1000"; });
  refuse([](Json& j) { j["queues"][0]["available"] = "0x80000001"; });
  refuse([](Json& j) { j["queues"][0]["nextUsed"] = 1; });
  CHECK_THROWS_AS(rig.device.thaw(Json()), Error);
  CHECK(rig.device.freeze()->toJson() == good);
}
