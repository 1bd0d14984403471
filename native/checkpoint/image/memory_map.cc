#include "checkpoint/image/memory_map.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <set>
#include <tuple>

#include "base/error.h"
#include "checkpoint/image/checkpoint_file.h"

namespace ckptfs {

using namespace format;

namespace {

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(Code::damaged, path + ": " + what);
}

template <class Table>
uint64_t appendTable(std::vector<std::byte>& bytes, uint64_t at, const Table& table) {
  const auto from = std::as_bytes(std::span(table));
  if (!from.empty()) std::memcpy(bytes.data() + at, from.data(), from.size());
  return at + from.size();
}

uint64_t encodedBytes(uint64_t segments, uint64_t ioBlocks, uint64_t blocks) {
  return sizeof(MapHeader) + segments * sizeof(MapSegment) + ioBlocks * sizeof(MapIoBlock) +
         blocks * sizeof(MapBlock) + sizeof(uint64_t);
}

/** A plain file name, so that no map leads out of its directory. */
bool isFileName(const MapSegment& segment) {
  const auto* const end = std::find(segment.name, std::end(segment.name), '\0');
  if (end == segment.name || end == std::end(segment.name) || segment.name[0] == '.') return false;
  return std::all_of(
             segment.name, end,
             [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_'; }) &&
         std::all_of(end, std::end(segment.name), [](char c) { return c == '\0'; });
}

const char* faultOf(const MapSegment& segment) {
  if (segment.kind != SegmentKind::hot && segment.kind != SegmentKind::cold) return "kind";
  if (segment.reserved != 0) return "reserved bytes";
  if (segment.bytes < 2 * kAlignment || segment.bytes % kAlignment != 0) return "size";
  if (!isFileName(segment)) return "file name";
  return nullptr;
}

const char* faultOf(const MapIoBlock& io, const MemoryMap& map) {
  if (io.segment >= map.segments.size()) return "segment";
  if (io.count == 0 || io.count > map.geometry.blocksPerIoBlock) return "count";
  if (io.reserved != 0) return "reserved bytes";
  if (io.bytes == 0 || io.bytes % kAlignment != 0 || io.bytes > maxIoBlockBytes(map.geometry))
    return "length";
  const uint64_t limit = map.segments[io.segment].bytes - kAlignment;  // the seal
  if (io.offset < kAlignment || io.offset % kAlignment != 0 || io.offset > limit ||
      io.bytes > limit - io.offset)
    return "offset";
  return nullptr;
}

/** Rows are by segment, then by offset, and do not overlap. */
bool follows(const MapIoBlock& before, const MapIoBlock& after) {
  return before.segment < after.segment ||
         (before.segment == after.segment && after.offset - before.offset >= before.bytes &&
          after.offset > before.offset);
}

const char* faultOf(const MapBlock& block, const MemoryMap& map) {
  if (block.reserved[0] != 0 || block.reserved[1] != 0) return "reserved bytes";
  if (block.codec == Codec::zero)
    return block.ioBlock == kNoIoBlock && block.offset == 0 && block.stored == 0 &&
                   block.flags == 0 && block.checksum == 0
               ? nullptr
               : "zero block";
  if ((block.flags & ~kAlias) != 0) return "flags";
  if (!isBodyLength(block.codec, block.stored, map.geometry.blockBytes())) return "codec or length";
  if (block.ioBlock >= map.ioBlocks.size()) return "IO block";
  const MapIoBlock& io = map.ioBlocks[block.ioBlock];
  if (block.offset < bodiesAt(io.count) || block.offset > io.bytes ||
      block.stored > io.bytes - block.offset)
    return "offset";
  return nullptr;
}

}  // namespace

void checkCheckpointable(const Geometry& geometry, uint64_t memoryBytes) {
  validate(geometry, memoryBytes);
  if (geometry.ioBlockBytes() > kMaxIoBlockBytes)
    throw Error(Code::usage, "IO blocks of " + std::to_string(geometry.ioBlockBytes()) +
                                 " bytes are larger than " + std::to_string(kMaxIoBlockBytes) +
                                 "; choose fewer or smaller blocks");
  if (geometry.blocksIn(memoryBytes) > kMaxBlocks)
    throw Error(Code::usage, "guest memory of more than " + std::to_string(kMaxBlocks) +
                                 " memory blocks; choose larger ones");
}

void MemoryMap::sortIoBlocks() {
  std::vector<uint32_t> order(ioBlocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
    return std::tie(ioBlocks[a].segment, ioBlocks[a].offset) <
           std::tie(ioBlocks[b].segment, ioBlocks[b].offset);
  });
  std::vector<MapIoBlock> sorted(ioBlocks.size());
  std::vector<uint32_t> places(ioBlocks.size());
  for (uint32_t i = 0; i < order.size(); ++i) {
    sorted[i] = ioBlocks[order[i]];
    places[order[i]] = i;
  }
  ioBlocks = std::move(sorted);
  for (MapBlock& row : blocks)
    if (row.codec != Codec::zero) row.ioBlock = places[row.ioBlock];
}

std::vector<std::byte> MemoryMap::encode() const {
  MapHeader header = {};
  std::memcpy(header.magic, kMapMagic, sizeof header.magic);
  header.version = kVersion;
  header.headerBytes = sizeof header;
  header.fileBytes = encodedBytes(segments.size(), ioBlocks.size(), blocks.size());
  header.memoryBytes = memoryBytes;
  header.pageBytes = geometry.pageBytes;
  header.pagesPerBlock = geometry.pagesPerBlock;
  header.blocksPerIoBlock = geometry.blocksPerIoBlock;
  header.segments = static_cast<uint32_t>(segments.size());
  header.ioBlocks = ioBlocks.size();
  header.blocks = blocks.size();
  std::vector<std::byte> bytes(header.fileBytes);
  put(bytes, 0, header);
  uint64_t at = appendTable(bytes, sizeof header, segments);
  at = appendTable(bytes, at, ioBlocks);
  at = appendTable(bytes, at, blocks);
  put(bytes, at, checksumOf(std::span(bytes).first(at)));
  return bytes;
}

MemoryMap MemoryMap::decode(uint64_t bytes, const ReadAt& readAt, const std::string& path) {
  if (bytes < sizeof(MapHeader) + sizeof(uint64_t)) damaged(path, "too short for a map");
  MapHeader header;
  readAt(0, std::as_writable_bytes(std::span(&header, 1)));
  if (std::memcmp(header.magic, kMapMagic, sizeof header.magic) != 0)
    damaged(path, "not a memory map (magic)");
  if (header.version != kVersion)
    throw Error(Code::unsupported, path + ": memory map version " + std::to_string(header.version) +
                                       "; this build reads version " + std::to_string(kVersion));
  // Each count is bounded before the sizes are added up, so that nothing overflows.
  if (header.headerBytes != sizeof header || header.segments > kMaxSegments ||
      header.blocks > kMaxBlocks || header.ioBlocks > header.blocks)
    damaged(path, "header counts are out of range");
  if (header.fileBytes != bytes ||
      header.fileBytes != encodedBytes(header.segments, header.ioBlocks, header.blocks))
    damaged(path, "size " + std::to_string(bytes) + " does not match its header");

  MemoryMap map;
  map.segments.resize(header.segments);
  map.ioBlocks.resize(header.ioBlocks);
  map.blocks.resize(header.blocks);
  uint64_t checksum = 0;
  uint64_t at = sizeof header;
  const std::span<std::byte> tables[] = {std::as_writable_bytes(std::span(map.segments)),
                                         std::as_writable_bytes(std::span(map.ioBlocks)),
                                         std::as_writable_bytes(std::span(map.blocks)),
                                         std::as_writable_bytes(std::span(&checksum, 1))};
  for (const auto table : tables) {
    readAt(at, table);
    at += table.size();
  }
  if (checksum !=
      checksumOf({std::as_bytes(std::span(&header, 1)), tables[0], tables[1], tables[2]}))
    damaged(path, "checksum mismatch");

  map.memoryBytes = header.memoryBytes;
  map.geometry = {header.pageBytes, header.pagesPerBlock, header.blocksPerIoBlock};
  try {
    checkCheckpointable(map.geometry, map.memoryBytes);
  } catch (const Error& error) {
    damaged(path, error.what());
  }
  if (map.geometry.blocksIn(map.memoryBytes) != header.blocks)
    damaged(path, "block count does not match the memory size");

  const auto check = [&path](const char* fault, const char* table, size_t index) {
    if (fault != nullptr)
      damaged(path, std::string(table) + " " + std::to_string(index) + ": bad " + fault);
  };
  std::set<std::string> names;
  for (size_t i = 0; i < map.segments.size(); ++i) {
    check(faultOf(map.segments[i]), "segment", i);
    if (!names.insert(map.segments[i].name).second) check("repeated file name", "segment", i);
  }
  for (size_t i = 0; i < map.ioBlocks.size(); ++i) {
    check(faultOf(map.ioBlocks[i], map), "IO block", i);
    if (i > 0 && !follows(map.ioBlocks[i - 1], map.ioBlocks[i])) check("order", "IO block", i);
  }
  std::vector<uint8_t> referenced(map.ioBlocks.size());
  for (size_t i = 0; i < map.blocks.size(); ++i) {
    check(faultOf(map.blocks[i], map), "block", i);
    if (map.blocks[i].codec != Codec::zero) referenced[map.blocks[i].ioBlock] = 1;
  }
  const auto unused = std::find(referenced.begin(), referenced.end(), 0);
  if (unused != referenced.end())
    check("reference: no block is in it", "IO block",
          static_cast<size_t>(unused - referenced.begin()));
  return map;
}

MemoryMap MemoryMap::read(const std::string& path) {
  const CheckpointFile file = CheckpointFile::open(path);
  const uint64_t size = file.bytes();
  if (size > encodedBytes(kMaxSegments, kMaxBlocks, kMaxBlocks))
    damaged(path, "too large for a memory map");
  return decode(
      size, [&file](uint64_t offset, std::span<std::byte> into) { file.read(offset, into); }, path);
}

MemoryMap MemoryMap::decode(std::span<const std::byte> bytes, const std::string& path) {
  return decode(
      bytes.size(),
      [bytes](uint64_t offset, std::span<std::byte> into) {
        if (!into.empty()) std::memcpy(into.data(), bytes.data() + offset, into.size());
      },
      path);
}

}  // namespace ckptfs
