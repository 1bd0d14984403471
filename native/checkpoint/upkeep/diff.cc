#include "checkpoint/upkeep/diff.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/parallel.h"
#include "checkpoint/image/memory_image.h"

namespace ckptfs {

using namespace format;

namespace {

// One piece of work for a thread: 32 MiB of memory with blocks of 32 KiB.
constexpr uint64_t kBlocksAtOnce = 1024;

/** Compares block by block; any thread. */
class Comparison {
 public:
  Comparison(const MemoryImage& before, const MemoryImage& after)
      : before_(before),
        after_(after),
        blockBytes_(
            std::min(before.map().geometry.blockBytes(), after.map().geometry.blockBytes())),
        rowsCompare_(before.map().geometry.blockBytes() == after.map().geometry.blockBytes()) {
    std::map<std::vector<std::byte>, uint32_t> indexOf;
    const auto key = [](const MapSegment& s) {
      return std::vector<std::byte>(std::begin(s.id), std::end(s.id));
    };
    for (uint32_t i = 0; i < before.map().segments.size(); ++i)
      indexOf.emplace(key(before.map().segments[i]), i);
    for (const MapSegment& segment : after.map().segments) {
      const auto at = indexOf.find(key(segment));
      sharedSegment_.push_back(at == indexOf.end() ? kNotShared : at->second);
    }
  }

  uint64_t blockBytes() const noexcept { return blockBytes_; }

  /** `scratch` holds two blocks. Throws Error. */
  bool differs(uint64_t block, std::span<std::byte> scratch) const {
    if (rowsCompare_ && sameBody(before_.map().blocks[block], after_.map().blocks[block]))
      return false;
    const auto one = scratch.first(blockBytes_);
    const auto other = scratch.subspan(blockBytes_, blockBytes_);
    before_.read(block * blockBytes_, one);
    after_.read(block * blockBytes_, other);
    return std::memcmp(one.data(), other.data(), blockBytes_) != 0;
  }

 private:
  static constexpr uint32_t kNotShared = UINT32_MAX;

  /** Whether the rows lead to the same bytes of the same segment, or both say zeros. */
  bool sameBody(const MapBlock& a, const MapBlock& b) const {
    if (a.codec != b.codec || a.stored != b.stored || a.checksum != b.checksum) return false;
    if (a.codec == Codec::zero) return true;
    const MapIoBlock& ioA = before_.map().ioBlocks[a.ioBlock];
    const MapIoBlock& ioB = after_.map().ioBlocks[b.ioBlock];
    return sharedSegment_[ioB.segment] == ioA.segment &&
           ioA.offset + a.offset == ioB.offset + b.offset;
  }

  const MemoryImage& before_;
  const MemoryImage& after_;
  const uint64_t blockBytes_;
  const bool rowsCompare_;               // the blocks are of one size
  std::vector<uint32_t> sharedSegment_;  // per segment of `after`: the same one of `before`
};

void addRange(MemoryDiff& diff, uint64_t offset, uint64_t bytes, size_t maxRanges) {
  if (!diff.ranges.empty() && diff.ranges.back().offset + diff.ranges.back().bytes == offset)
    diff.ranges.back().bytes += bytes;
  else if (diff.ranges.size() < maxRanges)
    diff.ranges.push_back({offset, bytes});
  else
    diff.truncated = true;
}

}  // namespace

MemoryDiff diffMemoryImages(const std::string& before, const std::string& after, Progress& progress,
                            const DiffOptions& options) {
  const MemoryImage one(before);
  const MemoryImage other(after);
  if (one.bytes() != other.bytes())
    throw Error(Code::usage, "memories of " + std::to_string(one.bytes()) + " and " +
                                 std::to_string(other.bytes()) +
                                 " bytes cannot be compared; choose checkpoints of one VM");
  const Comparison comparison(one, other);
  const uint64_t blockBytes = comparison.blockBytes();
  MemoryDiff diff{.memoryBytes = one.bytes(),
                  .blockBytes = blockBytes,
                  .blocks = one.bytes() / blockBytes};  // a whole number: of one of the images
  progress.expect(diff.memoryBytes);

  std::vector<uint8_t> changed(diff.blocks);  // a byte each, so that threads share no word's bits
  const uint64_t pieces = (diff.blocks + kBlocksAtOnce - 1) / kBlocksAtOnce;
  forEachInParallel(options.threads, pieces, [&](uint64_t piece) {
    std::vector<std::byte> scratch(2 * blockBytes);
    const uint64_t end = std::min(diff.blocks, (piece + 1) * kBlocksAtOnce);
    for (uint64_t block = piece * kBlocksAtOnce; block < end; ++block) {
      changed[block] = comparison.differs(block, scratch);
      progress.advance(blockBytes);
    }
  });

  for (uint64_t block = 0; block < diff.blocks; ++block) {
    if (!changed[block]) continue;
    ++diff.changedBlocks;
    addRange(diff, block * blockBytes, blockBytes, options.maxRanges);
  }
  diff.changedBytes = diff.changedBlocks * blockBytes;
  return diff;
}

}  // namespace ckptfs
