#include "checkpoint/upkeep/segment_rewrite.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/image/checkpoint_file.h"

namespace ckptfs {

using namespace format;

namespace {

[[noreturn]] void damaged(const LiveSegment& source, uint64_t at, const char* what) {
  throw Error(Code::damaged, source.path + ": at byte " + std::to_string(at) + ": " + what +
                                 "; find the damaged checkpoints with ckptfs verify");
}

}  // namespace

SegmentRewrite::SegmentRewrite(const std::string& directory,
                               const std::vector<const LiveSegment*>& sources, Progress& progress)
    : sources_(sources),
      writer_(directory, sources[0]->row.kind, sources[0]->geometry, sources[0]->memoryBytes),
      packer_(sources[0]->geometry, Codec::raw),
      buffer_(maxIoBlockBytes(sources[0]->geometry)),
      bodies_(sources[0]->geometry.ioBlockBytes()) {
  for (size_t source = 0; source < sources_.size(); ++source) copy(source, progress);
  flush();
  writer_.seal();
  row_ = writer_.description();
}

void SegmentRewrite::copy(size_t index, Progress& progress) {
  const LiveSegment& source = *sources_[index];
  const CheckpointFile file = CheckpointFile::open(source.path);
  const SegmentHeader header = readSegmentHeader(file);
  if (file.bytes() != source.row.bytes ||
      std::memcmp(header.id, source.row.id, sizeof header.id) != 0)
    damaged(source, 0, "not the segment that memory.map names");
  places_.emplace_back(source.bodies.size());
  size_t next = 0;
  for (const MapIoBlock& row : source.ioBlocks) {
    const auto ioBlock = buffer_.first(row.bytes);
    file.read(row.offset, ioBlock);
    if (const char* const fault = checkIoBlock(ioBlock, source.geometry))
      damaged(source, row.offset, fault);
    const auto io = take<IoBlockHeader>(ioBlock);
    if (io.checksum != row.checksum || io.count != row.count || io.bytes != row.bytes)
      damaged(source, row.offset, "not the IO block that memory.map names");
    copyLive(index, ioBlock, row.offset, next);
    progress.advance(row.bytes);
  }
  if (next < source.bodies.size()) damaged(source, source.bodies[next].at, "no body is there");
}

/** Copies what is live of an IO block at `at`; `next` is the first live body that was not met. */
void SegmentRewrite::copyLive(size_t index, std::span<const std::byte> ioBlock, uint64_t at,
                              size_t& next) {
  const LiveSegment& source = *sources_[index];
  forEachEntry(ioBlock, [&](const IoBlockEntry& entry, uint32_t offset) {
    // Live bodies are by place: one before this entry would start at none.
    if (next == source.bodies.size() || source.bodies[next].at > at + offset) return;
    const LiveBody& live = source.bodies[next];
    if (live.at < at + offset || live.stored != entry.stored || live.codec != entry.codec ||
        live.checksum != entry.checksum)
      damaged(source, live.at, "memory.map names another body");
    const auto body = ioBlock.subspan(offset, entry.stored);
    if (checksumOf(body) != entry.checksum) damaged(source, live.at, "checksum mismatch");
    std::memcpy(bodies_.data() + bodyBytes_, body.data(), body.size());
    packer_.addBody(entry, bodies_.data() + bodyBytes_);
    pending_.push_back({index, next++, bodyBytes_});
    bodyBytes_ += body.size();
    if (packer_.full()) flush();
  });
}

void SegmentRewrite::flush() {
  if (packer_.empty()) return;
  const auto count = static_cast<uint32_t>(pending_.size());
  const uint64_t offset = writer_.append(packer_);
  for (const Pending& body : pending_)
    places_[body.source][body.index] = {static_cast<uint32_t>(ioBlocks_.size()),
                                        static_cast<uint32_t>(bodiesAt(count) + body.start)};
  ioBlocks_.push_back({0, count, offset, packer_.bytes(), 0, packer_.checksum()});
  packer_.clear();
  pending_.clear();
  bodyBytes_ = 0;
}

SegmentRewrite::Place SegmentRewrite::placeOf(size_t source, uint64_t at) const {
  const std::vector<LiveBody>& bodies = sources_[source]->bodies;
  const auto body =
      std::lower_bound(bodies.begin(), bodies.end(), at,
                       [](const LiveBody& b, uint64_t place) { return b.at < place; });
  return places_[source][static_cast<size_t>(body - bodies.begin())];
}

}  // namespace ckptfs
