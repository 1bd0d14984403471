// What a power cut at any moment leaves of a disk: every acknowledged flush, and every checkpoint.
//
// CKPTFS_POWER_CUTS is the number of cuts to try, 1,000 unless it is set.
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

#include "base/write_journal.h"
#include "disk/chain.h"
#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

constexpr uint64_t kSector = 512, kSectors = 256;

uint64_t cutsWanted() {
  const char* const wanted = std::getenv("CKPTFS_POWER_CUTS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 1000;
}

/** Sectors hold one number each, again and again: 0, or that of the write that they are of. */
using Sectors = std::vector<uint64_t>;

void fill(std::span<std::byte> sector, uint64_t number) {
  for (size_t at = 0; at < sector.size(); at += 8) std::memcpy(&sector[at], &number, 8);
}
/** Never of a sector that is not of one write. */
uint64_t numberOf(std::span<const std::byte> sector) {
  uint64_t number;
  std::memcpy(&number, sector.data(), 8);
  // Each word equals the next one.
  const bool one = std::memcmp(sector.data(), sector.data() + 8, sector.size() - 8) == 0;
  return one ? number : UINT64_MAX;
}

/** What a disk is opened by. */
struct Files {
  std::string parent;
  std::vector<Chain::LayerSpec> layers;
  LogId committed = {};
};

struct Checkpoint {
  size_t moment;  // from which on it is durable
  Files files;
  Sectors sectors;
};

/** A disk under a workload like a guest's, with all that was promised of it. */
class Recorded {
 public:
  Recorded(const Scratch& scratch, uint64_t seed, Chain::Access access)
      : random_(seed), access_(access), directory_(scratch.path("disk")) {
    std::filesystem::create_directory(directory_);
    Bytes parent(kSectors * kSector);
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
      now_[sector] = ++number_;
      fill(std::span(parent).subspan(sector * kSector, kSector), number_);
    }
    parentPath_ = scratch.file("disk/parent", parent);
    journal_.emplace(directory_);
    chain_ = Chain::open(parentPath_, {}, {}, access);
    files_[0] = {.parent = parentPath_, .layers = {}};
    if (access == Chain::Access::redo) push();
    flushed();
    for (int i = 0; i < 120; ++i) step();
    chain_.reset();
  }

  /** The disk is there from the first on. */
  size_t firstMoment() const { return flushes_.begin()->first; }
  size_t lastMoment() const { return journal_->now(); }

  /** Cuts the power at `moment` and looks at what is left. */
  void check(size_t moment, uint64_t seed) const {
    CAPTURE(moment);
    CAPTURE(seed);
    const Scratch scratch(Scratch::memory());
    journal_->cut(moment, seed, scratch.path(""));
    const auto open = [&](Files files, Chain::Access access) {
      const auto moved = [&](const std::string& path) {
        return scratch.path(path.substr(directory_.size() + 1));
      };
      for (Chain::LayerSpec& layer : files.layers) layer.path = moved(layer.path);
      return Chain::open(moved(files.parent), {}, files.layers, access, files.committed);
    };
    for (const Checkpoint& checkpoint : checkpoints_) {
      if (checkpoint.moment > moment) break;
      REQUIRE(read(*open(checkpoint.files, Chain::Access::readonly)) == checkpoint.sectors);
    }
    auto files = std::prev(files_.upper_bound(moment));
    if (files->first == moment && rewrites_.contains(moment)) {
      // The commit or compaction has ended, and nobody noted that yet.
      const Sectors after = read(*open(files->second, Chain::Access::readonly));
      --files;
      REQUIRE(read(*open(files->second, Chain::Access::readonly)) == after);
    }
    const auto chain = open(
        files->second, files->second.layers.empty() ? Chain::Access::direct : Chain::Access::redo);
    const Sectors left = read(*chain);
    const auto flush = std::prev(flushes_.upper_bound(moment));
    std::vector<uint64_t> wrong;
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
      // What the last flush promised, or what came later.
      bool allowed = left[sector] == flush->second[sector];
      for (auto write = writes_[sector].rbegin();
           !allowed && write != writes_[sector].rend() && write->ended > flush->first; ++write)
        allowed = write->begun < moment && write->number == left[sector];
      if (!allowed) wrong.push_back(sector);
    }
    REQUIRE(wrong.empty());
    // And it takes writes again.
    fill(buffer_, 1);
    chain->write(0, std::span(buffer_).first(kSector));
    chain->flush();
    REQUIRE(read(*chain)[0] == 1);
  }

 private:
  struct Write {
    size_t begun, ended;
    uint64_t number;
  };

  Sectors read(Chain& chain) const {
    Bytes bytes(kSectors * kSector);
    chain.read(0, bytes);
    Sectors sectors;
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
      sectors.push_back(numberOf(std::span(bytes).subspan(sector * kSector, kSector)));
    }
    return sectors;
  }

  Files files() const {
    Files files{chain_->parentPath(), {}, chain_->committed()};
    for (const Chain::LayerInfo& layer : chain_->layers())
      files.layers.push_back(
          {layer.path, layer.sealed ? std::optional(layer.bytes) : std::nullopt});
    return files;
  }
  void push() {
    chain_->push(chain_->prepare(directory_ + "/redo-" + std::to_string(++logs_)));
    Files& now = files_[journal_->now()] = files();
    // Whether a log below was sealed is not known at that moment.
    for (Chain::LayerSpec& layer : now.layers) layer.sealedBytes.reset();
  }
  /** In place where no checkpoint refers to the parent, else into a copy of it. */
  void commit() {
    push();
    chain_->sealFrozen();
    flushed();  // all but the fresh log is durable
    if (chain_->layers().size() < 2) return;
    Commit commit;
    commit.logs = 1 + random_() % (chain_->layers().size() - 1);
    if (!checkpoints_.empty()) {
      commit.into = directory_ + "/parent-" + std::to_string(logs_);
      File copy("disk", commit.into, File::Access::create);
      copy.write(0, contents(chain_->parentPath()));
      copy.sync();
      syncDirectoryOf(commit.into);
    }
    Progress progress;
    chain_->commit(commit, progress);
    rewrites_.insert(journal_->now());
    files_[journal_->now()] = files();
  }
  /** Of a run of sealed logs. */
  void compact() {
    push();
    chain_->sealFrozen();
    flushed();
    const auto layers = chain_->layers();
    if (layers.size() < 2) return;
    const size_t first = random_() % (layers.size() - 1);
    const size_t logs = 1 + random_() % (layers.size() - 1 - first);
    // A checkpoint has names of its own for its logs; here it has the same.
    // One log alone keeps its name, unless a checkpoint knows the old one by that: here they share
    // their names. Several get a new one, for until they are gone their names are needed.
    const bool keepsName = logs == 1 && !keepsCheckpoints_ && random_() % 2 == 0;
    const std::string path =
        keepsName ? layers[first].path : directory_ + "/compact-" + std::to_string(logs_);
    Progress progress;
    chain_->compact({{first, logs, path}}, progress);
    rewrites_.insert(journal_->now());
    files_[journal_->now()] = files();
  }
  void flushed() { flushes_[journal_->now()] = now_; }

  void change(uint64_t first, uint64_t count, uint64_t number, size_t begun) {
    for (uint64_t sector = first; sector < first + count; ++sector) {
      now_[sector] = number;
      writes_[sector].push_back({begun, journal_->now(), number});
    }
  }

  void step() {
    const uint64_t first = random_() % kSectors;
    const uint64_t count = 1 + random_() % std::min<uint64_t>(24, kSectors - first);
    const size_t begun = journal_->now();
    switch (random_() % 12) {
      case 0:
        chain_->writeZeroes(first * kSector, count * kSector, random_() % 2 == 0);
        return change(first, count, 0, begun);
      case 1:
        chain_->discard(first * kSector, count * kSector);
        return change(first, count, 0, begun);
      case 2:
      case 3:
        chain_->flush();
        return flushed();
      case 4:
        if (random_() % 3 != 0) return;
        push();
        chain_->sealFrozen();
        // Nothing was written since the push, so that is what the checkpoint shows.
        if (keepsCheckpoints_) {
          checkpoints_.push_back({journal_->now(), files(), now_});
          checkpoints_.back().files.layers.pop_back();
        }
        return flushed();
      case 5:
        switch (random_() % 6) {
          case 0:
            return commit();
          case 1:
            return compact();
          default:
            return;
        }
      default:
        fill(std::span(buffer_).first(count * kSector), ++number_);
        chain_->write(first * kSector, std::span(buffer_).first(count * kSector));
        return change(first, count, number_, begun);
    }
  }

  Random random_;
  const Chain::Access access_;
  const bool keepsCheckpoints_ = random_() % 2 == 0;
  const std::string directory_;
  std::string parentPath_;
  std::optional<WriteJournal> journal_;
  std::unique_ptr<Chain> chain_;
  mutable Bytes buffer_ = Bytes(24 * kSector);
  uint64_t number_ = 0, logs_ = 0;
  Sectors now_ = Sectors(kSectors);
  std::vector<std::vector<Write>> writes_ = std::vector<std::vector<Write>>(kSectors);
  std::map<size_t, Sectors> flushes_;  // by the moment they ended
  std::map<size_t, Files> files_;      // what it is opened by, from a moment on
  std::set<size_t> rewrites_;          // the moments when commits and compactions ended
  std::vector<Checkpoint> checkpoints_;
};

TEST_CASE("power cut: every prefix of what was done opens, with all that was flushed") {
  for (const Chain::Access access : {Chain::Access::redo, Chain::Access::direct}) {
    const Scratch scratch(Scratch::memory());
    const Recorded recorded(scratch, 7, access);
    for (size_t moment = recorded.firstMoment(); moment <= recorded.lastMoment(); ++moment)
      recorded.check(moment, 0);
  }
}

TEST_CASE("power cut: unsynced writes lost and reordered, all that was flushed is there") {
  const uint64_t cuts = cutsWanted();
  Random random(cuts);
  for (uint64_t done = 0; done < cuts;) {
    const Scratch scratch(Scratch::memory());
    const auto access = random() % 3 == 0 ? Chain::Access::direct : Chain::Access::redo;
    const Recorded recorded(scratch, random(), access);
    const size_t first = recorded.firstMoment();
    for (int i = 0; i < 100 && done < cuts; ++i, ++done)
      recorded.check(first + random() % (recorded.lastMoment() - first + 1), random() | 1);
  }
}

TEST_CASE("power cut: the journal loses what was not synced, and only that") {
  const Scratch scratch(Scratch::memory());
  std::filesystem::create_directory(scratch.path("from"));
  WriteJournal journal(scratch.path("from"));
  File file("disk", scratch.path("from/a"), File::Access::create);
  syncDirectoryOf(file.path());
  const Bytes old(4 * kSector, std::byte{1}), fresh(4 * kSector, std::byte{2});
  file.write(0, old);
  file.sync();
  const size_t synced = journal.now();
  file.write(0, fresh);
  file.rename(scratch.path("from/b"));
  size_t mixed = 0, lost = 0, kept = 0, named = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const std::string into = scratch.path("into" + std::to_string(seed));
    std::filesystem::create_directory(into);
    // The rename is there, its directory not synced yet.
    journal.cut(synced + 2, seed, into);
    const bool renamed = std::filesystem::exists(into + "/b");
    REQUIRE(renamed != std::filesystem::exists(into + "/a"));
    named += renamed;
    const Bytes left = contents(into + (renamed ? "/b" : "/a"));
    REQUIRE(left.size() == old.size());
    const auto sectors = std::count(left.begin(), left.end(), std::byte{2}) / long(kSector);
    (sectors == 0 ? lost : sectors == 4 ? kept : mixed)++;
    std::filesystem::remove_all(into);
  }
  CHECK(mixed > 20);
  CHECK(lost > 20);
  CHECK(kept > 20);
  CHECK(named > 20);
  CHECK(named < 180);
}

}  // namespace
}  // namespace ckptfs
