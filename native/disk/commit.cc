#include "disk/commit.h"

#include <algorithm>

#include "base/page_buffer.h"
#include "disk/layers_copy.h"

namespace ckptfs {
namespace {

/** The parent, written a piece at a time. */
class ParentTarget final : public CopyTarget {
 public:
  ParentTarget(Parent& parent, const Layers& layers, bool again, Progress& progress)
      : parent_(parent),
        index_(layers.index()),
        blockBytes_(layers.newest()->blockBytes()),
        again_(again),
        progress_(progress) {}

  void zero(const ZeroExtent& extent) override {
    // What has data within the extent is left alone: it is written once.
    RedoIndex::Locations at;
    for (uint64_t first = extent.first, end = first + extent.count; first < end;) {
      const RedoIndex::Run run = index_.find(first, end - first, at);
      const uint64_t offset = first * blockBytes_;
      if (run.kind == RedoIndex::Kind::zeroes)
        parent_.zero(offset, within(offset, run.count * blockBytes_), true);
      first += run.count;
      progress_.advance(0);
    }
  }
  void write(uint64_t first, std::span<const std::byte> data) override {
    const uint64_t offset = first * blockBytes_;
    data = data.first(within(offset, data.size()));
    if (!again_ || !holds(offset, data)) parent_.write(offset, data);
  }

 private:
  uint64_t within(uint64_t offset, uint64_t length) const {
    return std::min(length, parent_.bytes() - offset);
  }
  bool holds(uint64_t offset, std::span<const std::byte> data) {
    const auto there = there_.first(data.size());
    parent_.read(offset, there);
    return std::ranges::equal(there, data);
  }

  Parent& parent_;
  const SealedIndex& index_;
  const uint64_t blockBytes_;
  const bool again_;
  Progress& progress_;
  const PageBuffer there_{kCopyPieceBytes};
};

}  // namespace

void commitLayers(const Layers& layers, Parent& into, bool again, Progress& progress) {
  progress.expect(copiedBytes(layers));
  ParentTarget target(into, layers, again, progress);
  copyLayers(layers, target, progress);
}

}  // namespace ckptfs
