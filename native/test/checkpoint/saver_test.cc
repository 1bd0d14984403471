// The oracle: a copy of RAM taken in the pause equals the saved image byte for byte.
#include "checkpoint/save/saver.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstring>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/upkeep/verify.h"
#include "guest_threads.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;
const Geometry kLargePages{.pageBytes = 32768, .pagesPerBlock = 4, .blocksPerIoBlock = 3};

constexpr int kRounds = kSanitized ? 2 : 6;

std::vector<std::byte> readAll(const MemoryImage& image) {
  std::vector<std::byte> bytes(image.bytes());
  CHECK(image.read(0, bytes) == bytes.size());
  return bytes;
}

struct Case {
  std::string engine;
  format::Codec codec;
  Geometry geometry;
  uint64_t bytes;
  uint64_t mappingLimit = 0;
};

void rounds(const Case& c, int count) {
  CAPTURE(c.engine);
  CAPTURE(static_cast<int>(c.codec));
  GuestMemory memory(c.bytes, c.geometry, c.engine, c.mappingLimit);
  fillMemory(memory, 1);
  GuestThreads guest = writersOf(memory);
  uint64_t byVcpus = 0;
  for (int round = 0; round < count; ++round) {
    CAPTURE(round);
    const TempDirectory directory;
    std::vector<std::byte> oracle;
    SaveResult result;
    {
      SaveOptions options{.directory = directory.path(), .codec = c.codec, .vcpus = 2};
      options.workers = 1 + static_cast<unsigned>(round) % 3;
      Saver saver(memory, options);
      guest.pause();
      oracle = copyOf(memory);
      saver.arm();
      guest.resume();
      for (const uint64_t until = guest.steps() + 8; guest.steps() < until;)
        std::this_thread::yield();
      saver.start();
      result = saver.wait();
      const SaveProgress progress = saver.progress();
      CHECK(progress.blocksSaved == progress.blocksTotal);
    }
    byVcpus += result.vcpu;
    CHECK(result.vcpu + result.background + result.zero + result.duplicate == memory.blockCount());
    CHECK(result.parent == 0);
    CHECK(verifyMemoryImage(directory.path()).empty());
    const MemoryImage image(directory.path());
    REQUIRE(std::memcmp(readAll(image).data(), oracle.data(), oracle.size()) == 0);
    uint64_t stored = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
      stored += entry.file_size();
    CHECK(result.storedBytes == stored);
    CHECK(result.segments.size() == image.map().segments.size());
    for (const auto& row : image.map().blocks)
      REQUIRE((row.codec == c.codec || row.codec == format::Codec::raw ||
               row.codec == format::Codec::zero));
  }
  CHECK(byVcpus > 0);
}

/** Saves with a directory in which writing fails, and checks that the guest does not notice. */
void failingSave(GuestMemory& memory, const std::string& directory, Code code) {
  for (uint64_t at = 0; at < memory.bytes(); at += 8)
    storeWord(memory.hostView(), at, at * 0x9e3779b97f4a7c15);  // does not compress
  Saver saver(memory, {directory, format::Codec::lz4, 1});
  saver.arm();
  saver.start();
  std::jthread([&] {
    GuestMemory::attachThread();
    for (uint64_t at = 0; at < memory.bytes(); at += 4096) storeWord(memory.guestView(), at, 1);
  }).join();
  try {
    saver.wait();
    FAIL("the save succeeded");
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).find(directory) != std::string::npos);
    CHECK(std::string(error.what()).find("try again") != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(directory + "/memory.map"));
  for (BlockId block = 0; block < memory.blockCount(); ++block)
    REQUIRE(memory.state(block) == BlockState::open);
  CHECK(memory.counters().mappings == 1);
  CHECK(loadWord(memory.hostView(), 4096) == 1);
  CHECK(loadWord(memory.hostView(), 4104) == 4104 * 0x9e3779b97f4a7c15);
}

}  // namespace

TEST_CASE("saver: equals the oracle") {
  for (const std::string& engine : usableEngines())
    for (const format::Codec codec :
         {format::Codec::raw, format::Codec::lz4, format::Codec::zstd}) {
      rounds({engine, codec, kGeometry, kSanitized ? 4 << 20 : 16 << 20}, kRounds);
      rounds({engine, codec, kLargePages, kSanitized ? 6 << 20 : 24 << 20}, kRounds);
    }
}
TEST_CASE("saver: equals the oracle, 64 MiB") {
  rounds({"mprotect", format::Codec::lz4, kGeometry, kSanitized ? 16 << 20 : 64 << 20},
         kSanitized ? 1 : 3);
}
TEST_CASE("saver: equals the oracle within a small mapping budget") {
  rounds({"mprotect", format::Codec::lz4, kGeometry, 16 << 20, 3}, kSanitized ? 1 : 5);
  rounds({"mprotect", format::Codec::lz4, kGeometry, 16 << 20, 40}, kSanitized ? 1 : 5);
}

TEST_CASE("saver: a stopped guest, and memory never touched") {
  const TempDirectory directory;
  GuestMemory memory(8 << 20, kGeometry);
  Saver saver(memory, {directory.path(), format::Codec::lz4, 1});
  saver.arm();
  saver.start();
  const SaveResult result = saver.wait();
  CHECK(result.zero == memory.blockCount());
  CHECK(result.vcpu + result.background + result.faults == 0);
  CHECK(memory.isHole(0));  // saving allocated nothing
  CHECK(readAll(MemoryImage(directory.path())) == std::vector<std::byte>(8 << 20));
  CHECK(verifyMemoryImage(directory.path()).empty());
}

TEST_CASE("saver: vCPU threads fill the hot segment in the order of their writes") {
  const TempDirectory directory;
  GuestMemory memory(8 << 20, kGeometry);
  fillMemory(memory, 7);
  std::vector<BlockId> order;
  {
    SaveOptions options{.directory = directory.path()};
    options.workers = 1;  // several write IO blocks in about the order in which they were filled
    Saver saver(memory, options);
    saver.arm();
    std::jthread([&] {
      GuestMemory::attachThread();
      std::mt19937_64 random(3);
      std::vector<bool> seen(memory.blockCount());
      for (int i = 0; i < 40; ++i) {
        const BlockId block = random() % memory.blockCount();
        const std::byte* const at = memory.hostView() + memory.geometry().offsetOf(block);
        if (!seen[block] && !format::isZero({at, memory.geometry().blockBytes()}))
          order.push_back(block);
        seen[block] = true;
        storeWord(memory.guestView(), memory.geometry().offsetOf(block), 5);
      }
    }).join();
    saver.start();
    CHECK(saver.wait().vcpu == order.size());
  }
  const MemoryImage image(directory.path());
  std::vector<std::pair<uint64_t, BlockId>> hot;
  for (BlockId block = 0; block < memory.blockCount(); ++block) {
    const format::MapBlock& row = image.map().blocks[block];
    if (row.codec == format::Codec::zero) continue;
    const format::MapIoBlock& io = image.map().ioBlocks[row.ioBlock];
    if (image.map().segments[io.segment].kind == format::SegmentKind::hot)
      hot.emplace_back(io.offset + row.offset, block);
  }
  std::sort(hot.begin(), hot.end());
  REQUIRE(hot.size() == order.size());
  for (size_t i = 0; i < hot.size(); ++i) CHECK(hot[i].second == order[i]);
}

TEST_CASE("saver: vCPUs get on with little staging memory, under a limit, beside busy disks") {
  const TempDirectory directory;
  GuestMemory memory(8 << 20, kGeometry, "soft");
  for (uint64_t at = 0; at < memory.bytes(); at += 512) storeWord(memory.hostView(), at, at + 1);
  const std::vector<std::byte> oracle = copyOf(memory);
  SaveOptions options{.directory = directory.path()};
  options.workers = 1;
  options.stagingBytes = 1;
  options.limitBytesPerSecond = 1 << 20;  // held to it, workers would need 8 s for what follows
  options.guestIoBusy = [] { return true; };
  Saver saver(memory, options);
  saver.arm();
  saver.start();
  onVcpu([&] {
    for (uint64_t at = 0; at < memory.bytes(); at += kGeometry.blockBytes())
      guestStore(memory, at, 5);
  });
  CHECK(saver.wait().vcpu > 0);
  CHECK(readAll(MemoryImage(directory.path())) == oracle);
}

TEST_CASE("saver: what nobody writes is saved no faster than the limit, nor beside busy disks") {
  // Only the least time that it may take is looked at, which no host makes shorter.
  const auto secondsOf = [](uint64_t limit, bool ioBusy) {
    const TempDirectory directory;
    GuestMemory memory(8 << 20, kGeometry);
    for (uint64_t at = 0; at < memory.bytes(); at += 512) storeWord(memory.hostView(), at, at + 1);
    SaveOptions options{.directory = directory.path(), .codec = format::Codec::raw};
    options.limitBytesPerSecond = limit;
    options.guestIoBusy = [ioBusy] { return ioBusy; };
    Saver saver(memory, options);
    saver.arm();
    const auto begun = std::chrono::steady_clock::now();
    saver.start();
    CHECK(saver.wait().background == memory.blockCount());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  };
  CHECK(secondsOf(16 << 20, false) > 0.3);  // 8 MiB take 0.5 s, less what may come in a burst
  // A buffer of 256 KiB every 2 ms at most; there are 32 of them, two at once.
  CHECK(secondsOf(0, true) > 30 * 0.002);
}

TEST_CASE("saver: cancelled at several moments") {
  GuestMemory memory(16 << 20, kGeometry);
  fillMemory(memory, 2);
  GuestThreads guest = writersOf(memory);
  for (int moment = 0; moment < 6; ++moment) {
    const TempDirectory directory;
    Saver saver(memory, {directory.path(), format::Codec::lz4, 2});
    if (moment == 0) continue;  // never armed
    guest.pause();
    saver.arm();
    guest.resume();
    if (moment == 1) continue;  // never started
    saver.start();
    if (moment == 2) continue;  // destroyed at work
    const uint64_t target = memory.blockCount() * static_cast<uint64_t>(moment - 3) / 3;
    while (saver.progress().blocksSaved < target) std::this_thread::yield();
    saver.cancel();
    bool saved = true;  // if it was done first
    try {
      saver.wait();
    } catch (const Error& error) {
      CHECK(error.code() == Code::cancelled);
      saved = false;
    }
    CHECK(std::filesystem::exists(directory.path() + "/memory.map") == saved);
  }
  for (BlockId block = 0; block < memory.blockCount(); ++block)
    REQUIRE(memory.state(block) == BlockState::open);
}

TEST_CASE("saver: a file that may not grow fails the save, not the guest") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry);  // its own file is larger than the limit
  struct Limit {
    struct rlimit before;
    sighandler_t handler = signal(SIGXFSZ, SIG_IGN);
    Limit() {
      getrlimit(RLIMIT_FSIZE, &before);
      const struct rlimit small = {600'000, before.rlim_max};
      setrlimit(RLIMIT_FSIZE, &small);
    }
    ~Limit() {
      setrlimit(RLIMIT_FSIZE, &before);
      signal(SIGXFSZ, handler);
    }
  } const limit;
  failingSave(memory, directory.path(), Code::io);
}

TEST_CASE("saver: a full filesystem is told as such") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry);
  if (mount("none", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    MESSAGE("may not mount a small tmpfs here: not run");
    return;
  }
  struct Unmount {
    const std::string path;
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
  } const unmount{directory.path()};
  failingSave(memory, directory.path(), Code::noSpace);
}

TEST_CASE("saver: an unusable directory or geometry is refused before the pause") {
  const TempDirectory directory;
  GuestMemory memory(1 << 20, kGeometry);
  CHECK_THROWS_AS(Saver(memory, {directory.path() + "/none", format::Codec::lz4, 1}), Error);
  const Geometry huge{.pageBytes = 1 << 21, .pagesPerBlock = 16, .blocksPerIoBlock = 16};
  GuestMemory large(huge.blockBytes(), huge);
  CHECK_THROWS_AS(Saver(large, {directory.path(), format::Codec::lz4, 1}), Error);
  CHECK(std::filesystem::is_empty(directory.path()));
}
