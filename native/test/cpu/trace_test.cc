// vCPUs on traced memory: every way in which a hart touches RAM loads, saves and notes blocks, with
// every trace engine.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/rv64/mmu.h"
#include "memory/trace_engine.h"
#include "test/cpu/random_program.h"
#include "test/cpu/test_machine.h"
#include "test/memory/guest_access.h"

namespace ckptfs::rv64::test {
namespace {

using Image = std::vector<std::byte>;

const Geometry kGeometry;
constexpr uint64_t kBase = TestMachine::kRamBase;

/** Loads from an image of RAM, leaves holes where that is zero. */
class Loader final : public TraceClient {
 public:
  Loader(GuestMemory& memory, Image image) : memory_(memory), image_(std::move(image)) {}
  bool handle(BlockId block, Cause) noexcept override {
    const std::byte* const from = &image_[kGeometry.offsetOf(block)];
    if (std::any_of(from, from + kGeometry.blockBytes(), [](auto b) { return b != std::byte{}; }))
      std::memcpy(memory_.hostView() + kGeometry.offsetOf(block), from, kGeometry.blockBytes());
    return true;
  }

 private:
  GuestMemory& memory_;
  const Image image_;
};

/** Puts what it saves over an image. */
class Saver final : public TraceClient {
 public:
  Saver(const GuestMemory& memory, Image& image) : memory_(memory), image_(image) {}
  bool handle(BlockId block, Cause) noexcept override {
    const uint64_t at = kGeometry.offsetOf(block);
    std::memcpy(&image_[at], memory_.hostView() + at, kGeometry.blockBytes());
    return true;
  }

 private:
  const GuestMemory& memory_;
  Image& image_;
};

Image imageOf(const std::vector<uint8_t>& program) {
  Image image(TestMachine::kRamBytes);
  std::memcpy(image.data(), program.data(), program.size());
  return image;
}

Image copyOf(const GuestMemory& memory) {
  return {memory.hostView(), memory.hostView() + memory.bytes()};
}

/** The random program and the loop that calls it 200 times. */
Image loopImage() {
  Image image = imageOf(integerProgram(7).image);
  const auto loop = loadGuest("call_loop");
  std::memcpy(&image[RandomProgram::kImageBytes], loop.data(), loop.size());
  return image;
}
constexpr uint64_t kLoop = kBase + RandomProgram::kImageBytes;

}  // namespace

TEST_CASE("traces: guests run on memory that is loaded as they need it") {
  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    uint64_t dirty = 0;
    for (const std::string name : {"traps", "memory_code", "sbi", "smp"}) {
      CAPTURE(name);
      TestMachine machine(name == "smp" ? 2 : 1, engine);
      Loader loader(machine.memory, imageOf(loadGuest(name)));
      machine.memory.track(true);
      machine.memory.armAccess(&loader);
      CHECK(machine.run() == 0);
      uint64_t absent = 0;
      for (BlockId block = 0; block < machine.memory.blockCount(); ++block)
        absent += machine.memory.state(block) == BlockState::absent;
      CHECK(absent > 0);
      if (name == "sbi") CHECK(machine.host.console == "hello\nxy");
      dirty += machine.memory.dirtyBlocks();
    }
    CHECK(dirty > 0);
  }
}

TEST_CASE("traces: a console call loads its text, which may lie in two blocks") {
  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    TestMachine machine(1, engine);
    Image image(TestMachine::kRamBytes);
    const uint32_t program[] = {0x444248b7, 0x34e8889b, 0x00000813, 0x00800513, 0x800085b7,
                                0x02059593, 0x0205d593, 0xffc58593, 0x00000613, 0x00000073,
                                0x535258b7, 0x3548889b, 0x00000813, 0x00000513, 0x00000593,
                                0x00000073};  // DBCN write of 8 bytes at kBase + 0x7ffc, then SRST
    std::memcpy(image.data(), program, sizeof program);
    std::memcpy(&image[0x7ffc], "two-part", 8);
    Loader loader(machine.memory, image);
    machine.memory.armAccess(&loader);
    CHECK(machine.run() == 0);
    CHECK(machine.host.console == "two-part");
  }
}

TEST_CASE("traces: checkpoints of a running hart equal its pauses, and change no result") {
  TestMachine whole;
  const Image image = loopImage();
  whole.write(kBase, image.data(), image.size());
  CHECK(whole.run(kLoop) == 0);
  const uint64_t expected = hashOf(whole.at(RandomProgram::kResults));

  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    TestMachine machine(1, engine);
    GuestMemory& memory = machine.memory;
    machine.write(kBase, image.data(), image.size());
    machine.cpus->reset(kLoop, 0);
    memory.track(true);
    Image saved(memory.bytes());
    std::vector<uint8_t> traced(memory.blockCount());
    int saves = 0, incremental = 0, wrong = 0;
    while (machine.host.exits.empty()) {
      std::thread runner([&] { machine.resume(); });
      std::this_thread::sleep_for(std::chrono::microseconds(50 + saves * 7 % 400));
      memory.armAhead({0, memory.blockCount()});
      machine.cpus->vcpu(0).requestExit();
      runner.join();

      const Image oracle = copyOf(memory);
      Saver saver(memory, saved);
      memory.armWrite(&saver, saves > 0, traced);
      if (memory.softTraced()) machine.cpus->flushTranslations();
      incremental += std::find(traced.begin(), traced.end(), 0) != traced.end();
      std::thread again([&] { machine.resume(); });
      CHECK(memory.settleSave({0, memory.blockCount()}));
      machine.cpus->vcpu(0).requestExit();
      again.join();
      memory.endSave(true);
      wrong += saved != oracle;
      ++saves;
    }
    CHECK(wrong == 0);
    CHECK(saves > 1);
    CHECK(incremental == saves - 1);
    CHECK(machine.host.exits[0].reason == 0);
    CHECK(hashOf(machine.at(RandomProgram::kResults)) == expected);
  }
}

TEST_CASE("traces: the page table walker loads tables, and its updates are writes") {
  constexpr uint64_t kRoot = 0, kMiddle = 0x10000, kLeaves = 0x20000, kTarget = 0x100000;
  constexpr uint64_t V = 1, R = 2, W = 4;
  constexpr uint64_t kVirtual = 0x40000000;
  Image image(TestMachine::kRamBytes);
  const auto set = [&](uint64_t offset, uint64_t value) { std::memcpy(&image[offset], &value, 8); };
  set(kRoot + 8, (kBase + kMiddle) >> 2 | V);
  set(kMiddle, (kBase + kLeaves) >> 2 | V);
  set(kLeaves, (kBase + kTarget) >> 2 | V | R | W);
  set(kTarget + 8, 77);

  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    GuestMemory::attachThread();
    GuestMemory memory(image.size(), kGeometry, engine);
    Loader loader(memory, image);
    memory.track(true);
    memory.armAccess(&loader);
    HartState state;
    state.satp = satp::kSv39 << satp::kModeShift | (kBase + kRoot) >> 12;
    TestHost host;
    Mmu mmu({memory.guestView(), kBase, memory.bytes(), &memory}, state, host);
    const auto blockState = [&](uint64_t offset) {
      return memory.state(kGeometry.blockOf(offset));
    };
    uint64_t value = 0;
    CHECK(mmu.load(kVirtual + 8, 8, value));
    CHECK(value == 77);
    CHECK(blockState(kRoot) == BlockState::clean);
    CHECK(blockState(kLeaves) == BlockState::open);  // the accessed bit
    CHECK(blockState(kTarget) == BlockState::clean);
    CHECK(blockState(kTarget + kGeometry.blockBytes()) == BlockState::absent);
    CHECK(mmu.store(kVirtual + 8, 8, 78));
    CHECK(blockState(kTarget) == BlockState::open);
    std::vector<uint8_t> used(memory.blockCount());
    memory.harvestAccessed(used);
    for (const uint64_t offset : {kRoot, kMiddle, kLeaves, kTarget})
      CHECK(used[kGeometry.blockOf(offset)] == 1);
    CHECK(std::count(used.begin(), used.end(), 1) == 4);

    // A save, after which the dirty bit is set already, and a translation for writes may not be.
    Image saved(memory.bytes());
    Saver saver(memory, saved);
    std::vector<uint8_t> traced(memory.blockCount());
    memory.armWrite(&saver, true, traced);
    mmu.flush();
    CHECK(mmu.load(kVirtual + 8, 8, value));
    CHECK(value == 78);
    CHECK(blockState(kTarget) == BlockState::traced);
    CHECK(blockState(kLeaves) == BlockState::traced);
    CHECK(mmu.store(kVirtual + 8, 8, 79));
    CHECK(blockState(kTarget) == BlockState::open);
    CHECK(blockState(kLeaves) == BlockState::traced);
    std::memcpy(&value, &saved[kTarget + 8], 8);
    CHECK(value == 78);
    memory.endSave(false);
  }
}

TEST_CASE("traces: forgetting translations makes a running hart note its accesses again") {
  for (const std::string& engine : usableEngines()) {
    CAPTURE(engine);
    TestMachine machine(1, engine);
    // Stores to one far page for ever: lui t0, 0x80400; slli t0, 32; srli t0, 32; sd x0, 0(t0); j
    // -4
    machine.write32(kBase, {0x804002b7, 0x02029293, 0x0202d293, 0x0002b023, 0xffdff06f});
    machine.cpus->reset(kBase, 0);
    std::thread runner([&] { machine.resume(); });
    const BlockId code = 0, target = kGeometry.blockOf(0x400000);
    std::vector<uint8_t> used(machine.memory.blockCount());
    // The two are noted at different times, so a harvest may have one without the other.
    const auto waitFor = [&](BlockId block) {
      while (machine.memory.harvestAccessed(used), used[block] == 0) std::this_thread::yield();
    };
    waitFor(code);
    waitFor(target);
    const uint64_t since = machine.cpus->vcpu(0).instructions();
    while (machine.cpus->vcpu(0).instructions() < since + 10'000) std::this_thread::yield();
    machine.memory.harvestAccessed(used);
    std::fill(used.begin(), used.end(), 0);
    const uint64_t quiet = machine.cpus->vcpu(0).instructions();
    while (machine.cpus->vcpu(0).instructions() < quiet + 10'000) std::this_thread::yield();
    machine.memory.harvestAccessed(used);
    CHECK(std::count(used.begin(), used.end(), 1) == 0);  // the translations stand
    machine.cpus->flushTranslations();
    waitFor(code);
    waitFor(target);
    machine.cpus->vcpu(0).requestExit();
    runner.join();
  }
}

TEST_CASE("traces: a hart that waits for memory leaves when it is abandoned, and is whole after") {
  TestMachine machine(1, kSoftEngine);
  class Failing final : public TraceClient {
    bool handle(BlockId, Cause) noexcept override { return false; }
  } loader;
  std::atomic<int> failures{0};
  machine.memory.onFailure([&] {
    ++failures;
    failures.notify_all();
  });
  machine.memory.armAccess(&loader);
  machine.cpus->reset(kBase, 0);
  std::atomic<bool> escaped{false};
  std::thread runner([&] {
    GuestMemory::attachThread();
    escaped = !GuestMemory::runGuarded([&] { machine.cpus->vcpu(0).run(); });
  });
  failures.wait(0);
  machine.memory.abandon();
  runner.join();
  CHECK(escaped);
  CHECK(machine.cpus->vcpu(0).instructions() == 0);
}

}  // namespace ckptfs::rv64::test
