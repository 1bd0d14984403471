// Blocks follow their code, and the arena stays within its bounds.
#include "cpu/rv64/block_cache.h"

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

namespace ckptfs::rv64::test {
namespace {

struct Fixture {
  Fixture()
      : ram(kBytes / 8),
        handlers(size_t(Op::count)),
        cache({bytes(), 0x80000000, kBytes}, handlers.data()) {
    for (size_t i = 0; i < handlers.size(); ++i) handlers[i] = &handlers[i];
  }
  static constexpr uint64_t kBytes = 8 << 20;
  std::byte* bytes() { return reinterpret_cast<std::byte*>(ram.data()); }
  void word(uint64_t offset, uint32_t value) { std::memcpy(bytes() + offset, &value, 4); }
  Op opOf(const DecodedOp& op) {
    return Op(static_cast<const void* const*>(op.handler) - handlers.data());
  }

  std::vector<uint64_t> ram;
  std::vector<const void*> handlers;
  BlockCache cache;
};

constexpr uint32_t kNop = 0x00000013, kRet = 0x00008067;

}  // namespace

TEST_CASE("a block ends at a jump, at its page and at its limit") {
  Fixture f;
  f.word(0, kNop);
  f.word(4, kRet);
  Block* block = f.cache.at(0);
  REQUIRE(block != nullptr);
  CHECK(block->count == 2);
  CHECK(block->bytes == 8);
  CHECK(f.opOf(block->ops()[1]) == Op::Jalr);
  CHECK(block->rawAt(4) == kRet);

  for (uint64_t at = 4096; at < 12288; at += 4) f.word(at, kNop);
  block = f.cache.at(4096);
  CHECK(block->count == BlockCache::kMaxCount);
  CHECK(f.opOf(block->ops()[block->count]) == Op::Next);
  block = f.cache.at(8192 - 8);
  CHECK(block->count == 2);
  f.word(8192 - 2, kNop);
  CHECK(f.cache.at(8192 - 2) == nullptr);
  block = f.cache.straddling(8192 - 2, 8192);
  CHECK(block->count == 1);
  CHECK(block->rawAt(0) == kNop);
}

TEST_CASE("fence.i keeps blocks whose bytes are the same, and replaces the others") {
  Fixture f;
  for (const uint32_t words : {1u, 3u, 7u}) {
    const uint64_t start = words * 4096 + 4;
    for (uint32_t i = 0; i < words; ++i) f.word(start + 4 * i, kNop);
    f.word(start + 4 * words, kRet);
    Block* block = f.cache.at(start);
    CHECK(f.cache.at(start) == block);
    f.cache.fence();
    CHECK(f.cache.at(start) == block);
    for (uint32_t changed = 0; changed <= words; ++changed) {
      f.word(start + 4 * changed, 0x00100073);
      CHECK(f.cache.at(start) == block);  // not seen before the fence
      f.cache.fence();
      Block* fresh = f.cache.at(start);
      CHECK(fresh != block);
      CHECK(fresh->count == changed + 1);
      CHECK(block->epoch != f.cache.epoch);
      f.word(start + 4 * changed, changed == words ? kRet : kNop);
      f.cache.fence();
      block = f.cache.at(start);
      CHECK(block->count == words + 1);
    }
  }
}

TEST_CASE("a full arena starts again empty") {
  Fixture f;
  for (uint64_t at = 0; at < Fixture::kBytes; at += 4) f.word(at, kRet);
  const uint64_t before = f.cache.generation;
  for (uint64_t at = 0; at < Fixture::kBytes; at += 4) {
    Block* block = f.cache.at(at);
    REQUIRE(block->offset == at);
    REQUIRE(block->count == 1);
  }
  CHECK(f.cache.generation > before);
  CHECK(f.cache.at(0)->offset == 0);
}

}  // namespace ckptfs::rv64::test
