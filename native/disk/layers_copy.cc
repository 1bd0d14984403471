#include "disk/layers_copy.h"

#include <algorithm>

#include "base/page_buffer.h"

namespace ckptfs {

uint64_t copiedBytes(const Layers& layers) {
  return layers.index().entries().size() * layers.newest()->blockBytes();
}

uint64_t pieceBlocks(std::span<const IndexEntry> entries, uint64_t blockBytes) {
  const uint64_t most =
      std::min<uint64_t>({entries.size(), kCopyPieceBytes / blockBytes, kMaxDataBlocks});
  uint64_t blocks = 1;
  while (blocks < most && entries[blocks].block == entries.front().block + blocks) ++blocks;
  return blocks;
}

void copyLayers(const Layers& layers, CopyTarget& into, Progress& progress) {
  const uint64_t blockBytes = layers.newest()->blockBytes();
  for (const ZeroExtent& extent : layers.index().extents()) {
    into.zero(extent);
    progress.advance(0);
  }
  const PageBuffer buffer(kCopyPieceBytes);
  for (auto entries = layers.index().entries(); !entries.empty();) {
    const uint64_t first = entries.front().block, blocks = pieceBlocks(entries, blockBytes);
    const auto data = buffer.first(blocks * blockBytes);
    layers.readBlocks(first, data);
    into.write(first, data);
    entries = entries.subspan(blocks);
    progress.advance(data.size());
  }
}

}  // namespace ckptfs
