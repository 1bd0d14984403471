// What a kill, a power loss or a flipped byte leaves of a redo log: either the truth or an error.
#include <map>

#include "disk/redo_log.h"
#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

// Small blocks keep the files small enough to try every byte.
constexpr uint64_t kBlock = 512, kBlocks = 40;

// A log under construction, with what the disk held after each record.
struct History {
  using State = std::map<uint64_t, Bytes>;  // blocks that are here

  explicit History(const Scratch& scratch) : path(scratch.path("redo")) {
    RedoLog::Options options;
    options.blockBytes = kBlock;
    log = RedoLog::create(path, kBlocks * kBlock, options);
    note();
  }
  void write(uint64_t first, uint64_t count) {
    Record record = Record::data(first, count, kBlock);
    const Bytes bytes = randomBytes(random, count * kBlock);
    std::copy(bytes.begin(), bytes.end(), record.data().begin());
    log->write(record);
    for (uint64_t i = 0; i < count; i++)
      state[first + i] =
          Bytes(bytes.begin() + long(i * kBlock), bytes.begin() + long((i + 1) * kBlock));
    note();
  }
  void zero(uint64_t first, uint64_t count) {
    log->writeZeroes(first, count);
    for (uint64_t i = 0; i < count; i++) state[first + i] = Bytes(kBlock);
    note();
  }
  void flush() {
    log->flush();
    durable = std::prev(after.end())->first;  // before the mark
    note();
  }
  void note() { after[log->bytes()] = state; }
  /** The state at the last record that ends within `bytes`. */
  const State& at(uint64_t bytes) const { return std::prev(after.upper_bound(bytes))->second; }
  uint64_t endAt(uint64_t bytes) const { return std::prev(after.upper_bound(bytes))->first; }

  std::string path;
  Random random{6};
  std::unique_ptr<RedoLog> log;
  State state;
  std::map<uint64_t, State> after;
  uint64_t durable = 0;
};

// How many blocks differ from `state`; `refused` counts those that gave Error(damaged) instead.
uint64_t wrongBlocks(const RedoLog& log, const History::State& state, uint64_t* refused = nullptr) {
  uint64_t wrong = 0;
  Bytes found(kBlock);
  for (uint64_t block = 0; block < kBlocks; block++) {
    const auto expected = state.find(block);
    try {
      const bool here = log.read(block, found).here;
      wrong += here != (expected != state.end()) || (here && found != expected->second);
    } catch (const Error& error) {
      if (refused != nullptr && error.code() == Code::damaged)
        ++*refused;
      else
        wrong++;
    }
  }
  return wrong;
}

TEST_CASE("redo recovery: cut anywhere, the whole records before the cut are there") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(3, 2);
  history.flush();
  history.zero(4, 6);
  history.write(8, 3);
  history.write(0, 1);
  history.log.reset();
  const Bytes whole = contents(history.path);
  for (uint64_t cut = sizeof(RedoHeader); cut <= whole.size(); cut++) {
    const Bytes torn(whole.begin(), whole.begin() + long(cut));
    const std::string path = scratch.file("torn", torn);
    {
      auto log = RedoLog::open(path, RedoLog::Mode::reader);
      REQUIRE(wrongBlocks(*log, history.at(cut)) == 0);
      REQUIRE(log->bytes() == history.endAt(cut));
      REQUIRE(std::filesystem::file_size(path) == cut);
    }
    auto log = RedoLog::open(path, RedoLog::Mode::writer);
    REQUIRE(wrongBlocks(*log, history.at(cut)) == 0);
    REQUIRE(std::filesystem::file_size(path) == history.endAt(cut));
    // It goes on as if nothing had happened.
    Record record = Record::data(39, 1, kBlock);
    std::fill(record.data().begin(), record.data().end(), std::byte{7});
    log->write(record);
    log->seal();
    auto state = history.at(cut);
    state[39] = Bytes(kBlock, std::byte{7});
    REQUIRE(wrongBlocks(*log, state) == 0);
    const uint64_t bytes = log->bytes();
    log.reset();
    REQUIRE(verifyRedoLog(path, bytes).empty());
  }
}

TEST_CASE("redo recovery: a seal that was cut short leaves an unsealed log with all its data") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(3, 2);
  history.zero(9, 1);
  const uint64_t end = history.log->bytes();
  history.log->seal();
  history.log.reset();
  const Bytes whole = contents(history.path);
  for (uint64_t cut = end; cut < whole.size(); cut++) {
    const std::string path = scratch.file("torn", Bytes(whole.begin(), whole.begin() + long(cut)));
    REQUIRE_FALSE(verifyRedoLog(path, whole.size()).empty());
    auto log = RedoLog::open(path, RedoLog::Mode::writer);
    REQUIRE_FALSE(log->sealed());
    REQUIRE(wrongBlocks(*log, history.state) == 0);
    log->seal();
    REQUIRE(wrongBlocks(*log, history.state) == 0);
    const uint64_t bytes = log->bytes();
    log.reset();
    REQUIRE(verifyRedoLog(path, bytes).empty());
  }
}

TEST_CASE("redo recovery: any byte of a sealed log flipped is found, and never read as data") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(3, 2);
  history.flush();
  history.zero(10, 20);
  history.write(12, 1);
  history.log->seal();
  history.log.reset();
  const Bytes whole = contents(history.path);
  CHECK(verifyRedoLog(history.path, whole.size()).empty());
  uint64_t opened = 0, refused = 0;
  for (size_t i = 0; i < whole.size(); i++) {
    Bytes bad = whole;
    bad[i] ^= std::byte(1u << i % 8);
    const std::string path = scratch.file("bad", bad);
    REQUIRE_FALSE(verifyRedoLog(path, whole.size()).empty());
    try {
      auto log = RedoLog::open(path, RedoLog::Mode::reader);
      opened++;
      REQUIRE(wrongBlocks(*log, history.state, &refused) == 0);
    } catch (const Error& error) {
      REQUIRE(error.code() == Code::damaged);
    }
  }
  CHECK(opened > 0);
  CHECK(refused == 3 * kBlock);  // each byte of each data block

  for (const size_t extra : {1, 512, 5000}) {
    Bytes longer = whole;
    longer.resize(whole.size() + extra);
    scratch.file("bad", longer);
    CHECK_FALSE(verifyRedoLog(scratch.path("bad"), whole.size()).empty());
    CHECK_FALSE(verifyRedoLog(scratch.path("bad"), std::nullopt).empty());
    CHECK(codeOf([&] { RedoLog::open(scratch.path("bad"), RedoLog::Mode::writer); }) ==
          Code::damaged);
  }
  for (size_t cut = 0; cut < whole.size(); cut += 100) {
    scratch.file("bad", Bytes(whole.begin(), whole.begin() + long(cut)));
    CHECK_FALSE(verifyRedoLog(scratch.path("bad"), whole.size()).empty());
  }
}

// Below a mark every byte was durable once, so a change there is damage; beyond the last mark a bad
// byte is the torn tail of a power loss, and takes what follows with it.
TEST_CASE("redo recovery: a bad byte is damage where a flush vouches for it, else a torn tail") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(0, 2);
  history.zero(20, 4);
  history.write(5, 1);
  history.flush();
  history.write(7, 2);
  history.write(0, 1);
  history.log.reset();
  const Bytes whole = contents(history.path);
  REQUIRE(history.durable > 512);
  for (size_t i = sizeof(RedoHeader); i < whole.size(); i++) {
    Bytes bad = whole;
    bad[i] ^= std::byte{0x40};
    const std::string path = scratch.file("bad", bad);
    uint64_t refused = 0;
    try {
      auto log = RedoLog::open(path, RedoLog::Mode::writer);
      const bool torn = i >= history.durable;
      // Data below the mark is checked when it is read; block 0 was overwritten, so nobody reads
      // it.
      REQUIRE(wrongBlocks(*log, torn ? history.at(i) : history.state, &refused) == 0);
      REQUIRE(log->bytes() == (torn ? history.endAt(i) : whole.size()));
      if (torn) REQUIRE(refused == 0);
      log.reset();
      if (!torn) REQUIRE_FALSE(verifyRedoLog(path, std::nullopt).empty());
    } catch (const Error& error) {
      REQUIRE(error.code() == Code::damaged);
      REQUIRE(i < history.durable);
      REQUIRE(contents(path) == bad);  // nothing cut
    }
  }
}

TEST_CASE("redo recovery: the mark of the last flush vouches for the records before it") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(0, 2);
  const uint64_t head = sizeof(RedoHeader) + 100;
  history.flush();
  history.log.reset();
  Bytes bad = contents(history.path);
  bad[head] ^= std::byte{1};
  const std::string path = scratch.file("bad", bad);
  CHECK(codeOf([&] { RedoLog::open(path, RedoLog::Mode::writer); }) == Code::damaged);
  bad.resize(history.durable);  // without the mark
  scratch.file("bad", bad);
  CHECK(RedoLog::open(path, RedoLog::Mode::writer)->empty());
}

TEST_CASE("redo recovery: a hole before whole but unflushed records is a torn tail") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  history.write(0, 2);
  history.flush();
  const uint64_t end = history.log->bytes();
  history.write(5, 3);
  const uint64_t next = history.log->bytes();
  history.write(9, 3);
  history.log.reset();
  Bytes bad = contents(history.path);
  std::fill(bad.begin() + long(end), bad.begin() + long(next), std::byte{0});
  const std::string path = scratch.file("bad", bad);
  auto log = RedoLog::open(path, RedoLog::Mode::writer);
  CHECK(log->bytes() == end);
  CHECK(wrongBlocks(*log, history.at(end)) == 0);
}

TEST_CASE("redo recovery: records of another log are no records") {
  Scratch scratch(Scratch::memory());
  History history(scratch);
  const uint64_t end = history.log->bytes();
  history.write(1, 1);
  history.log.reset();
  Bytes own = contents(history.path);
  RedoLog::Options options;
  options.blockBytes = kBlock;
  RedoLog::create(scratch.path("other"), kBlocks * kBlock, options);
  Bytes other = contents(scratch.path("other"));
  other.insert(other.end(), own.begin() + long(end), own.end());
  scratch.file("other", other);
  auto log = RedoLog::open(scratch.path("other"), RedoLog::Mode::writer);
  CHECK(log->empty());
}

}  // namespace
}  // namespace ckptfs
