#include "memory/guest_memory.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernel_mappings.h"
#include "memory/fault_thread.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;
const Geometry kLargePages{.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 8};

/** A client that counts calls per block and does what the test says. */
class Client final : public TraceClient {
 public:
  Client(uint64_t blocks, std::function<bool(BlockId)> act)
      : calls(std::make_unique<std::atomic<int>[]>(blocks)), act_(std::move(act)) {}
  bool handle(BlockId block) noexcept override {
    calls[block].fetch_add(1);
    return act_(block);
  }
  std::unique_ptr<std::atomic<int>[]> calls;

 private:
  std::function<bool(BlockId)> act_;
};

uint64_t* word(std::byte* view, uint64_t offset) {
  return reinterpret_cast<uint64_t*>(view + offset);
}
uint64_t load(std::byte* view, uint64_t offset) {
  return __atomic_load_n(word(view, offset), __ATOMIC_RELAXED);
}
void store(std::byte* view, uint64_t offset, uint64_t value) {
  __atomic_store_n(word(view, offset), value, __ATOMIC_RELAXED);
}

template <class Body>
void onThreads(unsigned count, Body body) {
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < count; ++i)
    threads.emplace_back([&body, i] {
      GuestMemory::attachThread();
      body(i);
    });
}

}  // namespace

TEST_CASE("guest memory: sizes are checked") {
  CHECK_THROWS_AS(GuestMemory(0, kGeometry), Error);
  CHECK_THROWS_AS(GuestMemory(kGeometry.blockBytes() + 4096, kGeometry), Error);
  CHECK_THROWS_AS(GuestMemory(kGeometry.blockBytes(), kGeometry, "none such"), Error);
  GuestMemory memory(4 * kGeometry.blockBytes(), kGeometry);
  CHECK(memory.blockCount() == 4);
  CHECK(memory.prepareRead(0, memory.bytes()));
  CHECK_FALSE(memory.prepareRead(1, memory.bytes()));
  CHECK_FALSE(memory.prepareWrite(memory.bytes(), 1));
  CHECK_FALSE(memory.prepareWrite(UINT64_MAX, 2));
}

TEST_CASE("guest memory: both views are the same bytes, holes are found") {
  GuestMemory memory(256 * kGeometry.blockBytes(), kGeometry);  // 8 MiB: four huge pages
  CHECK(memory.isHole(255));
  store(memory.guestView(), kGeometry.offsetOf(255), 5);
  CHECK(load(memory.hostView(), kGeometry.offsetOf(255)) == 5);
  CHECK_FALSE(memory.isHole(255));
  CHECK(memory.isHole(0));
  CHECK(memory.isHole(191));
}

TEST_CASE("guest memory: every block is handled once, with the contents from before the write") {
  for (const Geometry& geometry : {kGeometry, kLargePages}) {
    GuestMemory memory(256 * geometry.blockBytes(), geometry);
    const uint64_t blockBytes = geometry.blockBytes();
    for (int round = 1; round <= 4; ++round) {
      for (BlockId b = 0; b < memory.blockCount(); ++b)
        store(memory.hostView(), b * blockBytes, b * 1000 + round);
      std::atomic<int> wrong{0};
      Client client(memory.blockCount(), [&](BlockId b) {
        wrong += load(memory.hostView(), b * blockBytes) != b * 1000 + round;
        return true;
      });
      memory.armWrite(&client);
      CHECK_THROWS_AS(memory.armWrite(&client), Error);
      CHECK(memory.prepareRead(0, memory.bytes()));  // reading needs nothing under a write trace
      CHECK(memory.state(7) == BlockState::traced);
      std::jthread background([&] {
        for (BlockId b = 0; b < memory.blockCount(); b += 8) memory.settle({b, 8}, b % 16 == 0);
      });
      onThreads(3, [&](unsigned i) {
        std::mt19937_64 random(i + 10 * round);
        for (int n = 0; n < 2000; ++n) {
          const uint64_t offset = random() % (memory.bytes() / 8) * 8;
          if (i == 2) {  // a device
            if (!memory.prepareWrite(offset, 8)) ++wrong;
            store(memory.hostView(), offset, random());
          } else {
            store(memory.guestView(), offset, random());
          }
        }
      });
      background.join();
      CHECK(memory.settle({0, memory.blockCount()}, true));
      memory.finish();
      CHECK(wrong == 0);
      int odd = 0;
      for (BlockId b = 0; b < memory.blockCount(); ++b)
        odd += client.calls[b] != 1 || memory.state(b) != BlockState::open;
      CHECK(odd == 0);
      CHECK(memory.counters().mappings == 1);
    }
  }
}

TEST_CASE("guest memory: readers see only what an access trace loaded") {
  GuestMemory memory(256 * kGeometry.blockBytes(), kGeometry);
  Client client(memory.blockCount(), [&](BlockId b) {
    for (uint64_t at = 0; at < kGeometry.blockBytes(); at += 8)
      store(memory.hostView(), kGeometry.offsetOf(b) + at, kGeometry.offsetOf(b) + at + 1);
    return true;
  });
  memory.armAccess(&client);
  std::atomic<int> wrong{0};
  onThreads(4, [&](unsigned i) {
    std::mt19937_64 random(i);
    for (int n = 0; n < 3000; ++n) {
      const uint64_t offset = random() % (memory.bytes() / 8) * 8;
      if (i == 3) wrong += !memory.prepareRead(offset, 8);
      wrong += load(i == 3 ? memory.hostView() : memory.guestView(), offset) != offset + 1;
    }
  });
  CHECK(memory.settle({0, memory.blockCount()}, true));
  memory.finish();
  CHECK(wrong == 0);
}

TEST_CASE("guest memory: a small mapping budget widens lifts and loses nothing") {
  for (const uint64_t limit : {3, 16, 61}) {
    CAPTURE(limit);
    GuestMemory memory(1000 * kGeometry.blockBytes(), kGeometry, "mprotect", limit);
    Client client(memory.blockCount(),
                  [&](BlockId b) { return load(memory.hostView(), kGeometry.offsetOf(b)) == 0; });
    memory.armWrite(&client);
    std::atomic<bool> over{false};
    onThreads(3, [&](unsigned i) {
      std::mt19937_64 random(i);
      for (int n = 0; n < 1500; ++n) {
        store(memory.guestView(), kGeometry.offsetOf(random() % memory.blockCount()), 1);
        if (memory.counters().mappings > limit) over = true;
      }
    });
    CHECK_FALSE(over);
    CHECK(memory.counters().widened > 0);
    CHECK(memory.counters().mappings == kernelMappings(memory.guestView(), memory.bytes()));
    CHECK(memory.settle({0, memory.blockCount()}, true));
    memory.finish();
    CHECK(memory.counters().mappings == 1);
    int odd = 0;
    for (BlockId b = 0; b < memory.blockCount(); ++b) odd += client.calls[b] != 1;
    CHECK(odd == 0);
  }
}

TEST_CASE(
    "guest memory: settling within a spent budget leaves blocks ready, and all of RAM opens") {
  GuestMemory memory(100 * kGeometry.blockBytes(), kGeometry, "mprotect", 3);
  Client client(memory.blockCount(), [](BlockId) { return true; });
  memory.armAccess(&client);
  CHECK(memory.settle({10, 1}, true));
  CHECK(memory.state(10) == BlockState::open);
  CHECK(memory.settle({50, 1}, true));
  CHECK(memory.state(50) == BlockState::ready);
  CHECK(memory.settle({70, 2}, false));
  CHECK(memory.state(70) == BlockState::ready);
  CHECK(memory.settle({0, 100}, true));
  CHECK(memory.state(50) == BlockState::open);
  CHECK(memory.state(70) == BlockState::open);
  memory.finish();
}

TEST_CASE("guest memory: a failed block holds its vCPU until a retry succeeds") {
  GuestMemory memory(16 * kGeometry.blockBytes(), kGeometry);
  std::atomic<bool> broken{true};
  std::atomic<int> failures{0};
  Client client(memory.blockCount(), [&](BlockId b) {
    if (b == 5 && broken) return false;
    store(memory.hostView(), kGeometry.offsetOf(b), 77);
    return true;
  });
  memory.onFailure([&] {
    ++failures;
    failures.notify_all();
  });
  memory.armAccess(&client);
  std::atomic<uint64_t> seen{0};
  std::jthread vcpu([&] {
    GuestMemory::attachThread();
    seen = load(memory.guestView(), kGeometry.offsetOf(5));
  });
  failures.wait(0);
  CHECK(seen == 0);
  CHECK_FALSE(memory.prepareRead(kGeometry.offsetOf(4), 2 * kGeometry.blockBytes()));
  CHECK_FALSE(memory.settle({0, 16}, true));
  CHECK(memory.state(4) == BlockState::open);
  CHECK(memory.state(5) == BlockState::absent);
  CHECK(memory.state(6) == BlockState::open);
  CHECK(failures >= 2);
  memory.retryFailed();  // still broken: fails again
  broken = false;
  memory.retryFailed();
  vcpu.join();
  CHECK(seen == 77);
  CHECK(memory.settle({0, 16}, true));
  memory.finish();
}

TEST_CASE("guest memory: abandon gets vCPUs out of their faults") {
  GuestMemory memory(16 * kGeometry.blockBytes(), kGeometry);
  Client client(memory.blockCount(), [](BlockId) { return false; });
  std::atomic<int> failures{0};
  memory.onFailure([&] {
    ++failures;
    failures.notify_all();
  });
  memory.armAccess(&client);
  std::atomic<int> escaped{0};
  std::vector<std::jthread> vcpus;
  for (int i = 0; i < 2; ++i)
    vcpus.emplace_back([&, i] {
      GuestMemory::attachThread();
      for (int again = 0; again < 2; ++again)  // after abandon() a later fault escapes at once
        escaped += !GuestMemory::runGuarded(
            [&] { load(memory.guestView(), kGeometry.offsetOf(static_cast<BlockId>(i))); });
    });
  for (int now = failures; now < 2; now = failures) failures.wait(now);
  CHECK(escaped == 0);
  memory.abandon();
  for (auto& vcpu : vcpus) vcpu.join();
  CHECK(escaped == 4);
  CHECK(GuestMemory::runGuarded([] {}));
}

TEST_CASE("guest memory: disarm opens what is left without the client") {
  GuestMemory memory(512 * kGeometry.blockBytes(), kGeometry);
  Client client(memory.blockCount(), [](BlockId) { return true; });
  for (int round = 0; round < 10; ++round) {
    memory.armWrite(&client);
    std::jthread vcpu([&] {
      GuestMemory::attachThread();
      for (BlockId b = 0; b < memory.blockCount(); ++b)
        store(memory.guestView(), kGeometry.offsetOf(b), 1);
    });
    memory.disarm();
    memory.finish();
    vcpu.join();
    int open = 0;
    for (BlockId b = 0; b < memory.blockCount(); ++b) open += memory.state(b) == BlockState::open;
    CHECK(open == 512);
  }
}

TEST_CASE("guest memory: thread indexes are small and reused") {
  std::jthread([] {
    CHECK(GuestMemory::threadIndex() == kNoThreadIndex);
    GuestMemory::attachThread();
    const unsigned mine = GuestMemory::threadIndex();
    GuestMemory::attachThread();
    CHECK(GuestMemory::threadIndex() == mine);
    unsigned other = mine;
    for (int i = 0; i < 3; ++i) {
      std::jthread([&] {
        GuestMemory::attachThread();
        const unsigned before = other;
        other = GuestMemory::threadIndex();
        if (i > 0) CHECK(other == before);
      }).join();
      CHECK(other != mine);
    }
  }).join();
}
