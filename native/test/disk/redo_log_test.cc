// One redo log: what it keeps, what it refuses, and what a full disk or a failed flush does to it.
#include "disk/redo_log.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <cstring>

#include "test/disk/scratch.h"

namespace {
std::atomic<bool> syncsFail{false};
std::atomic<int> syncs{0};
}  // namespace

// Stands in for the C library's in this executable, so that a test can make it fail.
extern "C" int fdatasync(int fd) {
  syncs++;
  if (syncsFail) {
    errno = EIO;
    return -1;
  }
  return int(syscall(SYS_fdatasync, fd));
}

namespace ckptfs {
namespace {

constexpr uint64_t kBlock = 4096, kBlocks = 100;

void put(RedoLog& log, uint64_t first, const Bytes& bytes) {
  Record record = Record::data(first, bytes.size() / log.blockBytes(), log.blockBytes());
  std::copy(bytes.begin(), bytes.end(), record.data().begin());
  log.write(record);
}

Bytes get(const RedoLog& log, uint64_t first, uint64_t count) {
  Bytes bytes(count * log.blockBytes());
  for (uint64_t done = 0; done < count;) {
    const auto run = log.read(first + done, std::span(bytes).subspan(done * log.blockBytes()));
    REQUIRE(run.here);
    done += run.count;
  }
  return bytes;
}

TEST_CASE("redo log: what is written is read back, here and after reopening") {
  Scratch scratch;
  Random random(3);
  const std::string path = scratch.path("redo");
  const Bytes a = randomBytes(random, 3 * kBlock), b = randomBytes(random, kBlock);
  const auto check = [&](const RedoLog& log) {
    Bytes rest(kBlocks * kBlock);
    auto run = log.read(0, rest);
    CHECK_FALSE(run.here);
    CHECK(run.count == 10);
    CHECK(get(log, 10, 1) == Bytes(a.begin(), a.begin() + kBlock));
    CHECK(get(log, 11, 1) == b);
    CHECK(get(log, 12, 3) == Bytes(3 * kBlock));
    run = log.read(15, std::span(rest).first(85 * kBlock));
    CHECK_FALSE(run.here);
    CHECK(run.count == 85);
  };
  uint64_t bytes;
  {
    auto log = RedoLog::create(path, kBlocks * kBlock, {});
    put(*log, 10, a);
    put(*log, 11, b);
    log->writeZeroes(12, 3);
    check(*log);
    bytes = log->bytes();
  }
  {
    auto log = RedoLog::open(path, RedoLog::Mode::reader);
    CHECK_FALSE(log->sealed());
    CHECK(log->bytes() == bytes);
    check(*log);
    CHECK(codeOf([&] { put(*log, 0, b); }) == Code::usage);
  }
  {
    auto log = RedoLog::open(path, RedoLog::Mode::writer);
    check(*log);
    log->seal();
    log->seal();
    check(*log);
    CHECK(codeOf([&] { put(*log, 0, b); }) == Code::usage);
    CHECK(codeOf([&] { log->writeZeroes(0, 1); }) == Code::usage);
    bytes = log->bytes();
    RedoLog::open(path, RedoLog::Mode::reader);  // shared once sealed
  }
  auto log = RedoLog::open(path, RedoLog::Mode::writer);
  CHECK(log->sealed());
  CHECK(log->bytes() == bytes);
  CHECK(std::filesystem::file_size(path) == bytes);
  check(*log);
  CHECK(verifyRedoLog(path, bytes).empty());
  CHECK(verifyRedoLog(path, std::nullopt).empty());
  CHECK_FALSE(verifyRedoLog(path, bytes + 512).empty());
}

TEST_CASE("redo log: bad use and bad files are refused by name") {
  Scratch scratch;
  const std::string path = scratch.path("redo");
  const auto create = [&](uint64_t bytes, uint32_t block) {
    RedoLog::Options options;
    options.blockBytes = block;
    return RedoLog::create(path, bytes, options);
  };
  CHECK(codeOf([&] { create(kBlock, 1000); }) == Code::usage);
  CHECK(codeOf([&] { create(kBlock, 256); }) == Code::usage);
  CHECK(codeOf([&] { create(kBlock, 1 << 17); }) == Code::usage);
  CHECK(codeOf([&] { create(0, 4096); }) == Code::usage);
  CHECK(codeOf([&] { create(1000, 4096); }) == Code::usage);
  CHECK_FALSE(std::filesystem::exists(path));
  {
    auto log = create(kBlock, 4096);
    CHECK(codeOf([&] { create(kBlock, 4096); }) == Code::exists);
    std::string message;
    CHECK(codeOf([&] { RedoLog::open(path, RedoLog::Mode::reader); }, &message) == Code::busy);
    CHECK(message.find("(pid " + std::to_string(getpid()) + ")") != std::string::npos);
    CHECK(codeOf([&] { verifyRedoLog(path, std::nullopt); }) == Code::busy);
  }
  const auto open = [&] { RedoLog::open(path, RedoLog::Mode::reader); };
  const Bytes good = contents(path);
  Bytes later = good;
  later[8] = std::byte{2};
  const uint64_t checksum = XXH3_64bits(later.data(), 504);
  std::memcpy(&later[504], &checksum, sizeof checksum);
  scratch.file("redo", later);
  CHECK(codeOf(open) == Code::unsupported);
  scratch.file("redo", Bytes(good.begin(), good.begin() + 511));
  CHECK(codeOf(open) == Code::damaged);
  scratch.file("redo", Bytes(4096));
  CHECK(codeOf(open) == Code::damaged);
  for (size_t i = 0; i < good.size(); i++) {
    Bytes bad = good;
    bad[i] ^= std::byte{0x10};
    scratch.file("redo", bad);
    CHECK(codeOf(open) == Code::damaged);
  }
  CHECK(codeOf([&] { RedoLog::open(scratch.path("none"), RedoLog::Mode::reader); }) ==
        Code::notFound);
  CHECK(verifyRedoLog(scratch.path("none"), 1).size() == 1);
}

TEST_CASE("redo log: no space is an error that names the file and changes nothing") {
  Scratch scratch;
  Random random(4);
  const std::string path = scratch.path("redo");
  const Bytes a = randomBytes(random, kBlock), b = randomBytes(random, 8 * kBlock);
  auto log = RedoLog::create(path, kBlocks * kBlock, {});
  put(*log, 0, a);
  const uint64_t before = log->bytes();

  rlimit saved;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &saved) == 0);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  const rlimit tight = {before + 5000, saved.rlim_max};
  std::string message;
  Code full, fullSeal;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &tight) == 0);
  try {
    full = codeOf([&] { put(*log, 1, b); }, &message);
    put(*log, 1, a);  // this one fits
    fullSeal = codeOf([&] { log->seal(); });
  } catch (...) {
    setrlimit(RLIMIT_FSIZE, &saved);
    throw;
  }
  setrlimit(RLIMIT_FSIZE, &saved);
  signal(SIGXFSZ, ignored);

  CHECK(full == Code::noSpace);
  CHECK(fullSeal == Code::noSpace);
  CHECK(message.find(path) != std::string::npos);
  CHECK(log->bytes() == before + 512 + kBlock);
  CHECK(std::filesystem::file_size(path) == log->bytes());
  CHECK_FALSE(log->sealed());
  put(*log, 2, b);
  log->seal();
  CHECK(get(*log, 0, 1) == a);
  CHECK(get(*log, 1, 1) == a);
  CHECK(get(*log, 2, 8) == b);
  const uint64_t bytes = log->bytes();
  log.reset();
  CHECK(verifyRedoLog(path, bytes).empty());
}

TEST_CASE("redo log: after a failed flush it takes nothing more") {
  Scratch scratch;
  Random random(5);
  const Bytes a = randomBytes(random, kBlock);
  auto log = RedoLog::create(scratch.path("redo"), kBlocks * kBlock, {});
  put(*log, 0, a);
  log->flush();
  const int before = syncs;
  log->flush();  // nothing new: no sync
  CHECK(syncs == before);
  put(*log, 1, a);
  syncsFail = true;
  CHECK(codeOf([&] { log->flush(); }) == Code::io);
  syncsFail = false;
  std::string message;
  CHECK(codeOf([&] { log->flush(); }, &message) == Code::io);
  CHECK(message.find("earlier flush failed") != std::string::npos);
  CHECK(codeOf([&] { put(*log, 2, a); }) == Code::io);
  CHECK(codeOf([&] { log->writeZeroes(2, 1); }) == Code::io);
  CHECK(codeOf([&] { log->seal(); }) == Code::io);
  CHECK(get(*log, 0, 1) == a);
}

}  // namespace
}  // namespace ckptfs
