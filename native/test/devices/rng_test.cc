#include "devices/virtio/rng.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"
#include "test/devices/virtio_driver.h"

using namespace ckptfs;
using D = TestDriver;

namespace {

struct Rig {
  GuestMemory memory{1 << 20, Geometry{}};
  GuestRam ram{memory, D::kRamBase};
  TestLine line;
  VirtioRng rng{ram, line.input()};
  D driver{rng, memory};
};

}  // namespace

TEST_CASE("rng: fills the buffers of a request at once") {
  Rig rig;
  D& d = rig.driver;
  CHECK(d.get(reg::deviceId) == 4);
  d.start(8);
  d.describe(0, D::kData, 16, D::kWrite | D::kNext, 1);
  d.describe(1, D::kData + 0x100, 48, D::kWrite);
  d.offer(0);
  d.kick();
  const auto used = d.poll();
  REQUIRE(used);
  CHECK(used->length == 64);
  CHECK(rig.line.level());
  const auto filled = [&](uint64_t address, size_t length) {
    const std::span bytes(d.at(address), length);
    return std::count(bytes.begin(), bytes.end(), std::byte{0}) < int(length / 2);
  };
  CHECK(filled(D::kData, 16));
  CHECK(filled(D::kData + 0x100, 48));
  CHECK(d.fetch<uint64_t>(D::kData + 16) == 0);  // nothing past the end
  CHECK(d.fetch<uint64_t>(D::kData + 0x100 + 48) == 0);
  CHECK(rig.rng.drained());
}

TEST_CASE("rng: a request is bounded, an empty one is returned") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.describe(0, D::kData, 0x10000, D::kWrite);
  d.describe(1, D::kData, 0, D::kWrite);
  d.offer(0);
  d.offer(1);
  d.kick();
  CHECK(d.poll()->length == VirtioRng::kRequestLimitBytes);
  CHECK(d.poll()->length == 0);
  CHECK(d.fetch<uint64_t>(D::kData + VirtioRng::kRequestLimitBytes) == 0);
}

TEST_CASE("rng: buffers that are not writable need a reset") {
  Rig rig;
  rig.driver.start(8);
  rig.driver.describe(0, D::kData, 16);
  rig.driver.offer(0);
  rig.driver.kick();
  CHECK(rig.driver.needsReset());
  CHECK_FALSE(rig.driver.poll());
}

TEST_CASE("rng: a request into memory that cannot be saved waits for retry") {
  Rig rig;
  D& d = rig.driver;
  d.start(8);
  d.describe(0, D::kData, 16, D::kWrite);
  d.offer(0);
  FailingClient saver(rig.memory, D::blockOf(D::kData));
  std::vector<uint8_t> traced(rig.memory.blockCount());
  rig.memory.armWrite(&saver, false, traced);
  d.kick();
  CHECK_FALSE(d.poll());
  CHECK_FALSE(d.needsReset());
  saver.allowed = true;
  rig.rng.retry();
  CHECK(d.poll()->length == 16);
  CHECK_FALSE(d.poll());
  rig.memory.endSave(false);
}

TEST_CASE("rng: state makes a round trip; another device's state is refused") {
  Rig before;
  before.driver.start(8);
  before.driver.describe(0, D::kData, 16, D::kWrite);
  before.rng.hold();
  before.driver.offer(0);
  before.driver.kick();
  const Json state = Json::parse(before.rng.freeze()->toJson().dump());
  TestLine line;
  VirtioRng after(before.ram, line.input());
  after.thaw(state);
  CHECK(after.freeze()->toJson() == state);
  before.driver.moveTo(after);
  CHECK_FALSE(before.driver.poll());
  after.release();
  CHECK(before.driver.poll()->length == 16);

  Json other = state;
  other["virtio"]["deviceId"] = 2;
  CHECK_THROWS_AS(after.thaw(other), Error);
  CHECK_THROWS_AS(after.thaw(Json::object()), Error);
}
