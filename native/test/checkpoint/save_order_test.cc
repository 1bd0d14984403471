// In which order blocks are saved and to which segment; blocks that share a body.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/upkeep/verify.h"
#include "saved_image.h"

using namespace ckptfs;

namespace {

const Geometry kGeometry;

/** The blocks with a body of their own in segments of this kind, in the order of the file. */
std::vector<BlockId> inFileOrder(const MemoryMap& map, format::SegmentKind kind) {
  std::vector<std::pair<uint64_t, BlockId>> found;
  for (BlockId block = 0; block < map.blocks.size(); ++block) {
    const format::MapBlock& row = map.blocks[block];
    if (row.codec == format::Codec::zero || row.flags != 0) continue;
    const format::MapIoBlock& io = map.ioBlocks[row.ioBlock];
    if (map.segments[io.segment].kind == kind) found.emplace_back(io.offset + row.offset, block);
  }
  std::sort(found.begin(), found.end());
  std::vector<BlockId> blocks;
  for (const auto& [offset, block] : found) blocks.push_back(block);
  return blocks;
}

void fillRandomly(GuestMemory& memory) {
  std::mt19937_64 random(8);
  for (uint64_t at = 0; at < memory.bytes(); at += 512) storeWord(memory.hostView(), at, random());
}

struct Ordered {
  std::vector<BlockId> accessed, others;  // by address
  SaveOptions options;
  explicit Ordered(const GuestMemory& memory, const std::string& directory) {
    options.directory = directory;
    options.workers = 1;
    options.accessed.resize(memory.blockCount());
    std::mt19937_64 random(4);
    for (BlockId block = 0; block < memory.blockCount(); ++block) {
      options.accessed[block] = random() % 3 == 0;
      (options.accessed[block] ? accessed : others).push_back(block);
    }
  }
};

}  // namespace

TEST_CASE("save order: live, what was not accessed goes first") {
  const TempDirectory directory;
  GuestMemory memory(8 << 20, kGeometry, "soft");
  fillRandomly(memory);
  Ordered ordered(memory, directory.path());
  save(memory, ordered.options);
  const MemoryMap map = MemoryMap::read(directory.path() + "/memory.map");
  CHECK(inFileOrder(map, format::SegmentKind::hot).empty());
  std::vector<BlockId> expected = ordered.others;
  expected.insert(expected.end(), ordered.accessed.begin(), ordered.accessed.end());
  CHECK(inFileOrder(map, format::SegmentKind::cold) == expected);
}

TEST_CASE("save order: suspended, what was accessed goes to the hot segment") {
  const TempDirectory directory;
  GuestMemory memory(8 << 20, kGeometry, "soft");
  fillRandomly(memory);
  Ordered ordered(memory, directory.path());
  ordered.options.suspend = true;
  save(memory, ordered.options);
  const MemoryMap map = MemoryMap::read(directory.path() + "/memory.map");
  CHECK(inFileOrder(map, format::SegmentKind::hot) == ordered.accessed);
  CHECK(inFileOrder(map, format::SegmentKind::cold) == ordered.others);
  CHECK(verifyMemoryImage(directory.path()).empty());
}

TEST_CASE("save order: holes stay holes and are saved as zeros") {
  const TempDirectory directory;
  GuestMemory memory(64 << 20, kGeometry, "soft");
  const std::vector<uint64_t> written = {3, 4, 5, 900, 1500, memory.blockCount() - 1};
  const auto hugePageOf = [](BlockId block) { return kGeometry.offsetOf(block) >> 21; };
  for (const BlockId block : written)
    storeWord(memory.hostView(), kGeometry.offsetOf(block) + 8192, 1);
  save(memory, {.directory = directory.path()});
  const MemoryMap map = MemoryMap::read(directory.path() + "/memory.map");
  for (BlockId block = 0; block < memory.blockCount(); ++block) {
    const bool data = std::count(written.begin(), written.end(), block) != 0;
    REQUIRE((map.blocks[block].codec != format::Codec::zero) == data);
    // Memory may be in huge pages: those that were holes are holes still.
    const bool nearData = std::any_of(written.begin(), written.end(), [&](BlockId one) {
      return hugePageOf(one) == hugePageOf(block);
    });
    if (data || !nearData) REQUIRE(memory.isHole(block) == !data);
  }
}

TEST_CASE("duplicates: equal blocks share a body, under writers") {
  for (const std::string& engine : usableEngines())
    for (int round = 0; round < (kSanitized ? 1 : 4); ++round) {
      const TempDirectory directory;
      GuestMemory memory(16 << 20, kGeometry, engine);
      // A few patterns, so that writers make equal blocks of unequal ones and the reverse.
      for (BlockId block = 0; block < memory.blockCount(); ++block)
        for (uint64_t at = 0; at < kGeometry.blockBytes(); at += 8)
          storeWord(memory.hostView(), kGeometry.offsetOf(block) + at, (block * 7 % 5 + 1) * 77);
      GuestThreads guest(2, [&](unsigned, std::mt19937_64& random) {
        // The first half stays for the workers, however slow they are.
        const uint64_t offset = memory.bytes() / 2 + random() % (memory.bytes() / 16) * 8;
        guestStore(memory, offset, (random() % 5 + 1) * 77);
        std::this_thread::yield();
      });
      std::vector<std::byte> oracle;
      SaveResult result;
      {
        Saver saver(memory, {.directory = directory.path(), .vcpus = 2});
        guest.pause();
        oracle = copyOf(memory);
        saver.arm();
        guest.resume();
        saver.start();
        result = saver.wait();
      }
      CHECK(result.duplicate > 0);
      const MemoryImage image(directory.path());
      std::vector<std::byte> bytes(image.bytes());
      image.read(0, bytes);
      CHECK(bytes == oracle);
      CHECK(verifyMemoryImage(directory.path()).empty());
      uint64_t aliases = 0;
      for (const format::MapBlock& row : image.map().blocks) aliases += row.flags;
      CHECK(aliases == result.duplicate);
    }
}

TEST_CASE("duplicates: an alias flag that is wrong is damage") {
  const TempDirectory directory;
  GuestMemory memory(4 << 20, kGeometry, "soft");
  for (uint64_t at = 0; at < memory.bytes(); at += 8) storeWord(memory.hostView(), at, 9);
  save(memory, {.directory = directory.path()});
  CHECK(verifyMemoryImage(directory.path()).empty());
  const std::string path = directory.path() + "/memory.map";
  const MemoryMap map = MemoryMap::read(path);
  const auto damaged = [&](const std::function<void(MemoryMap&)>& change) {
    MemoryMap other = map;
    change(other);
    const std::vector<std::byte> bytes = other.encode();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return !verifyMemoryImage(directory.path()).empty();
  };
  const auto alias = std::find_if(map.blocks.begin(), map.blocks.end(),
                                  [](const format::MapBlock& row) { return row.flags != 0; });
  REQUIRE(alias != map.blocks.end());
  const auto at = static_cast<size_t>(alias - map.blocks.begin());
  CHECK(damaged([&](MemoryMap& m) { m.blocks[at].flags = 0; }));
  const auto own = std::find_if(map.blocks.begin(), map.blocks.end(),
                                [](const format::MapBlock& row) { return row.flags == 0; });
  const auto ownAt = static_cast<size_t>(own - map.blocks.begin());
  CHECK(damaged([&](MemoryMap& m) { m.blocks[ownAt].flags = format::kAlias; }));
  CHECK(damaged([&](MemoryMap& m) { m.blocks[at].checksum += 1; }));
  CHECK_FALSE(damaged([](MemoryMap&) {}));
}
