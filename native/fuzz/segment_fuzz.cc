// Segments of any bytes: one that verification accepts can be mapped, read and rewritten.
//
// Input: what is mended, which blocks are live, then the segment.
#include <algorithm>

#include "base/error.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/image/segment.h"
#include "checkpoint/upkeep/live_segments.h"
#include "checkpoint/upkeep/segment_check.h"
#include "checkpoint/upkeep/segment_rewrite.h"
#include "checkpoint/upkeep/verify.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::format;
using namespace ckptfs::fuzz;

namespace {

constexpr char kName[] = "fuzz.hot";
constexpr uint64_t kMaxBlocksHere = 4096;

/** Makes checksums those of the bytes, from header to seal. */
void mend(Bytes& bytes) {
  bytes.resize(std::max<size_t>(bytes.size() / kAlignment * kAlignment, 2 * kAlignment));
  const std::span<const std::byte> all(bytes);
  auto header = take<SegmentHeader>(bytes);
  header.checksum = headerChecksum(header);
  put(bytes, 0, header);
  const uint64_t end = bytes.size() - kAlignment;
  SegmentSeal seal = {};
  std::memcpy(seal.magic, kSealMagic, sizeof seal.magic);
  for (uint64_t at = kAlignment; at < end; ++seal.ioBlocks) {
    auto io = take<IoBlockHeader>(bytes, at);
    const uint64_t heads = at + sizeof io + uint64_t{io.count} * sizeof(IoBlockEntry);
    if (io.bytes < kAlignment || io.bytes > end - at || heads > end) break;
    uint64_t body = at + bodiesAt(io.count);
    for (uint32_t i = 0; i < io.count; ++i) {
      const uint64_t place = at + sizeof io + i * sizeof(IoBlockEntry);
      auto entry = take<IoBlockEntry>(bytes, place);
      if (entry.stored > end - std::min(body, end)) break;
      entry.checksum = checksumOf(all.subspan(body, entry.stored));
      put(bytes, place, entry);
      body += entry.stored;
    }
    io.checksum = checksumOf(all.subspan(at, offsetof(IoBlockHeader, checksum)),
                             all.subspan(at + sizeof io, heads - at - sizeof io));
    put(bytes, at, io);
    seal.blocks += io.count;
    at += io.bytes;
  }
  seal.bytes = bytes.size();
  seal.checksum = headerChecksum(seal);
  std::fill(bytes.begin() + static_cast<ptrdiff_t>(end), bytes.end(), std::byte{0});
  put(bytes, end, seal);
}

/** A map with the last body of every block, or with those of every few blocks only. */
MemoryMap mapOf(std::span<const std::byte> segment, uint8_t live) {
  MemoryMap map;
  const auto header = take<SegmentHeader>(segment);
  map.geometry = {header.pageBytes, header.pagesPerBlock, header.blocksPerIoBlock};
  map.memoryBytes = header.memoryBytes;
  map.blocks.assign(map.geometry.blocksIn(map.memoryBytes),
                    {kNoIoBlock, 0, 0, Codec::zero, 0, {}, 0});
  const uint64_t end = segment.size() - kAlignment;
  MapSegment row = {};
  std::memcpy(row.id, header.id, sizeof row.id);
  row.kind = header.kind;
  row.bytes = segment.size();
  row.ioBlocks = take<SegmentSeal>(segment, end).ioBlocks;
  std::memcpy(row.name, kName, sizeof kName);
  std::vector<MapIoBlock> ioBlocks;
  for (uint64_t at = kAlignment; at < end; at += ioBlocks.back().bytes) {
    const auto io = take<IoBlockHeader>(segment, at);
    forEachEntry(segment.subspan(at), [&](const IoBlockEntry& entry, uint32_t offset) {
      if (live != 0 && entry.block % live != 0) return;
      map.blocks[entry.block] = {static_cast<uint32_t>(ioBlocks.size()),
                                 offset,
                                 entry.stored,
                                 entry.codec,
                                 0,
                                 {},
                                 entry.checksum};
    });
    ioBlocks.push_back({0, io.count, at, io.bytes, 0, io.checksum});
  }
  std::vector<uint32_t> numbers(ioBlocks.size(), kNoIoBlock);
  for (const MapBlock& block : map.blocks)
    if (block.codec != Codec::zero) numbers[block.ioBlock] = 0;
  for (size_t i = 0; i < ioBlocks.size(); ++i) {
    if (numbers[i] == kNoIoBlock) continue;
    numbers[i] = static_cast<uint32_t>(map.ioBlocks.size());
    map.ioBlocks.push_back(ioBlocks[i]);
  }
  for (MapBlock& block : map.blocks)
    if (block.codec != Codec::zero) block.ioBlock = numbers[block.ioBlock];
  if (!map.ioBlocks.empty()) map.segments.push_back(row);
  return map;
}

void use(const Scratch& scratch, const MemoryMap& map) {
  const Bytes encoded = map.encode();
  scratch.write(MemoryMap::kFileName, encoded);
  FUZZ_CHECK(MemoryMap::decode(encoded, "fuzz").blocks.size() == map.blocks.size());
  Progress progress;
  FUZZ_CHECK(verifyMemoryImage(scratch.path(), progress, {.threads = 1}).empty());
  Bytes memory(map.memoryBytes);
  FUZZ_CHECK(MemoryImage(scratch.path()).read(0, memory) == memory.size());
  if (map.segments.empty()) return;
  LiveSegments live;
  live.add(0, scratch.path(), map);
  const SegmentRewrite rewrite(scratch.path(), {&live.all()[0]}, progress);
  FUZZ_CHECK(rewrite.row().bytes == live.all()[0].packedBytes());
  const std::string path = scratch.path() + "/" + rewrite.row().name;
  FUZZ_CHECK(SegmentCheck(path, [](uint64_t) {}).run(nullptr).empty());
  std::filesystem::remove(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch;
  Input input(data, size);
  const bool mended = input.byte() % 2 != 0;
  const uint8_t live = input.byte();
  Bytes bytes = input.copy();
  if (mended) mend(bytes);
  const std::string path = scratch.write(kName, bytes);
  try {
    if (!SegmentCheck(path, [](uint64_t) {}).run(nullptr).empty()) return 0;
  } catch (const Error&) {
    return 0;
  }
  const auto header = take<SegmentHeader>(bytes);
  const uint64_t blockBytes = uint64_t{header.pageBytes} * header.pagesPerBlock;
  if (header.memoryBytes / blockBytes > kMaxBlocksHere || header.memoryBytes > 64 << 20) return 0;
  use(scratch, mapOf(bytes, live));
  return 0;
}
