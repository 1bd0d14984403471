// Maps of any bytes: an accepted one is encoded to the very same bytes, and an image with it reads
// true or fails. When verification finds nothing, every byte can be read and compaction can use it.
//
// Input: what is mended, then memory.map. The segments are those of the seed image.
#include "base/error.h"
#include "checkpoint/image/io_block_index.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/image/memory_map.h"
#include "checkpoint/upkeep/live_segments.h"
#include "checkpoint/upkeep/verify.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::format;
using namespace ckptfs::fuzz;

namespace {

constexpr uint64_t kMaxMemoryBytes = 16 << 20;

/** Makes the sizes and the checksum those of the bytes. */
void mend(Bytes& bytes, uint8_t what) {
  if (bytes.size() < sizeof(MapHeader) + sizeof(uint64_t)) return;
  auto header = take<MapHeader>(bytes);
  if (what & 2) {
    std::memcpy(header.magic, kMapMagic, sizeof header.magic);
    header.version = kVersion;
    header.headerBytes = sizeof header;
    header.fileBytes = bytes.size();
    put(bytes, 0, header);
  }
  const size_t end = bytes.size() - sizeof(uint64_t);
  if (what & 1) put(bytes, end, checksumOf(std::span<const std::byte>(bytes).first(end)));
}

const Scratch& scratch() {
  static const Scratch directory;
  static const bool linked = [] {
    for (const auto& file : std::filesystem::directory_iterator(seedDirectory() + "/image"))
      if (file.path().extension() != ".map")
        std::filesystem::copy(file.path(), directory.path() / file.path().filename());
    return true;
  }();
  (void)linked;
  return directory;
}

void useImage(const MemoryMap& map, std::span<const std::byte> bytes) {
  scratch().write(MemoryMap::kFileName, bytes);
  Progress progress;
  const bool whole = verifyMemoryImage(scratch().path(), progress, {.threads = 1}).empty();
  bool readable = true;
  try {
    const MemoryImage image(scratch().path());
    Bytes block(map.geometry.blockBytes());
    for (BlockId id = 0; id < map.blocks.size(); ++id) {
      try {
        FUZZ_CHECK(image.read(map.geometry.offsetOf(id), block) == block.size());
      } catch (const Error&) {
        readable = false;
      }
    }
  } catch (const Error&) {
    readable = false;
  }
  if (!whole) return;
  FUZZ_CHECK(readable);
  LiveSegments live;
  live.add(0, scratch().path(), map);
  for (const LiveSegment& segment : live.all()) FUZZ_CHECK(segment.packedBytes() >= 2 * kAlignment);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const uint8_t mended = input.byte();
  Bytes bytes = input.copy();
  mend(bytes, mended);
  MemoryMap map;
  try {
    map = MemoryMap::decode(bytes, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  FUZZ_CHECK(map.encode() == bytes);
  const IoBlockIndex index(map);
  size_t blocks = 0;
  for (uint32_t io = 0; io < map.ioBlocks.size(); ++io) blocks += index.blocksOf(io).size();
  FUZZ_CHECK(blocks <= map.blocks.size());
  if (map.memoryBytes <= kMaxMemoryBytes) useImage(map, bytes);
  return 0;
}
