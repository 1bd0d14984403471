// Flipping any one byte of an image is found, and never turns into wrong data.
#include "checkpoint/verify.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "checkpoint/memory_image.h"
#include "checkpoint/saver.h"
#include "guest_threads.h"
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
  CHECK(verifyMemoryImage(small.directory.path(), [&](uint64_t n) { read = n; }).empty());
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
