#include "devices/virtio/queue.h"

#include <doctest/doctest.h>

#include <random>

#include "base/error.h"
#include "test/devices/virtio_driver.h"

using namespace ckptfs;
using D = TestDriver;
using Peek = VirtQueue::Peek;

namespace {

constexpr uint64_t kRamBytes = 1 << 20;
constexpr uint64_t kRamEnd = D::kRamBase + kRamBytes;
constexpr uint64_t kTable = D::kRamBase + 0x3000;  // an indirect table

struct Rig {
  explicit Rig(uint16_t size = 8) {
    state = {.size = size,
             .ready = true,
             .descriptors = D::kDescriptors,
             .available = D::kAvailable,
             .used = D::kUsed};
  }
  GuestMemory memory{kRamBytes, Geometry{}};
  GuestRam ram{memory, D::kRamBase};
  QueueState state;
  VirtQueue queue{ram, state};
  DescriptorChain chain;

  std::byte* at(uint64_t address) { return memory.hostView() + (address - D::kRamBase); }
  template <class T>
  void put(uint64_t address, T value) {
    std::memcpy(at(address), &value, sizeof value);
  }
  void describe(uint16_t index, uint64_t address, uint32_t length, uint16_t flags = 0,
                uint16_t next = 0, uint64_t table = D::kDescriptors) {
    put(table + index * 16u, D::Descriptor{address, length, flags, next});
  }
  void offer(uint16_t head, uint16_t count = 1) {
    put(D::kAvailable + 4 + state.nextAvailable % state.size * 2u, head);
    put(D::kAvailable + 2, uint16_t(state.nextAvailable + count));
  }
  Peek peek(bool indirect = true) { return queue.peek(indirect, chain); }
};

}  // namespace

TEST_CASE("queue: a chain is read, taken and returned") {
  Rig rig;
  CHECK(rig.queue.valid());
  CHECK(rig.peek() == Peek::empty);
  rig.describe(5, D::kData, 16, D::kNext, 1);
  rig.describe(1, D::kData + 0x100, 512, D::kNext | D::kWrite, 7);
  rig.describe(7, D::kData + 0x400, 1, D::kWrite);
  rig.offer(5);
  for (int again = 0; again < 2; ++again) {  // peeking consumes nothing
    REQUIRE(rig.peek() == Peek::chain);
    CHECK(rig.chain.head == 5);
    CHECK(rig.chain.readable == std::vector<Segment>{{D::kData, 16}});
    CHECK(rig.chain.writable ==
          std::vector<Segment>{{D::kData + 0x100, 512}, {D::kData + 0x400, 1}});
    CHECK(rig.chain.readableBytes == 16);
    CHECK(rig.chain.writableBytes == 513);
  }
  rig.queue.take();
  CHECK(rig.peek() == Peek::empty);
  CHECK(rig.queue.push(5, 513));
  D::Used used;
  std::memcpy(&used, rig.at(D::kUsed + 4), sizeof used);
  CHECK(used.id == 5);
  CHECK(used.length == 513);
  uint16_t index;
  std::memcpy(&index, rig.at(D::kUsed + 2), sizeof index);
  CHECK(index == 1);
  CHECK(rig.queue.wantsInterrupt());
  rig.put(D::kAvailable, uint16_t{1});
  CHECK_FALSE(rig.queue.wantsInterrupt());
}

TEST_CASE("queue: indices wrap around") {
  Rig rig(4);
  rig.describe(0, D::kData, 8, D::kWrite);
  rig.state.nextAvailable = rig.state.nextUsed = 0xfffe;
  for (int i = 0; i < 6; ++i) {
    rig.offer(0);
    REQUIRE(rig.peek() == Peek::chain);
    rig.queue.take();
    REQUIRE(rig.queue.push(0, 8));
  }
  CHECK(rig.state.nextAvailable == 4);
  CHECK(rig.state.nextUsed == 4);
  CHECK(rig.peek() == Peek::empty);
}

TEST_CASE("queue: broken rings are refused") {
  Rig rig;
  rig.describe(0, D::kData, 8);
  SUBCASE("more available than the queue holds") {
    rig.offer(0, 9);
  }
  SUBCASE("the available index went backwards") {
    rig.offer(0, 0xffff);
  }
  SUBCASE("head out of range") {
    rig.offer(8);
  }
  SUBCASE("head far out of range") {
    rig.offer(0xffff);
  }
  SUBCASE("link out of range") {
    rig.describe(0, D::kData, 8, D::kNext, 8);
    rig.offer(0);
  }
  SUBCASE("a descriptor that links to itself") {
    rig.describe(0, D::kData, 8, D::kNext, 0);
    rig.offer(0);
  }
  SUBCASE("a loop through all descriptors") {
    for (uint16_t i = 0; i < 8; ++i) rig.describe(i, D::kData, 8, D::kNext, (i + 1) % 8);
    rig.offer(0);
  }
  SUBCASE("readable after writable") {
    rig.describe(0, D::kData, 8, D::kNext | D::kWrite, 1);
    rig.describe(1, D::kData, 8);
    rig.offer(0);
  }
  SUBCASE("below RAM") {
    rig.describe(0, D::kRamBase - 1, 2);
    rig.offer(0);
  }
  SUBCASE("past the end of RAM") {
    rig.describe(0, kRamEnd - 8, 9, D::kWrite);
    rig.offer(0);
  }
  SUBCASE("at address 0") {
    rig.describe(0, 0, 1);
    rig.offer(0);
  }
  SUBCASE("wraps around the address space") {
    rig.describe(0, UINT64_MAX - 3, 8);
    rig.offer(0);
  }
  SUBCASE("longer than RAM") {
    rig.describe(0, D::kRamBase, UINT32_MAX);
    rig.offer(0);
  }
  CHECK(rig.peek() == Peek::broken);
  CHECK(rig.state.nextAvailable == 0);
}

TEST_CASE("queue: the longest chain is the queue's size") {
  Rig rig;
  for (uint16_t i = 0; i < 8; ++i)
    rig.describe(i, kRamEnd - 4, 4, i < 7 ? D::kNext : 0, uint16_t(i + 1));
  rig.offer(0);
  REQUIRE(rig.peek() == Peek::chain);
  CHECK(rig.chain.readable.size() == 8);
  CHECK(rig.chain.readableBytes == 32);
}

TEST_CASE("queue: indirect tables") {
  Rig rig;
  const auto table = [&](uint16_t count) {
    for (uint16_t i = 0; i < count; ++i)
      rig.describe(i, D::kData + i, 1, i + 1 < count ? D::kNext : 0, uint16_t(i + 1), kTable);
  };
  rig.offer(0);

  SUBCASE("alone, longer than the queue, with its write flag ignored") {
    table(kQueueSizeMax);
    rig.describe(0, kTable, kQueueSizeMax * 16, D::kIndirect | D::kWrite);
    REQUIRE(rig.peek() == Peek::chain);
    CHECK(rig.chain.readable.size() == kQueueSizeMax);
    CHECK(rig.chain.writable.empty());
    CHECK(rig.peek(false) == Peek::broken);  // not negotiated
  }
  SUBCASE("after ordinary descriptors") {
    table(2);
    rig.describe(0, D::kData + 0x80, 4, D::kNext, 3);
    rig.describe(3, kTable, 32, D::kIndirect);
    REQUIRE(rig.peek() == Peek::chain);
    CHECK(rig.chain.readable ==
          std::vector<Segment>{{D::kData + 0x80, 4}, {D::kData, 1}, {D::kData + 1, 1}});
  }
  SUBCASE("with a link beside it") {
    table(2);
    rig.describe(0, kTable, 32, D::kIndirect | D::kNext, 1);
    CHECK(rig.peek() == Peek::broken);
  }
  SUBCASE("inside another") {
    rig.describe(0, kTable, 16, D::kIndirect);
    rig.describe(0, kTable, 16, D::kIndirect, 0, kTable);
    CHECK(rig.peek() == Peek::broken);
  }
  SUBCASE("looping") {
    rig.describe(0, kTable, 32, D::kIndirect);
    rig.describe(0, D::kData, 1, D::kNext, 1, kTable);
    rig.describe(1, D::kData, 1, D::kNext, 0, kTable);
    CHECK(rig.peek() == Peek::broken);
  }
  SUBCASE("linking past its end") {
    table(3);
    rig.describe(0, kTable, 32, D::kIndirect);
    CHECK(rig.peek() == Peek::broken);
  }
  SUBCASE("empty, of a bad length, too long, or not in RAM") {
    table(2);
    for (const uint32_t length :
         {0u, 8u, 31u, 33u, uint32_t(kQueueSizeMax + 1) * 16, UINT32_MAX - 15}) {
      CAPTURE(length);
      rig.describe(0, kTable, length, D::kIndirect);
      CHECK(rig.peek() == Peek::broken);
    }
    rig.describe(0, kRamEnd - 16, 32, D::kIndirect);
    CHECK(rig.peek() == Peek::broken);
    rig.describe(0, 0, 32, D::kIndirect);
    CHECK(rig.peek() == Peek::broken);
  }
}

TEST_CASE("queue: random rings never lead outside RAM") {
  Rig rig(16);
  std::mt19937_64 random(7);
  int chains = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto scramble = [&](uint64_t table, uint16_t count) {
      for (uint16_t i = 0; i < count; ++i) {
        // Mostly good values, so that walks go deep before they meet a bad one.
        const uint64_t address = random() % 16 ? D::kData + random() % 0x1000 : random();
        const uint32_t length = random() % 16 ? random() % 0x1000 : uint32_t(random());
        const uint16_t flags = random() % 8 ? random() % 2 : random() % 8;
        rig.describe(i, random() % 8 ? address : kTable, length, flags, random() % (count + 1),
                     table);
      }
    };
    scramble(D::kDescriptors, 16);
    scramble(kTable, 16);
    rig.offer(uint16_t(random() % 17));
    if (rig.peek() != Peek::chain) continue;
    ++chains;
    CHECK(rig.chain.readable.size() + rig.chain.writable.size() <= 16 + kQueueSizeMax);
    for (const auto& list : {rig.chain.readable, rig.chain.writable})
      for (const Segment& segment : list)
        REQUIRE(rig.ram.contains(segment.address, segment.length));
  }
  CHECK(chains > 100);
}

TEST_CASE("queue: layouts that cannot be are not valid") {
  Rig rig;
  const QueueState good = rig.state;
  const auto invalid = [&](auto change) {
    rig.state = good;
    change(rig.state);
    CHECK_FALSE(rig.queue.valid());
  };
  invalid([](QueueState& s) { s.size = 0; });
  invalid([](QueueState& s) { s.size = 7; });
  invalid([](QueueState& s) { s.size = kQueueSizeMax * 2; });
  invalid([](QueueState& s) { s.descriptors += 8; });
  invalid([](QueueState& s) { s.available += 1; });
  invalid([](QueueState& s) { s.used += 2; });
  invalid([](QueueState& s) { s.descriptors = kRamEnd - 64; });
  invalid([](QueueState& s) { s.available = 0; });
  invalid([](QueueState& s) { s.used = kRamEnd - 64; });
  invalid([](QueueState& s) { s.used = UINT64_MAX - 3; });
  rig.state = good;
  rig.state.used = kRamEnd - 4 - 8 * 8;
  CHECK(rig.queue.valid());
}

TEST_CASE("queue: rings that cannot be loaded are looked at again later") {
  Rig rig;
  FailingClient loader(rig.memory, 0);
  rig.memory.armAccess(&loader);
  CHECK(rig.peek() == Peek::unavailable);
  CHECK_FALSE(rig.queue.push(0, 8));
  CHECK(rig.state.nextUsed == 0);
  loader.allowed = true;
  CHECK(rig.peek() == Peek::empty);
  rig.describe(0, D::kData, 8, D::kWrite);
  rig.offer(0);
  CHECK(rig.peek() == Peek::chain);
  rig.queue.take();
  CHECK(rig.queue.push(0, 8));
}

TEST_CASE("segments: gather and scatter cut across segments, as a flat copy would") {
  Rig rig;
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<Segment> segments;
    std::vector<uint64_t> flat;  // address of every byte
    for (unsigned i = 0; i < 1 + random() % 6; ++i) {
      segments.push_back({D::kData + i * 0x9000 + random() % 64, uint32_t(random() % 50)});
      for (uint32_t b = 0; b < segments.back().length; ++b)
        flat.push_back(segments.back().address + b);
    }
    const size_t skip = random() % (flat.size() + 1);
    std::vector<std::byte> bytes(random() % (flat.size() - skip + 1));
    for (auto& byte : bytes) byte = std::byte(random());
    REQUIRE(scatter(rig.ram, segments, skip, bytes));
    bool same = true;
    for (size_t i = 0; i < bytes.size(); ++i) same = same && *rig.at(flat[skip + i]) == bytes[i];
    CHECK(same);
    std::vector<std::byte> back(bytes.size());
    REQUIRE(gather(rig.ram, segments, skip, back));
    CHECK(back == bytes);
  }
}
