#include "checkpoint/upkeep/live_segments.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace ckptfs {

using namespace format;

namespace {

template <class T>
bool sameBytes(const T& a, const T& b) {
  static_assert(std::has_unique_object_representations_v<T>);
  return std::memcmp(&a, &b, sizeof a) == 0;
}

uint64_t placeOf(const MapIoBlock& io) {
  return io.offset;
}
uint64_t placeOf(const LiveBody& body) {
  return body.at;
}

/** Adds a list to another, both sorted by place; false when they disagree about one place. */
template <class T>
bool unite(std::vector<T>& into, const std::vector<T>& more) {
  std::vector<T> united;
  united.reserve(std::max(into.size(), more.size()));
  auto a = into.begin();
  auto b = more.begin();
  while (a != into.end() && b != more.end()) {
    if (placeOf(*a) != placeOf(*b)) {
      united.push_back(placeOf(*a) < placeOf(*b) ? *a++ : *b++);
    } else {
      if (!sameBytes(*a, *b)) return false;
      ++b;
    }
  }
  united.insert(united.end(), a, into.end());
  united.insert(united.end(), b, more.end());
  into = std::move(united);
  return true;
}

[[noreturn]] void contradicted(const std::string& directory, const MapSegment& segment) {
  throw Error(Code::damaged, directory + "/" + MemoryMap::kFileName +
                                 ": contradicts another checkpoint about " + segment.name +
                                 "; find the damage with ckptfs verify");
}

}  // namespace

SegmentKey keyOf(const MapSegment& segment) {
  return {std::begin(segment.id), std::end(segment.id)};
}

uint64_t LiveSegment::packedBytes() const {
  uint64_t bytes = 2 * kAlignment, bodyBytes = 0, count = 0;
  for (const LiveBody& body : bodies) {
    bodyBytes += body.stored;
    if (++count < geometry.blocksPerIoBlock && &body != &bodies.back()) continue;
    bytes += aligned(bodiesAt(count) + bodyBytes);
    bodyBytes = count = 0;
  }
  return bytes;
}

LiveSegment& LiveSegments::find(const std::string& directory, const MemoryMap& map,
                                const MapSegment& segment) {
  const auto [at, isNew] = indexes_.emplace(keyOf(segment), segments_.size());
  if (isNew)
    segments_.push_back({.row = segment,
                         .geometry = map.geometry,
                         .memoryBytes = map.memoryBytes,
                         .path = directory + "/" + segment.name});
  LiveSegment& live = segments_[at->second];
  if (!sameBytes(live.row, segment) || live.geometry != map.geometry ||
      live.memoryBytes != map.memoryBytes)
    contradicted(directory, segment);
  return live;
}

void LiveSegments::add(uint32_t checkpoint, const std::string& directory, const MemoryMap& map) {
  std::vector<std::vector<MapIoBlock>> ioBlocks(map.segments.size());
  std::vector<std::vector<LiveBody>> bodies(map.segments.size());
  for (MapIoBlock io : map.ioBlocks) {  // sorted already
    const uint32_t segment = std::exchange(io.segment, 0);
    ioBlocks[segment].push_back(io);
  }
  for (const MapBlock& row : map.blocks) {
    if (row.codec == Codec::zero) continue;
    const MapIoBlock& io = map.ioBlocks[row.ioBlock];
    bodies[io.segment].push_back({io.offset + row.offset, row.checksum, row.stored, row.codec});
  }
  for (uint32_t i = 0; i < map.segments.size(); ++i) {
    const MapSegment& segment = map.segments[i];
    LiveSegment& live = find(directory, map, segment);
    live.checkpoints.push_back(checkpoint);
    std::sort(bodies[i].begin(), bodies[i].end(),
              [](const LiveBody& a, const LiveBody& b) { return a.at < b.at; });
    const auto sameBody = [](const LiveBody& a, const LiveBody& b) { return sameBytes(a, b); };
    bodies[i].erase(std::unique(bodies[i].begin(), bodies[i].end(), sameBody), bodies[i].end());
    if (!unite(live.ioBlocks, ioBlocks[i]) || !unite(live.bodies, bodies[i]))
      contradicted(directory, segment);
  }
}

}  // namespace ckptfs
