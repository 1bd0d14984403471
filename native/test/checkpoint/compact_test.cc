// Compaction of chains of increments, against the contents that were saved.
#include "checkpoint/upkeep/compact.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <set>

#include "base/error.h"
#include "base/exchange.h"
#include "checkpoint/upkeep/verify.h"
#include "image_builder.h"
#include "temp_directory.h"

using namespace ckptfs;
namespace fs = std::filesystem;

namespace {

constexpr Geometry kSmall{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 3};
constexpr uint64_t kBlocks = 120;

/** Checkpoints of one VM, each an increment of the one before, with what they must hold. */
class Chain {
 public:
  Chain(uint64_t seed, int length, unsigned changes, const Geometry& geometry = kSmall)
      : random_(seed), geometry_(geometry) {
    Contents memory = someContents(geometry, kBlocks, seed);
    for (int i = 0; i < length; ++i) {
      add(memory);
      for (unsigned n = 0; n < changes; ++n)
        fillBlock(memory, geometry, random_() % kBlocks, static_cast<Filling>(random_() % 3),
                  random_());
    }
  }

  void add(const Contents& memory) {
    const std::string base = members_.empty() ? "" : members_.rbegin()->first;
    const std::string path = directory_.make("c" + std::to_string(next_++ + 100));
    const format::Codec codecs[] = {format::Codec::lz4, format::Codec::raw, format::Codec::zstd};
    writeImage(path, memory, {.geometry = geometry_, .codec = codecs[random_() % 3], .base = base});
    members_.emplace(path, memory);
  }
  void remove(const std::string& path) {
    fs::remove_all(path);
    members_.erase(path);
  }
  void removeSome() {
    for (const std::string& path : directories())
      if (random_() % 2 == 0 && members_.size() > 2) remove(path);
  }

  std::vector<std::string> directories() const {
    std::vector<std::string> paths;
    for (const auto& [path, memory] : members_) paths.push_back(path);
    return paths;
  }
  const Contents& contentsOf(const std::string& path) const { return members_.at(path); }

  /** What the store does around the native part: exchanges and removes. */
  Compaction compact() {
    std::vector<CompactionTarget> targets;
    for (const std::string& path : directories()) targets.push_back({path, path + ".staging"});
    Progress progress;
    const Compaction done = compactCheckpoints(targets, progress);
    for (const Compaction::Checkpoint& checkpoint : done.checkpoints) {
      const CompactionTarget& target = targets[checkpoint.index];
      for (const std::string& name : checkpoint.segments)
        if (!fs::exists(target.staging + "/" + name))
          fs::create_hard_link(target.directory + "/" + name, target.staging + "/" + name);
      exchangeDirectories(target.staging, target.directory);
      fs::remove_all(target.staging);
    }
    return done;
  }

  void check() const {
    for (const auto& [path, memory] : members_) {
      CAPTURE(path);
      for (const Damage& damage : verifyMemoryImage(path)) FAIL_CHECK(damage.file, damage.what);
      CHECK((readImage(path) == memory));
      // Every file is named by the map, and every name is there.
      std::set<std::string> files, named = {MemoryMap::kFileName};
      for (const auto& entry : fs::directory_iterator(path)) files.insert(entry.path().filename());
      for (const format::MapSegment& segment :
           MemoryMap::read(path + "/" + MemoryMap::kFileName).segments)
        named.insert(segment.name);
      CHECK(files == named);
    }
  }

  /** Bytes of all segments, each counted once. */
  uint64_t bytes() const {
    std::set<ino_t> seen;
    uint64_t sum = 0;
    for (const std::string& path : directories())
      for (const auto& entry : fs::directory_iterator(path)) {
        struct stat info;
        REQUIRE(stat(entry.path().c_str(), &info) == 0);
        if (entry.path().extension() != ".map" && seen.insert(info.st_ino).second)
          sum += static_cast<uint64_t>(info.st_size);
      }
    return sum;
  }
  size_t segments(const std::string& path) const {
    return MemoryMap::read(path + "/" + MemoryMap::kFileName).segments.size();
  }

  const TempDirectory directory_;

 private:
  std::mt19937_64 random_;
  const Geometry geometry_;
  std::map<std::string, Contents> members_;  // by path, oldest first
  int next_ = 0;
};

}  // namespace

TEST_CASE("compact: a full checkpoint and a chain nobody removed from stay as they are") {
  Chain chain(1, 1, 0);
  CHECK(planCompaction(chain.directories()).rewritten == 0);
  const Compaction done = chain.compact();
  CHECK(done.checkpoints.empty());
  CHECK(done.segments == 2);
  CHECK(done.segmentBytes == chain.bytes());
  chain.check();
}

TEST_CASE("compact: chains that lost members keep every byte of the others") {
  uint64_t rewritten = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    Chain chain(seed, 8, 40, seed % 2 == 0 ? kSmall : Geometry{4096, 3, 8});
    chain.removeSome();
    chain.check();
    const uint64_t before = chain.bytes();
    const Compaction plan = planCompaction(chain.directories());
    const Compaction done = chain.compact();
    chain.check();
    CHECK(done.segments == plan.segments);
    CHECK(done.segmentBytes == before);
    CHECK(done.rewritten == plan.rewritten);
    CHECK(done.rewrittenBytes == plan.rewrittenBytes);
    CHECK(done.written == plan.written);
    CHECK(done.writtenBytes <= plan.writtenBytes);
    CHECK(chain.bytes() == before - done.rewrittenBytes + done.writtenBytes);
    if (done.rewritten > 0) CHECK(done.writtenBytes * 2 <= done.rewrittenBytes);
    rewritten += done.rewritten;
    CHECK(chain.compact().rewritten == 0);  // nothing is left to do
  }
  CHECK(rewritten > 20);
}

TEST_CASE("compact: an increment on a compacted checkpoint, and again") {
  Chain chain(7, 4, 60);
  std::mt19937_64 random(7);
  for (int round = 0; round < 12; ++round) {
    const std::string newest = chain.directories().back();
    Contents memory = chain.contentsOf(newest);
    for (int i = 0; i < 30; ++i)
      fillBlock(memory, kSmall, random() % kBlocks, Filling::noise, random());
    chain.add(memory);
    chain.remove(chain.directories()[random() % 2]);
    chain.compact();
    chain.check();
  }
}

TEST_CASE("compact: many small segments that the same checkpoints need are put together") {
  Chain chain(3, 1, 0);
  std::mt19937_64 random(3);
  for (BlockId block = 0; block < 40; ++block) {
    // Each generation changes a block of its own, and the one before is removed: all stay live.
    Contents memory = chain.contentsOf(chain.directories().back());
    fillBlock(memory, kSmall, block, Filling::noise, random());
    chain.add(memory);
    chain.remove(chain.directories().front());
  }
  CHECK(chain.segments(chain.directories()[0]) > 30);
  CHECK(chain.compact().rewritten > 30);
  CHECK(chain.segments(chain.directories()[0]) <= 5);
  chain.check();
}

TEST_CASE("compact: a new segment is one file in all the checkpoints that need it") {
  Chain chain(9, 6, 80);
  for (int i = 0; i < 3; ++i) chain.remove(chain.directories().front());
  const Compaction done = chain.compact();
  REQUIRE(done.checkpoints.size() >= 2);
  std::map<std::string, std::set<ino_t>> inodes;
  for (const std::string& path : chain.directories())
    for (const auto& entry : fs::directory_iterator(path)) {
      struct stat info;
      REQUIRE(stat(entry.path().c_str(), &info) == 0);
      if (entry.path().extension() != ".map") inodes[entry.path().filename()].insert(info.st_ino);
    }
  for (const auto& [name, files] : inodes) CHECK(files.size() == 1);
}

TEST_CASE("compact: readers of the old directory keep what they have open") {
  Chain chain(11, 5, 70);
  for (int i = 0; i < 2; ++i) chain.remove(chain.directories().front());
  const std::string path = chain.directories().front();
  const MemoryImage old(path);
  const Compaction done = chain.compact();
  REQUIRE(done.rewritten > 0);
  Contents memory(old.bytes());
  old.read(0, memory);
  CHECK((memory == chain.contentsOf(path)));
}

TEST_CASE("compact: damage is refused before anything is published") {
  Chain chain(13, 5, 70);
  for (int i = 0; i < 2; ++i) chain.remove(chain.directories().front());
  const Compaction plan = planCompaction(chain.directories());
  REQUIRE(plan.rewritten > 0);
  // Every body of every segment: whichever is copied is damaged.
  const std::string path = chain.directories().front();
  const MemoryMap map = MemoryMap::read(path + "/" + MemoryMap::kFileName);
  for (const format::MapIoBlock& io : map.ioBlocks) {
    FILE* const out = fopen((path + "/" + map.segmentName(io.segment)).c_str(), "r+");
    REQUIRE(out != nullptr);
    fseek(out, static_cast<long>(io.offset + format::bodiesAt(io.count)), SEEK_SET);
    fwrite("damage", 1, 6, out);
    fclose(out);
  }
  std::vector<CompactionTarget> targets;
  for (const std::string& directory : chain.directories())
    targets.push_back({directory, directory + ".staging"});
  Progress progress;
  CHECK_THROWS_WITH_AS(compactCheckpoints(targets, progress), doctest::Contains("ckptfs verify"),
                       Error);
  CHECK_THROWS_AS(compactCheckpoints(targets, progress), Error);  // the staging is there already
  CHECK_THROWS_AS(planCompaction({path, path + "/none"}), Error);
}

TEST_CASE("compact: progress and cancellation") {
  Chain chain(17, 5, 70);
  for (int i = 0; i < 2; ++i) chain.remove(chain.directories().front());
  std::vector<CompactionTarget> targets;
  for (const std::string& directory : chain.directories())
    targets.push_back({directory, directory + ".staging"});
  Progress cancelled;
  cancelled.cancel();
  CHECK_THROWS_WITH_AS(compactCheckpoints(targets, cancelled), "cancelled", Error);
  for (const CompactionTarget& target : targets) fs::remove_all(target.staging);
  uint64_t done = 0, total = 0;
  Progress progress([&](uint64_t bytes, uint64_t all) {
    done = bytes;
    total = all;
  });
  compactCheckpoints(targets, progress);
  CHECK(done > 0);
  CHECK(done == total);
}

TEST_CASE("exchange: directories change names, or nothing happens") {
  const TempDirectory directory;
  const std::string a = directory.make("a"), b = directory.make("b");
  fs::create_directory(a + "/in-a");
  exchangeDirectories(a, b);
  CHECK(fs::exists(b + "/in-a"));
  CHECK_FALSE(fs::exists(a + "/in-a"));
  CHECK_THROWS_AS(exchangeDirectories(a, directory.path() + "/none"), Error);
  CHECK(fs::exists(b + "/in-a"));
}
