// The formats as docs/checkpoint-format.md has them: offsets are spelled out here once more, so
// that a change of a struct cannot pass unnoticed.
#include "checkpoint/image/format.h"

#include <doctest/doctest.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "checkpoint/image/io_block_index.h"
#include "checkpoint/image/memory_map.h"
#include "checkpoint/save/saver.h"
#include "guest_threads.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

using Bytes = std::vector<uint8_t>;

Bytes contentsOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint64_t number(const Bytes& bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | bytes.at(at + i);
  return value;
}
uint64_t u32(const Bytes& bytes, size_t at) {
  return number(bytes, at, 4);
}
uint64_t u64(const Bytes& bytes, size_t at) {
  return number(bytes, at, 8);
}
std::string text(const Bytes& bytes, size_t at, size_t length) {
  return {reinterpret_cast<const char*>(bytes.data()) + at, length};
}
uint64_t hash(const Bytes& bytes, size_t at, size_t length) {
  REQUIRE(at + length <= bytes.size());
  return XXH3_64bits(bytes.data() + at, length);
}
bool zeros(const Bytes& bytes, size_t from, size_t to) {
  return std::all_of(bytes.begin() + static_cast<ptrdiff_t>(from),
                     bytes.begin() + static_cast<ptrdiff_t>(to), [](uint8_t b) { return b == 0; });
}

constexpr Geometry kSmall{.pageBytes = 4096, .pagesPerBlock = 2, .blocksPerIoBlock = 2};

MemoryMap sampleMap() {
  MemoryMap map;
  map.geometry = kSmall;
  map.memoryBytes = 4 * kSmall.blockBytes();
  for (const auto kind : {format::SegmentKind::hot, format::SegmentKind::cold}) {
    format::MapSegment segment = {};
    segment.kind = kind;
    segment.bytes = 4096 * 5;
    segment.ioBlocks = 1;
    std::strcpy(segment.name, kind == format::SegmentKind::hot ? "a.hot" : "b.cold");
    map.segments.push_back(segment);
  }
  map.ioBlocks = {{0, 1, 4096, 12288, 0, 77}, {1, 1, 4096, 4096, 0, 78}};
  map.blocks = {{0, 64, 8192, format::Codec::raw, 0, {}, 5},
                {format::kNoIoBlock, 0, 0, format::Codec::zero, 0, {}, 0},
                {1, 64, 100, format::Codec::lz4, 0, {}, 6},
                {1, 164, 7, format::Codec::zstd, format::kAlias, {}, 9}};
  return map;
}

/** Encodes a map after a change to one of its values; the checksum is right. */
void refused(const std::function<void(MemoryMap&)>& change) {
  MemoryMap map = sampleMap();
  change(map);
  CHECK_THROWS_AS(MemoryMap::decode(map.encode(), "m"), Error);
}

}  // namespace

TEST_CASE("format: files written by a saver, field by field") {
  const TempDirectory directory;
  GuestMemory memory(4 * kSmall.blockBytes(), kSmall);
  for (uint64_t at = 0; at < kSmall.blockBytes(); at += 8) {
    storeWord(memory.hostView(), kSmall.offsetOf(1) + at, at * 0x9e3779b97f4a7c15);  // stays raw
    storeWord(memory.hostView(), kSmall.offsetOf(2) + at, 1);                        // LZ4
    storeWord(memory.hostView(), kSmall.offsetOf(3) + at, 2);
  }
  {
    Saver saver(memory, {directory.path(), format::Codec::lz4, 1});
    saver.arm();
    for (const BlockId block : {2, 1}) memory.prepareWrite(kSmall.offsetOf(block), 1);
    saver.start();
    saver.wait();
  }
  const Bytes map = contentsOf(directory.path() + "/memory.map");
  REQUIRE(map.size() == 64 + 2 * 96 + 2 * 32 + 4 * 24 + 8);
  CHECK(text(map, 0, 8) == std::string("CKPTMAP\0", 8));
  CHECK(u32(map, 8) == 2);
  CHECK(u32(map, 12) == 64);
  CHECK(u64(map, 16) == map.size());
  CHECK(u64(map, 24) == 32768);
  CHECK(u32(map, 32) == 4096);
  CHECK(u32(map, 36) == 2);
  CHECK(u32(map, 40) == 2);
  CHECK(u32(map, 44) == 2);
  CHECK(u64(map, 48) == 2);
  CHECK(u64(map, 56) == 4);
  CHECK(u64(map, map.size() - 8) == hash(map, 0, map.size() - 8));

  // Segment 0: blocks 2 and 1, in the order in which they were written to.
  const Bytes hot = contentsOf(directory.path() + "/" + text(map, 64 + 40, 32 + 4));
  CHECK(u32(map, 64 + 16) == 0);
  CHECK(u32(map, 64 + 20) == 0);
  CHECK(u64(map, 64 + 24) == hot.size());
  CHECK(u64(map, 64 + 32) == 1);
  CHECK(zeros(map, 64 + 40 + 36, 64 + 96));
  CHECK(text(hot, 0, 8) == std::string("CKPTSEG\0", 8));
  CHECK(u32(hot, 8) == 2);
  CHECK(u32(hot, 12) == 4096);
  CHECK(text(hot, 16, 16) == text(map, 64, 16));
  CHECK(u32(hot, 32) == 4096);
  CHECK(u32(hot, 36) == 2);
  CHECK(u32(hot, 40) == 2);
  CHECK(u32(hot, 44) == 0);
  CHECK(u64(hot, 48) == 32768);
  CHECK(u64(hot, 56) == hash(hot, 0, 56));
  CHECK(zeros(hot, 64, 4096));

  const size_t io = 4096;
  CHECK(text(hot, io, 8) == std::string("CKPTIOB\0", 8));
  CHECK(u64(hot, io + 8) == 0);
  CHECK(u32(hot, io + 16) == 2);
  CHECK(u32(hot, io + 20) == 12288);
  CHECK(u32(hot, io + 28) == 0);
  Bytes covered(hot.begin() + io, hot.begin() + io + 32);
  covered.insert(covered.end(), hot.begin() + io + 40, hot.begin() + io + 88);
  CHECK(u64(hot, io + 32) == hash(covered, 0, covered.size()));
  const uint64_t lz4 = u32(hot, io + 48);
  CHECK(u32(hot, io + 24) == lz4 + 8192);
  CHECK(u64(hot, io + 40) == 2);  // first entry: block 2, LZ4
  CHECK(hot[io + 52] == 1);
  CHECK(zeros(hot, io + 53, io + 56));
  CHECK(u64(hot, io + 56) == hash(hot, io + 88, lz4));
  CHECK(u64(hot, io + 64) == 1);  // second entry: block 1, raw
  CHECK(u32(hot, io + 72) == 8192);
  CHECK(hot[io + 76] == 0);
  CHECK(u64(hot, io + 80) == hash(hot, io + 88 + lz4, 8192));
  CHECK(std::memcmp(hot.data() + io + 88 + lz4, memory.hostView() + kSmall.offsetOf(1), 8192) == 0);
  CHECK(zeros(hot, io + 88 + lz4 + 8192, io + 12288));

  const size_t seal = io + 12288;
  REQUIRE(hot.size() == seal + 4096);
  CHECK(text(hot, seal, 8) == std::string("CKPTEND\0", 8));
  CHECK(u64(hot, seal + 8) == 1);
  CHECK(u64(hot, seal + 16) == 2);
  CHECK(u64(hot, seal + 24) == hot.size());
  CHECK(u64(hot, seal + 32) == hash(hot, seal, 32));
  CHECK(zeros(hot, seal + 40, seal + 4096));

  const size_t ioTable = 64 + 2 * 96;
  const size_t row = ioTable;
  CHECK(u32(map, row) == 0);
  CHECK(u32(map, row + 4) == 2);
  CHECK(u64(map, row + 8) == 4096);
  CHECK(u32(map, row + 16) == 12288);
  CHECK(u32(map, row + 20) == 0);
  CHECK(u64(map, row + 24) == u64(hot, io + 32));
  const size_t blocks = ioTable + 2 * 32;
  CHECK(u32(map, blocks) == 0xffffffff);  // block 0 is zeros
  CHECK(map[blocks + 12] == 2);
  CHECK(zeros(map, blocks + 4, blocks + 12));
  CHECK(zeros(map, blocks + 13, blocks + 24));
  CHECK(u32(map, blocks + 24) == 0);  // block 1
  CHECK(u32(map, blocks + 28) == 88 + lz4);
  CHECK(u32(map, blocks + 32) == 8192);
  CHECK(map[blocks + 36] == 0);
  CHECK(u64(map, blocks + 40) == u64(hot, io + 80));
  CHECK(u32(map, blocks + 72) == 1);  // block 3: in the cold one
}

TEST_CASE("format: a map's bytes do not change from build to build") {
  const std::vector<std::byte> bytes = sampleMap().encode();
  REQUIRE(bytes.size() == 64 + 2 * 96 + 2 * 32 + 4 * 24 + 8);
  CHECK(bytes[64 + 2 * 96 + 2 * 32 + 3 * 24 + 12] == std::byte{3});  // zstd
  CHECK(bytes[64 + 2 * 96 + 2 * 32 + 3 * 24 + 13] == std::byte{1});  // alias
  CHECK(format::take<uint64_t>(bytes, bytes.size() - 8) == 9842416771606151228ULL);
  const MemoryMap again = MemoryMap::decode(bytes, "m");
  CHECK(again.encode() == bytes);
  CHECK(again.geometry == kSmall);
}

TEST_CASE("format: inconsistent maps are refused though their checksum is right") {
  CHECK_NOTHROW(MemoryMap::decode(sampleMap().encode(), "m"));
  refused([](MemoryMap& m) { m.memoryBytes += kSmall.blockBytes(); });
  refused([](MemoryMap& m) { m.memoryBytes = 0; });
  refused([](MemoryMap& m) { m.geometry.pageBytes = 0; });
  refused([](MemoryMap& m) { m.geometry.blocksPerIoBlock = 0; });
  refused([](MemoryMap& m) { m.geometry.pagesPerBlock = 4000; });
  refused([](MemoryMap& m) { m.geometry = {1 << 21, 256, 256}; });
  refused([](MemoryMap& m) { m.blocks.pop_back(); });
  refused([](MemoryMap& m) { m.ioBlocks.resize(4, m.ioBlocks[0]); });
  refused([](MemoryMap& m) { m.segments[0].kind = static_cast<format::SegmentKind>(2); });
  refused([](MemoryMap& m) { m.segments[0].reserved = 1; });
  refused([](MemoryMap& m) { m.segments[0].bytes = 4096; });
  refused([](MemoryMap& m) { m.segments[0].bytes += 1; });
  for (const char* name : {"", ".", "..", "../x", "a/b", "/x", ".hidden", "b.cold", "a b"})
    refused([=](MemoryMap& m) {
      std::memset(m.segments[0].name, 0, sizeof m.segments[0].name);
      std::strcpy(m.segments[0].name, name);
    });
  refused([](MemoryMap& m) { m.segments[0].name[20] = 'x'; });
  refused([](MemoryMap& m) { std::memset(m.segments[0].name, 'x', 56); });
  refused([](MemoryMap& m) { m.ioBlocks[0].segment = 2; });
  refused([](MemoryMap& m) { m.ioBlocks[0].count = 0; });
  refused([](MemoryMap& m) { m.ioBlocks[0].count = 3; });
  refused([](MemoryMap& m) { m.ioBlocks[0].reserved = 1; });
  refused([](MemoryMap& m) { m.ioBlocks[0].bytes = 0; });
  refused([](MemoryMap& m) { m.ioBlocks[0].bytes = 4095; });
  refused([](MemoryMap& m) { m.ioBlocks[0].bytes = 1 << 20; });
  refused([](MemoryMap& m) { m.ioBlocks[0].offset = 0; });
  refused([](MemoryMap& m) { m.ioBlocks[0].offset = 4097; });
  refused([](MemoryMap& m) { m.ioBlocks[0].offset = 8192; });  // reaches into the seal
  refused([](MemoryMap& m) { m.ioBlocks[0].offset = 0xfffffffffffff000; });
  refused([](MemoryMap& m) { m.blocks[0].ioBlock = 2; });
  refused([](MemoryMap& m) { m.blocks[0].ioBlock = format::kNoIoBlock; });
  refused([](MemoryMap& m) { m.blocks[0].offset = 63; });
  refused([](MemoryMap& m) { m.blocks[0].offset = 12288 - 8191; });
  refused([](MemoryMap& m) { m.blocks[0].offset = 0xffffffff; });
  refused([](MemoryMap& m) { m.blocks[0].stored = 8191; });
  refused([](MemoryMap& m) { m.blocks[0].codec = static_cast<format::Codec>(4); });
  refused([](MemoryMap& m) { m.blocks[0].reserved[1] = 1; });
  refused([](MemoryMap& m) { m.blocks[0].flags = 2; });
  refused([](MemoryMap& m) { m.blocks[1].flags = format::kAlias; });
  refused([](MemoryMap& m) { m.blocks[3].stored = 8192; });
  refused([](MemoryMap& m) { m.blocks[0] = m.blocks[1]; });  // nothing in IO block 0
  refused([](MemoryMap& m) { std::swap(m.ioBlocks[0], m.ioBlocks[1]); });
  refused([](MemoryMap& m) { m.ioBlocks[1] = m.ioBlocks[0]; });
  refused([](MemoryMap& m) {  // overlaps
    m.segments[0].bytes = 4096 * 10;
    m.ioBlocks[1] = {0, 1, 12288, 4096, 0, 78};
  });
  refused([](MemoryMap& m) { m.blocks[1].checksum = 1; });
  refused([](MemoryMap& m) { m.blocks[1].ioBlock = 0; });
  refused([](MemoryMap& m) { m.blocks[2].stored = 0; });
  refused([](MemoryMap& m) { m.blocks[2].stored = 8192; });
}

TEST_CASE("format: IO blocks are sorted with their references") {
  MemoryMap map = sampleMap();
  std::swap(map.ioBlocks[0], map.ioBlocks[1]);
  for (format::MapBlock& row : map.blocks)
    if (row.codec != format::Codec::zero) row.ioBlock = 1 - row.ioBlock;
  map.sortIoBlocks();
  CHECK(map.encode() == sampleMap().encode());
}

TEST_CASE("format: the blocks of an IO block") {
  const MemoryMap map = sampleMap();
  const IoBlockIndex index(map);
  CHECK(index.blocksOf(0).size() == 1);
  CHECK(index.blocksOf(0)[0] == 0);
  REQUIRE(index.blocksOf(1).size() == 2);
  CHECK(index.blocksOf(1)[0] == 2);
  CHECK(index.blocksOf(1)[1] == 3);
}

TEST_CASE("format: another version is told apart from damage") {
  std::vector<std::byte> bytes = sampleMap().encode();
  bytes[8] = std::byte{1};
  try {
    MemoryMap::decode(bytes, "some.map");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == Code::unsupported);
    CHECK(std::string(error.what()).find("some.map") == 0);
  }
}
