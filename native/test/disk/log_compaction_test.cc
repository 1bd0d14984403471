// Compaction: what it keeps, how large it becomes, what it leaves when it fails.
#include "disk/log_compaction.h"

#include <sys/resource.h>

#include <csignal>
#include <future>

#include "disk/chain.h"
#include "test/disk/model.h"

namespace ckptfs {
namespace {

constexpr uint64_t kBlock = 4096, kBlocks = 64;

/** A disk of some sealed logs, in which each block has several versions. */
struct Rewritten {
  Rewritten() : parent(scratch.file("parent", bytes)) {
    chain = Chain::open(parent, std::nullopt, {}, Chain::Access::redo);
    for (int log = 0; log < 4; ++log) {
      push();
      for (int i = 0; i < 100; ++i) write(random() % 16 + uint64_t(log) * 4, 1 + random() % 8);
      discard(40, 10);
      write(44, 2);
    }
    push();
    chain->sealFrozen();
    view = chain->frozenView();
    then = bytes;
  }
  void push() { chain->push(chain->prepare(scratch.path(std::to_string(next++) + ".redo"))); }
  void write(uint64_t first, uint64_t count) {
    const Bytes data = randomBytes(random, count * kBlock);
    chain->write(first * kBlock, data);
    std::copy(data.begin(), data.end(), bytes.begin() + long(first * kBlock));
  }
  void discard(uint64_t first, uint64_t count) {
    chain->discard(first * kBlock, count * kBlock);
    std::fill_n(bytes.begin() + long(first * kBlock), count * kBlock, std::byte{0});
  }
  void reopen() {
    const auto layers = specs(*chain);
    view.reset();
    chain.reset();
    chain = Chain::open(parent, std::nullopt, layers, Chain::Access::redo);
  }
  LogRun run(size_t first, size_t logs, const std::string& name = "one.redo") {
    return {first, logs, scratch.path(name)};
  }
  LogId idOf(const std::string& path) {
    return RedoLog::open(path, RedoLog::Mode::reader)->header().id;
  }

  Scratch scratch{Scratch::memory()};
  Random random{3};
  Bytes bytes = randomBytes(random, kBlocks* kBlock);
  std::string parent;
  std::unique_ptr<Chain> chain, view;
  Bytes then;
  int next = 0;
};

/** While it lives no file can be longer, as on a full filesystem. */
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_;
  void (*handler_)(int) = std::signal(SIGXFSZ, SIG_IGN);
};

TEST_CASE("compaction: one log in the place of several, with the id of the newest") {
  Rewritten disk;
  const auto before = disk.chain->layers();
  Progress progress;
  disk.chain->compact({disk.run(1, 2)}, progress);
  const auto after = disk.chain->layers();
  REQUIRE(after.size() == before.size() - 1);
  CHECK(after[1].path == disk.scratch.path("one.redo"));
  CHECK(after[1].sealed);
  CHECK(after[1].bytes < before[1].bytes + before[2].bytes);
  CHECK(disk.idOf(after[1].path) == disk.idOf(before[2].path));
  const auto log = RedoLog::open(after[1].path, RedoLog::Mode::reader);
  CHECK(log->header().parentId == disk.idOf(before[0].path));
  CHECK(verifyRedoLog(after[1].path, after[1].bytes).empty());
  CHECK(all(*disk.chain) == disk.bytes);
  CHECK(all(*disk.view) == disk.then);
  // The old logs are what they were: whoever has links to them sees the same.
  for (const auto& layer : before)
    if (layer.sealed) CHECK(verifyRedoLog(layer.path, layer.bytes).empty());
  disk.write(3, 9);
  disk.reopen();
  CHECK(all(*disk.chain) == disk.bytes);
  disk.chain->push(disk.chain->prepare(disk.scratch.path("next.redo")));
  disk.write(0, 2);
  CHECK(all(*disk.chain) == disk.bytes);
}

TEST_CASE("compaction: several runs at once, one of a single log under its own name") {
  Rewritten disk;
  const auto before = disk.chain->layers();
  const auto survey = disk.chain->survey();
  Progress progress;
  disk.chain->compact({{0, 2, disk.scratch.path("a.redo")}, {3, 1, before[3].path}}, progress);
  const auto after = disk.chain->layers();
  REQUIRE(after.size() == 4);
  CHECK(after[1].path == before[2].path);
  CHECK(after[2].path == before[3].path);
  CHECK(after[2].bytes == survey[3].compactBytes);
  CHECK(disk.chain->survey()[2].compactBytes == after[2].bytes);
  CHECK(all(*disk.chain) == disk.bytes);
  CHECK(all(*disk.view) == disk.then);
  disk.reopen();
  CHECK(all(*disk.chain) == disk.bytes);
}

TEST_CASE("compaction: the newest log too, once it is sealed; what is committed then is the disk") {
  Rewritten disk;
  disk.view.reset();
  disk.chain->seal();
  Progress progress;
  const size_t logs = disk.chain->layers().size();
  disk.chain->compact({disk.run(0, logs)}, progress);
  CHECK(disk.chain->layers().size() == 1);
  const LogId id = disk.idOf(disk.scratch.path("one.redo"));
  disk.chain->commit({.logs = 1}, progress);
  CHECK(disk.chain->committed() == id);
  CHECK(contents(disk.parent) == disk.bytes);
}

TEST_CASE("compaction: the survey says what is live in the disk, of each log") {
  const Scratch scratch(Scratch::memory());
  const auto chain = Chain::open(scratch.file("parent", Bytes(kBlocks * kBlock)), std::nullopt, {},
                                 Chain::Access::redo);
  const auto push = [&](const char* name) { chain->push(chain->prepare(scratch.path(name))); };
  const auto write = [&](uint64_t first, uint64_t count) {
    chain->write(first * kBlock, Bytes(count * kBlock, std::byte{1}));
  };
  push("a");
  write(0, 10);
  write(0, 10);  // hides what came before
  push("b");
  write(8, 4);
  chain->discard(0, kBlock);
  push("c");
  write(9, 1);
  chain->sealFrozen();
  const auto survey = chain->survey();
  REQUIRE(survey.size() == 3);
  CHECK(survey[0].liveBytes == 7 * kBlock);
  CHECK(survey[1].liveBytes == 3 * kBlock);
  CHECK(survey[2].liveBytes == kBlock);
  CHECK(survey[0].sealed);
  CHECK(!survey[2].sealed);
  CHECK(survey[0].bytes == chain->layers()[0].bytes);
  CHECK(survey[0].compactBytes < survey[0].bytes);
  CHECK(survey[0].compactBytes > 10 * kBlock);
}

TEST_CASE("compaction: an extent of zeros stays one, and data within it data") {
  const Scratch scratch(Scratch::memory());
  const Bytes old(1000 * kBlock, std::byte{9});
  const auto chain =
      Chain::open(scratch.file("parent", old), std::nullopt, {}, Chain::Access::redo);
  chain->push(chain->prepare(scratch.path("a")));
  chain->discard(0, old.size());
  for (uint64_t block = 0; block < 1000; block += 2)
    chain->write(block * kBlock, Bytes(kBlock, std::byte{1}));
  chain->push(chain->prepare(scratch.path("b")));
  chain->sealFrozen();
  const Bytes expected = all(*chain);
  Progress progress;
  chain->compact({{0, 1, scratch.path("a")}}, progress);
  const auto index = RedoLog::open(scratch.path("a"), RedoLog::Mode::reader)->sealedIndex();
  CHECK(index->extents().size() == 1);
  CHECK(index->entries().size() == 500);
  CHECK(all(*chain) == expected);
}

TEST_CASE("compaction: refused, cancelled or damaged it leaves everything as it was") {
  Rewritten disk;
  const auto before = disk.chain->layers();
  const auto unchanged = [&] {
    const auto now = disk.chain->layers();
    REQUIRE(now.size() == before.size());
    for (size_t i = 0; i < now.size(); ++i) CHECK(now[i].path == before[i].path);
    CHECK(all(*disk.chain) == disk.bytes);
    for (const char* name : {"one.redo", "one.redo.compacted", "one.redo.compacted.new"})
      CHECK(!std::filesystem::exists(disk.scratch.path(name)));
  };
  const auto compact = [&](const std::vector<LogRun>& runs) {
    Progress progress;
    disk.chain->compact(runs, progress);
  };
  CHECK(codeOf([&] { compact({disk.run(0, 0)}); }) == Code::usage);
  CHECK(codeOf([&] { compact({disk.run(0, before.size())}); }) == Code::usage);  // is written
  CHECK(codeOf([&] { compact({disk.run(1, before.size())}); }) == Code::usage);
  CHECK(codeOf([&] { compact({disk.run(0, 2), disk.run(1, 2)}); }) == Code::usage);
  CHECK(codeOf([&] {
          Progress progress;
          disk.view->compact({disk.run(0, 1)}, progress);
        }) == Code::usage);
  unchanged();

  Progress cancelled;
  cancelled.cancel();
  CHECK(codeOf([&] { disk.chain->compact({disk.run(0, 2)}, cancelled); }) == Code::cancelled);
  unchanged();

  // While one goes on there is no other.
  std::promise<void> begun, end;
  Progress slow([&, first = true](uint64_t, uint64_t) mutable {
    if (std::exchange(first, false)) {
      begun.set_value();
      end.get_future().wait();
    }
  });
  auto other = std::async(std::launch::async, [&] { disk.chain->compact({disk.run(0, 2)}, slow); });
  begun.get_future().wait();
  CHECK(codeOf([&] { compact({disk.run(2, 1, "two.redo")}); }) == Code::busy);
  Progress progress;
  CHECK(codeOf([&] { disk.chain->commit({.logs = 1}, progress); }) == Code::busy);
  disk.write(5, 3);
  slow.cancel();
  end.set_value();
  CHECK(codeOf([&] { other.get(); }) == Code::cancelled);
  unchanged();

  // No space: of two logs the second does not fit, and the first goes with it.
  std::optional<Code> full;
  {
    const FileSizeLimit limit(disk.chain->survey()[0].compactBytes + kBlock);
    try {
      compact({disk.run(0, 1, "0.new"), disk.run(1, 2)});
    } catch (const Error& error) {
      full = error.code();
    }
  }
  CHECK(full == Code::noSpace);
  CHECK(!std::filesystem::exists(disk.scratch.path("0.new.compacted")));
  unchanged();

  // A damaged block is never taken over.
  const auto log = RedoLog::open(before[1].path, RedoLog::Mode::reader);
  const IndexEntry entry = log->sealedIndex()->entries().front();
  Bytes bytes = contents(before[1].path);
  bytes[entry.offset] ^= std::byte{1};
  disk.scratch.file("1.redo", bytes);
  std::string message;
  CHECK(codeOf([&] { compact({disk.run(1, 1)}); }, &message) == Code::damaged);
  CHECK(message.find("1.redo is damaged") != std::string::npos);
  CHECK(!std::filesystem::exists(disk.scratch.path("one.redo.compacted")));
}

TEST_CASE("compaction: blocks of 512 bytes, more of them than a record holds") {
  const Scratch scratch(Scratch::memory());
  const std::string parent = scratch.file("parent", Bytes(3000 * 512));
  RedoLog::Options options;
  options.blockBytes = 512;
  RedoLog::create(scratch.path("a"), 3000 * 512, options);
  const auto chain =
      Chain::open(parent, std::nullopt, {{scratch.path("a"), {}}}, Chain::Access::redo);
  Random random(1);
  const Bytes data = randomBytes(random, 3000 * 512);
  for (uint64_t at = 0; at < data.size(); at += 512)
    chain->write(at, std::span(data).subspan(at, 512));
  chain->push(chain->prepare(scratch.path("b")));
  chain->sealFrozen();
  const uint64_t expected = chain->survey()[0].compactBytes;
  Progress progress;
  chain->compact({{0, 1, scratch.path("a")}}, progress);
  CHECK(chain->layers()[0].bytes == expected);
  CHECK(all(*chain) == data);
}

TEST_CASE("a seal is seen without reading the log") {
  Rewritten disk;
  const auto layers = disk.chain->layers();
  CHECK(hasSeal(layers.front().path));
  disk.chain.reset();
  disk.view.reset();
  CHECK(!hasSeal(layers.back().path));
  CHECK(codeOf([&] { hasSeal(disk.scratch.path("none")); }) == Code::notFound);
  CHECK(codeOf([&] { hasSeal(disk.parent); }) == Code::damaged);
}

}  // namespace
}  // namespace ckptfs
