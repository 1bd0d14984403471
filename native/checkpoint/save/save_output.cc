#include "checkpoint/save/save_output.h"

#include <unistd.h>

#include "base/error.h"
#include "checkpoint/save/live_bytes.h"

namespace ckptfs {

using namespace format;

namespace {

const Geometry& checked(const GuestMemory& memory) {
  checkCheckpointable(memory.geometry(), memory.bytes());
  return memory.geometry();
}

}  // namespace

SaveOutput::SaveOutput(GuestMemory& memory, const std::string& directory)
    : memory_(memory),
      mapPath_(directory + "/" + MemoryMap::kFileName),
      segments_{{directory, SegmentKind::hot, checked(memory), memory.bytes()},
                {directory, SegmentKind::cold, memory.geometry(), memory.bytes()}},
      rows_(memory.geometry(), memory.bytes()),
      duplicates_(memory.blockCount()) {}

/** Makes `block` share the body of `candidate` if that still has its contents of the pause, and
 *  they are equal. */
bool SaveOutput::share(BlockId block, BlockId candidate, const std::byte* raw) noexcept {
  if (!rows_.complete(candidate) || memory_.state(candidate) != BlockState::saved) return false;
  const Geometry& geometry = memory_.geometry();
  const bool equal =
      liveEquals(memory_.hostView() + geometry.offsetOf(candidate), raw, geometry.blockBytes());
  // Once left, `saved` does not come back within a save: nobody wrote while it was compared.
  return equal && memory_.state(candidate) == BlockState::saved && rows_.alias(block, candidate);
}

SaveOutput::Written SaveOutput::write(SegmentKind kind, const StagingBuffer& buffer,
                                      IoBlockPacker& packer, bool shareable) {
  const std::span<const BlockId> ids = buffer.ids();
  const uint64_t blockBytes = memory_.geometry().blockBytes();
  Written written;
  std::vector<uint64_t> hashes;  // of what is packed
  packer.clear();
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::byte* const raw = buffer.raw(i);
    const uint64_t hash = checksumOf({raw, blockBytes});
    const std::optional<BlockId> candidate = duplicates_.find(hash);
    if (candidate && share(ids[i], *candidate, raw)) {
      ++written.duplicate;
    } else {
      hashes.push_back(hash);
      packer.add(ids[i], raw, hash);
    }
  }
  if (!packer.empty()) {
    const uint64_t offset = segments_[static_cast<size_t>(kind)].append(packer);
    rows_.written(kind, offset, packer);
    written.stored = packer.entries().size();
    written.bytes = packer.bytes();
    if (shareable)
      for (size_t i = 0; i < written.stored; ++i)
        duplicates_.insert(hashes[i], packer.entries()[i].block);
  }
  wake();
  return written;
}

void SaveOutput::read(BlockId block, uint64_t within, std::span<std::byte> into) const {
  const SaveRows::Place place = rows_.place(block);
  std::vector<std::byte> raw(memory_.geometry().blockBytes());
  if (place.row.codec != Codec::zero) {
    const CheckpointFile& file = segments_[static_cast<size_t>(place.segment)].file();
    std::vector<std::byte> body(place.row.stored);
    file.read(place.offset, body);
    if (checksumOf(body) != place.row.checksum || !decodeBlock(place.row.codec, body, raw))
      throw Error(Code::damaged, file.path() + ": block " + std::to_string(block) + " at byte " +
                                     std::to_string(place.offset) +
                                     " is not what was written there");
  }
  std::copy_n(raw.begin() + static_cast<ptrdiff_t>(within), into.size(), into.begin());
}

void SaveOutput::awaitRow(BlockId block, std::chrono::milliseconds timeout) const {
  std::unique_lock lock(waitLock_);
  rowsAdded_.wait_for(lock, timeout, [&] { return rows_.complete(block); });
}

void SaveOutput::wake() const noexcept {
  // Taking the lock once: whoever looked before the change is in its wait by then.
  { const std::lock_guard lock(waitLock_); }
  rowsAdded_.notify_all();
}

void SaveOutput::withdraw() const noexcept {
  unlink(mapPath_.c_str());
}

SaveOutput::Published SaveOutput::publish(const MemoryMap* base) {
  Published published;
  for (SegmentWriter& segment : segments_) {
    if (segment.ioBlocks() == 0) {
      unlink(segment.file().path().c_str());  // nothing refers to it
    } else {
      segment.seal();
      published.bytes += segment.bytes();
    }
  }
  const MemoryMap map = rows_.finish(segments_[0].description(), segments_[1].description(), base);
  for (const MapSegment& segment : map.segments) published.segments.emplace_back(segment.name);
  const std::vector<std::byte> bytes = map.encode();
  const CheckpointFile file = CheckpointFile::create(mapPath_);
  file.write(0, bytes);
  file.sync();
  published.bytes += bytes.size();
  return published;
}

}  // namespace ckptfs
