// What a power cut in the midst of a save leaves: a checkpoint that is whole, or none.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/write_journal.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/upkeep/verify.h"
#include "saved_image.h"

using namespace ckptfs;

TEST_CASE("power cut: a memory.map that can be read has all of its segments") {
  const Geometry geometry;
  GuestMemory memory(2 << 20, geometry, "soft");
  std::mt19937_64 random(3);
  for (uint64_t at = 0; at < memory.bytes(); at += 512)
    storeWord(memory.hostView(), at, random() % 3 == 0 ? 0 : random());
  const TempDirectory directory;
  const WriteJournal journal(directory.path());
  save(memory, {.directory = directory.path(), .codec = format::Codec::lz4});
  // Publishing makes the names durable.
  const size_t saved = WriteJournal::syncing();
  WriteJournal::syncedDirectory(directory.path(), saved);
  size_t whole = 0, none = 0;
  for (uint64_t cut = 0; cut < 600; ++cut) {
    // Every prefix of what was done first, then with losses.
    const bool kill = cut <= journal.now();
    const size_t moment = kill ? cut : cut % 4 == 0 ? journal.now() : random() % journal.now();
    CAPTURE(moment);
    CAPTURE(cut);
    const TempDirectory left;
    journal.cut(moment, kill ? 0 : cut, left.path());
    try {
      const MemoryImage image(left.path());
      REQUIRE(verifyMemoryImage(left.path()).empty());
      std::vector<std::byte> found(memory.bytes());
      image.read(0, found);
      REQUIRE(std::memcmp(found.data(), memory.hostView(), found.size()) == 0);
      ++whole;
    } catch (const Error& error) {
      REQUIRE((error.code() == Code::notFound || error.code() == Code::damaged));
      REQUIRE(moment < journal.now());  // what was published is there
      ++none;
    }
  }
  CHECK(whole > 100);
  CHECK(none > 100);
}
