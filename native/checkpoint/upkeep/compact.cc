#include "checkpoint/upkeep/compact.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "base/error.h"
#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/upkeep/live_segments.h"
#include "checkpoint/upkeep/segment_rewrite.h"

namespace ckptfs {

using namespace format;

namespace {

// So many segments of one kind may be needed by the very same checkpoints; then the smaller ones
// are put together, however full they are: a restore has all segments open.
constexpr size_t kMaxAlike = 8;

constexpr size_t kKept = SIZE_MAX;

/** Segments that are replaced by one: of one kind and shape, and needed by the same checkpoints, so
 *  that the links of the new one are those of the old ones. */
using Group = std::vector<const LiveSegment*>;

bool lessThanHalfLive(const LiveSegment& segment) {
  return segment.packedBytes() < segment.row.bytes / 2;
}

/** Those of a group of too many that are no larger than half of all of them together. */
Group smaller(const Group& alike) {
  uint64_t bytes = 0;
  for (const LiveSegment* const segment : alike) bytes += segment->row.bytes;
  Group group;
  for (const LiveSegment* const segment : alike)
    if (segment->row.bytes <= bytes / 2) group.push_back(segment);
  return group;
}

class Plan {
 public:
  explicit Plan(const std::vector<std::string>& directories) {
    for (uint32_t i = 0; i < directories.size(); ++i)
      live_.add(i, directories[i], MemoryMap::read(mapFile(directories[i])));
    choose();
  }

  static std::string mapFile(const std::string& directory) {
    return directory + "/" + MemoryMap::kFileName;
  }

  const LiveSegments& live() const noexcept { return live_; }
  const std::vector<Group>& groups() const noexcept { return groups_; }
  /** The group that replaces a segment of all(), or kKept, and its number in there. */
  struct Fate {
    size_t group = kKept;
    size_t source = 0;
  };
  const Fate& fateOf(size_t segment) const { return fates_[segment]; }

  Compaction summary() const {
    Compaction summary;
    std::set<uint32_t> checkpoints;
    for (size_t i = 0; i < live_.all().size(); ++i) {
      const LiveSegment& segment = live_.all()[i];
      ++summary.segments;
      summary.segmentBytes += segment.row.bytes;
      if (fates_[i].group == kKept) continue;
      ++summary.rewritten;
      summary.rewrittenBytes += segment.row.bytes;
      summary.writtenBytes += segment.packedBytes();
      checkpoints.insert(segment.checkpoints.begin(), segment.checkpoints.end());
    }
    summary.written = groups_.size();
    for (const uint32_t index : checkpoints) summary.checkpoints.push_back({index, {}});
    return summary;
  }

 private:
  void choose() {
    using Key = std::tuple<SegmentKind, uint64_t, uint64_t, uint64_t, std::vector<uint32_t>>;
    std::map<Key, Group> alike;
    for (const LiveSegment& segment : live_.all())
      alike[{segment.row.kind, segment.memoryBytes, segment.geometry.blockBytes(),
             segment.geometry.blocksPerIoBlock, segment.checkpoints}]
          .push_back(&segment);
    fates_.resize(live_.all().size());
    for (const auto& [key, candidates] : alike) {
      Group group = candidates;
      std::erase_if(group, [](const LiveSegment* s) { return !lessThanHalfLive(*s); });
      if (candidates.size() > kMaxAlike) {
        const Group few = smaller(candidates);
        group.insert(group.end(), few.begin(), few.end());
        std::sort(group.begin(), group.end());  // as in all(), where the order is that of the maps
        group.erase(std::unique(group.begin(), group.end()), group.end());
      }
      for (size_t i = 0; i < group.size(); ++i)
        fates_[static_cast<size_t>(group[i] - live_.all().data())] = {groups_.size(), i};
      if (!group.empty()) groups_.push_back(std::move(group));
    }
  }

  LiveSegments live_;
  std::vector<Fate> fates_;  // per segment of all()
  std::vector<Group> groups_;
};

/** The map of one checkpoint with its old segments replaced. */
class MapRewrite {
 public:
  MapRewrite(const Plan& plan, const std::vector<std::unique_ptr<SegmentRewrite>>& rewrites,
             const MemoryMap& old)
      : plan_(plan), rewrites_(rewrites), old_(old), new_(old) {}

  MemoryMap run() {
    placeSegments();
    placeIoBlocks();
    return std::move(new_);
  }

 private:
  /** A segment of the new map: one of the old map's, or a group's. */
  struct Part {
    const MapIoBlock* ioBlocks;     // its rows: some of the old map's, or all of the new segment's
    uint32_t first;                 // number of ioBlocks[0] in the rows of blocks, before they move
    std::vector<uint32_t> numbers;  // per row: whether it is needed, then its number in the new map
  };

  void placeSegments() {
    std::map<size_t, uint32_t> partOf;  // group → number in parts_
    new_.segments.clear();
    uint32_t first = 0;
    for (uint32_t segment = 0; segment < old_.segments.size(); ++segment) {
      uint32_t end = first;
      while (end < old_.ioBlocks.size() && old_.ioBlocks[end].segment == segment) ++end;
      const Plan::Fate& fate = plan_.fateOf(plan_.live().indexOf(old_.segments[segment]));
      fates_.push_back(fate);
      const auto number = static_cast<uint32_t>(parts_.size());
      if (fate.group == kKept) {
        partOfSegment_.push_back(number);
        parts_.push_back({old_.ioBlocks.data() + first, first, std::vector<uint32_t>(end - first)});
        new_.segments.push_back(old_.segments[segment]);
      } else {
        // The new segment stands where the newest of those stood that it replaces.
        const auto [at, isNew] = partOf.emplace(fate.group, number);
        partOfSegment_.push_back(at->second);
        if (isNew) {
          const SegmentRewrite& rewrite = *rewrites_[fate.group];
          parts_.push_back(
              {rewrite.ioBlocks().data(), 0, std::vector<uint32_t>(rewrite.ioBlocks().size())});
          new_.segments.push_back(rewrite.row());
        }
      }
      first = end;
    }
  }

  void placeIoBlocks() {
    // Which IO blocks are needed, then their numbers, then the rows of the blocks.
    for (size_t block = 0; block < old_.blocks.size(); ++block) {
      MapBlock& row = new_.blocks[block];
      if (row.codec == Codec::zero) continue;
      const MapIoBlock& io = old_.ioBlocks[row.ioBlock];
      if (const Plan::Fate& fate = fates_[io.segment]; fate.group != kKept) {
        const SegmentRewrite::Place place =
            rewrites_[fate.group]->placeOf(fate.source, io.offset + row.offset);
        row.ioBlock = place.ioBlock;
        row.offset = place.offset;
      }
      Part& part = partWith(block);
      part.numbers[row.ioBlock - part.first] = 1;
    }
    new_.ioBlocks.clear();
    for (uint32_t segment = 0; segment < parts_.size(); ++segment) {
      Part& part = parts_[segment];
      for (uint32_t i = 0; i < part.numbers.size(); ++i) {
        if (part.numbers[i] == 0) continue;
        part.numbers[i] = static_cast<uint32_t>(new_.ioBlocks.size());
        new_.ioBlocks.push_back(part.ioBlocks[i]);
        new_.ioBlocks.back().segment = segment;
      }
    }
    for (size_t block = 0; block < old_.blocks.size(); ++block) {
      MapBlock& row = new_.blocks[block];
      if (row.codec == Codec::zero) continue;
      const Part& part = partWith(block);
      row.ioBlock = part.numbers[row.ioBlock - part.first];
    }
  }

  Part& partWith(size_t block) {
    return parts_[partOfSegment_[old_.ioBlocks[old_.blocks[block].ioBlock].segment]];
  }

  const Plan& plan_;
  const std::vector<std::unique_ptr<SegmentRewrite>>& rewrites_;
  const MemoryMap& old_;
  MemoryMap new_;
  std::vector<Part> parts_;              // segments of the new map
  std::vector<Plan::Fate> fates_;        // per segment of the old map
  std::vector<uint32_t> partOfSegment_;  // likewise: its number in parts_
};

/** A second name for a durable file; a copy where there can be no more links. */
void linkOrCopy(const std::string& from, const std::string& to) {
  if (link(from.c_str(), to.c_str()) == 0) return;
  if (errno != EMLINK && errno != EPERM) throwErrno(errno, "cannot link " + to);
  std::error_code error;
  std::filesystem::copy_file(from, to, error);
  if (error) throwErrno(error.value(), "cannot write " + to);
  CheckpointFile::open(to).sync();
}

}  // namespace

Compaction planCompaction(const std::vector<std::string>& directories) {
  return Plan(directories).summary();
}

Compaction compactCheckpoints(const std::vector<CompactionTarget>& targets, Progress& progress) {
  std::vector<std::string> directories;
  for (const CompactionTarget& target : targets) directories.push_back(target.directory);
  const Plan plan(directories);
  Compaction done = plan.summary();
  for (const Compaction::Checkpoint& checkpoint : done.checkpoints) {
    const std::string& staging = targets[checkpoint.index].staging;
    if (mkdir(staging.c_str(), 0700) != 0) throwErrno(errno, "cannot create " + staging);
  }

  for (const Group& group : plan.groups())
    for (const LiveSegment* const source : group)
      for (const MapIoBlock& io : source->ioBlocks) progress.expect(io.bytes);
  done.writtenBytes = 0;
  std::vector<std::unique_ptr<SegmentRewrite>> rewrites;
  for (const Group& group : plan.groups()) {
    const std::vector<uint32_t>& checkpoints = group[0]->checkpoints;
    const std::string& first = targets[checkpoints[0]].staging;
    rewrites.push_back(std::make_unique<SegmentRewrite>(first, group, progress));
    const MapSegment& row = rewrites.back()->row();
    done.writtenBytes += row.bytes;
    for (size_t i = 1; i < checkpoints.size(); ++i)
      linkOrCopy(first + "/" + row.name, targets[checkpoints[i]].staging + "/" + row.name);
  }

  for (Compaction::Checkpoint& checkpoint : done.checkpoints) {
    const CompactionTarget& target = targets[checkpoint.index];
    const MemoryMap old = MemoryMap::read(Plan::mapFile(target.directory));
    const MemoryMap map = MapRewrite(plan, rewrites, old).run();
    for (const MapSegment& segment : map.segments) checkpoint.segments.emplace_back(segment.name);
    const std::vector<std::byte> bytes = map.encode();
    const CheckpointFile file = CheckpointFile::create(Plan::mapFile(target.staging));
    file.write(0, std::span<const std::byte>(bytes));
    file.sync();
    progress.advance(0);
  }
  return done;
}

}  // namespace ckptfs
