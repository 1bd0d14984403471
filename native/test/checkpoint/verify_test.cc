// Flipping any one byte of an image is found, and never turns into wrong data.
#include "checkpoint/upkeep/verify.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"
#include "guest_threads.h"
#include "image_builder.h"
#include "temp_directory.h"

using namespace ckptfs;

namespace {

constexpr uint64_t kStep = kSanitized ? 31 : 1;  // a prime: hits every field somewhere

constexpr Geometry kSmall{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 3};
constexpr uint64_t kBlocks = 10;

/** Ten blocks: zeros, compressible ones and random ones, hot and cold. */
struct SmallImage {
  SmallImage() {
    GuestMemory memory(kBlocks * kSmall.blockBytes(), kSmall);
    std::mt19937_64 random(1);
    for (BlockId block = 2; block < kBlocks; ++block)
      for (uint64_t at = 0; at < kSmall.blockBytes(); at += 8)
        storeWord(memory.hostView(), kSmall.offsetOf(block) + at, block > 7 ? random() : block);
    contents = copyOf(memory);
    Saver saver(memory, {directory.path(), format::Codec::lz4, 1});
    saver.arm();
    for (const BlockId block : {9, 3, 4, 5}) memory.prepareWrite(kSmall.offsetOf(block), 1);
    saver.start();
    CHECK(saver.wait().vcpu == 4);
    for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
      files.push_back(entry.path());
  }
  const TempDirectory directory;
  std::vector<std::byte> contents;
  std::vector<std::string> files;
};

/** One byte of a file, inverted in the bits of `mask` until the end of the scope. */
class Flipped {
 public:
  Flipped(const std::string& path, uint64_t at, uint8_t mask)
      : fd_(open(path.c_str(), O_RDWR)), at_(static_cast<off_t>(at)), mask_(mask) {
    flip();
  }
  ~Flipped() {
    flip();
    close(fd_);
  }
  Flipped(const Flipped&) = delete;
  Flipped& operator=(const Flipped&) = delete;

 private:
  void flip() {
    uint8_t byte = 0;
    REQUIRE(pread(fd_, &byte, 1, at_) == 1);
    byte ^= mask_;
    REQUIRE(pwrite(fd_, &byte, 1, at_) == 1);
  }
  int fd_;
  off_t at_;
  uint8_t mask_;
};

/** Reads every block; true bytes or an Error, nothing else. */
bool neverWrong(const SmallImage& small) {
  try {
    const MemoryImage image(small.directory.path());
    for (BlockId block = 0; block < kBlocks; ++block) {
      std::vector<std::byte> whole(kSmall.blockBytes());
      std::vector<std::byte> part(100);
      const auto* const truth = small.contents.data() + kSmall.offsetOf(block);
      try {
        image.read(kSmall.offsetOf(block), whole);
        image.read(kSmall.offsetOf(block) + 50, part);
      } catch (const Error&) {
        continue;
      }
      if (std::memcmp(whole.data(), truth, whole.size()) != 0) return false;
      if (std::memcmp(part.data(), truth + 50, part.size()) != 0) return false;
    }
  } catch (const Error&) {
    // Refused as a whole.
  }
  return true;
}

}  // namespace

TEST_CASE("verify: an intact image has no damage, and every byte of it is read") {
  const SmallImage small;
  uint64_t bytes = 0, read = 0;
  for (const std::string& file : small.files) bytes += std::filesystem::file_size(file);
  CHECK(small.files.size() == 3);
  Progress progress([&](uint64_t done, uint64_t all) {
    read = done;
    CHECK(all == bytes);
  });
  CHECK(verifyMemoryImage(small.directory.path(), progress).empty());
  CHECK(read == bytes);
}

TEST_CASE("verify: every flipped byte is found and never read as data") {
  const SmallImage small;
  std::mt19937 random(2);
  for (const std::string& file : small.files) {
    CAPTURE(file);
    const uint64_t bytes = std::filesystem::file_size(file);
    uint64_t missed = 0, wrong = 0;
    for (uint64_t at = 0; at < bytes; at += kStep) {
      const Flipped flipped(file, at, static_cast<uint8_t>(1 << random() % 8));
      const std::vector<Damage> damages = verifyMemoryImage(small.directory.path());
      missed += damages.empty() || damages[0].file != file;
      wrong += !neverWrong(small);
    }
    CHECK(missed == 0);
    CHECK(wrong == 0);
  }
  CHECK(verifyMemoryImage(small.directory.path()).empty());
}

TEST_CASE("verify: files cut off at any length are found and refused") {
  const SmallImage small;
  for (const std::string& file : small.files) {
    CAPTURE(file);
    const uint64_t bytes = std::filesystem::file_size(file);
    const std::string copy = small.directory.path() + "/copy";
    std::filesystem::copy_file(file, copy);
    std::vector<uint64_t> lengths = {0, 1, bytes / 2, bytes - 8, bytes - 1, bytes + 1};
    for (uint64_t length = 0; length < bytes; length += 1024) lengths.push_back(length);
    for (const uint64_t length : lengths) {
      CAPTURE(length);
      std::filesystem::resize_file(file, length);
      CHECK_FALSE(verifyMemoryImage(small.directory.path()).empty());
      CHECK_THROWS_AS(MemoryImage(small.directory.path()), Error);
      std::filesystem::copy_file(copy, file, std::filesystem::copy_options::overwrite_existing);
    }
    std::filesystem::remove(copy);
  }
  CHECK(verifyMemoryImage(small.directory.path()).empty());
}

TEST_CASE("verify: missing and exchanged files") {
  const SmallImage small;
  for (const std::string& file : small.files) {
    std::filesystem::rename(file, file + ".away");
    CHECK(verifyMemoryImage(small.directory.path()).size() == 1);
    CHECK_THROWS_AS(MemoryImage(small.directory.path()), Error);
    std::filesystem::rename(file + ".away", file);
  }
  const SmallImage other;  // the same contents under other ids
  const auto segmentOf = [](const SmallImage& image, const char* kind) {
    for (const std::string& file : image.files)
      if (file.ends_with(kind)) return file;
    return std::string();
  };
  std::filesystem::copy_file(segmentOf(other, ".hot"), segmentOf(small, ".hot"),
                             std::filesystem::copy_options::overwrite_existing);
  CHECK_FALSE(verifyMemoryImage(small.directory.path()).empty());
  CHECK_THROWS_AS(MemoryImage(small.directory.path()), Error);
  CHECK(verifyMemoryImage(small.directory.path() + "/none").size() >= 1);
}

TEST_CASE("memory image: reads at any offset and length, short at the end") {
  const SmallImage small;
  const MemoryImage image(small.directory.path());
  std::mt19937_64 random(4);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t offset = random() % (small.contents.size() + 10);
    std::vector<std::byte> into(random() % 9000);
    const uint64_t expected = offset < into.size() + offset && offset < small.contents.size()
                                  ? std::min<uint64_t>(into.size(), small.contents.size() - offset)
                                  : 0;
    REQUIRE(image.read(offset, into) == expected);
    REQUIRE(std::memcmp(into.data(),
                        small.contents.data() + std::min(offset, small.contents.size()),
                        expected) == 0);
  }
}

TEST_CASE("memory image: several readers at once") {
  const SmallImage small;
  const MemoryImage image(small.directory.path());
  std::atomic<int> wrong{0};
  std::vector<std::jthread> readers;
  for (unsigned i = 0; i < 3; ++i)
    readers.emplace_back([&, i] {
      std::mt19937_64 random(i);
      std::vector<std::byte> into(500);
      for (int n = 0; n < 1000; ++n) {
        const uint64_t offset = random() % (small.contents.size() - into.size());
        wrong += image.read(offset, into) != into.size() ||
                 std::memcmp(into.data(), small.contents.data() + offset, into.size()) != 0;
      }
    });
  readers.clear();
  CHECK(wrong == 0);
}

namespace {

/** Two checkpoints that share segments, and a copy of the second. */
struct SharedImages {
  SharedImages() {
    Contents memory = someContents(kSmall, 60, 5);
    writeImage(first, memory, {.geometry = kSmall});
    for (BlockId block = 0; block < 60; block += 7)
      fillBlock(memory, kSmall, block, Filling::noise, block);
    writeImage(second, memory, {.geometry = kSmall, .base = first});
    std::filesystem::copy(second, copy);
  }
  std::string sharedSegment(const std::string& of) const {
    const MemoryMap map = MemoryMap::read(of + "/" + MemoryMap::kFileName);
    return of + "/" + map.segments.back().name;
  }
  const TempDirectory directory;
  const std::string first = directory.make("first"), second = directory.make("second"),
                    copy = directory.make("copy");
};

std::vector<Damage> verifyWith(VerifiedSegments& verified, const std::string& directory) {
  Progress progress;
  return verifyMemoryImage(directory, progress, {.verified = &verified});
}

/** Changes the map of a checkpoint, which stays one that can be decoded. */
template <class Change>
void changeMap(const std::string& directory, Change change) {
  const std::string path = directory + "/" + MemoryMap::kFileName;
  MemoryMap map = MemoryMap::read(path);
  change(map);
  std::filesystem::remove(path);
  CheckpointFile::create(path).write(0, std::span<const std::byte>(map.encode()));
}

}  // namespace

TEST_CASE("verify: bodies of a shared segment are read once in a run, and everything is counted") {
  const SharedImages images;
  VerifiedSegments verified;
  CHECK(verifyWith(verified, images.first).empty());
  // A body in an IO block that both need: its contents are not looked at again.
  const MemoryMap map = MemoryMap::read(images.second + "/" + MemoryMap::kFileName);
  const format::MapIoBlock& io = map.ioBlocks.back();
  const auto before = std::filesystem::last_write_time(images.sharedSegment(images.second));
  {
    const Flipped flipped(images.sharedSegment(images.second),
                          io.offset + format::bodiesAt(io.count), 1);
    std::filesystem::last_write_time(images.sharedSegment(images.second), before);
    CHECK(verifyWith(verified, images.second).empty());
    VerifiedSegments none;
    CHECK_FALSE(verifyWith(none, images.second).empty());
    CHECK_FALSE(
        none.contains(CheckpointFile::open(images.sharedSegment(images.second)).identity()));
  }
  uint64_t done = 0, total = 0;
  Progress progress([&](uint64_t bytes, uint64_t all) {
    done = bytes;
    total = all;
  });
  CHECK(verifyMemoryImage(images.second, progress, {.verified = &verified}).empty());
  CHECK(done == total);
}

TEST_CASE("verify: a changed file and a copy count as not yet verified") {
  const SharedImages images;
  VerifiedSegments verified;
  CHECK(verifyWith(verified, images.second).empty());
  for (const std::string& directory : {images.second, images.copy}) {
    const std::string file = images.sharedSegment(directory);
    const auto before = std::filesystem::last_write_time(file);
    const Flipped flipped(file, 5000, 1);
    std::filesystem::last_write_time(
        file, before + std::chrono::nanoseconds(directory == images.second ? 1 : 0));
    const std::vector<Damage> damages = verifyWith(verified, directory);
    REQUIRE(damages.size() >= 1);
    CHECK(damages[0].file == file);
  }
}

TEST_CASE("verify: what a map says about a verified segment is checked all the same") {
  using Change = void (*)(MemoryMap&);
  const Change changes[] = {
      [](MemoryMap& map) { map.ioBlocks.back().checksum ^= 1; },
      [](MemoryMap& map) { map.segments.back().id[3] ^= std::byte{1}; },
      [](MemoryMap& map) { map.segments.back().ioBlocks += 1; },
      [](MemoryMap& map) { map.blocks[59].checksum ^= 1; },
      [](MemoryMap& map) { map.blocks[59].flags ^= format::kAlias; },
      [](MemoryMap& map) {
        map.blocks[59].codec = format::Codec::lz4;
        map.blocks[59].stored = 5;
      },
      [](MemoryMap& map) { map.ioBlocks.back().bytes = 8192; },
  };
  for (const Change& change : changes) {
    CAPTURE(&change - changes);
    const SharedImages images;
    // Block 59 is raw and of the base, so that all changes can be decoded.
    changeMap(images.second, [](MemoryMap& map) {
      const auto raw = std::find_if(map.blocks.begin(), map.blocks.end(), [&](const auto& row) {
        return row.codec == format::Codec::raw && row.ioBlock == map.ioBlocks.size() - 1;
      });
      if (raw == map.blocks.end()) return;
      map.blocks[59] = *raw;
      map.blocks[59].flags = format::kAlias;
      if (raw->flags == 0 && raw - map.blocks.begin() == 59) map.blocks[59].flags = 0;
    });
    VerifiedSegments verified;
    CHECK(verifyWith(verified, images.first).empty());
    CHECK(verifyWith(verified, images.second).empty());
    changeMap(images.second, change);
    CHECK_FALSE(verifyWith(verified, images.second).empty());
    CHECK_FALSE(verifyMemoryImage(images.second).empty());
  }
}

TEST_CASE("verify: cancelled") {
  const SharedImages images;
  Progress progress;
  progress.cancel();
  CHECK_THROWS_WITH_AS(verifyMemoryImage(images.second, progress), "cancelled", Error);
}
