#include "base/file_source.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/shared_source.h"

using namespace ckptfs;

namespace {

std::string readAt(const ByteSource& source, uint64_t offset, size_t bytes) {
  std::string text(bytes, '?');
  source.read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

/** A file without a name. */
struct File {
  int fd;
  File() {
    std::string name = "/tmp/ckptfs-base-XXXXXX";
    fd = mkstemp(name.data());
    REQUIRE(fd >= 0);
    unlink(name.c_str());
  }
  ~File() { close(fd); }
  void write(off_t at, const std::string& text) const {
    REQUIRE(pwrite(fd, text.data(), text.size(), at) == ssize_t(text.size()));
  }
};

}  // namespace

TEST_CASE("a file is read as it is now, also when whoever opened it has closed it") {
  const File file;
  file.write(0, "hello");
  const int other = dup(file.fd);
  const ByteSource source = fileSource(other, "file");
  close(other);
  CHECK(source.bytes == 5);
  CHECK(readAt(source, 1, 3) == "ell");
  file.write(5, " world");
  CHECK(source.size() == 11);
  CHECK(readAt(source, 4, 7) == "o world");
  REQUIRE(ftruncate(file.fd, 3) == 0);
  CHECK(source.size() == 3);
  CHECK_THROWS_WITH_AS(readAt(source, 0, 5), doctest::Contains("cut short"), Error);
  CHECK_THROWS_AS(fileSource(-1, "none"), Error);
}

TEST_CASE("holes of a file") {
  const File file;
  constexpr uint64_t kHole = 1 << 20;
  file.write(kHole, "data");
  REQUIRE(ftruncate(file.fd, 2 * kHole) == 0);
  const ByteSource source = fileSource(file.fd, "file");
  if (!source.run(0).hole) return;  // this filesystem has none
  CHECK(source.run(0).bytes == kHole);
  CHECK_FALSE(source.run(kHole).hole);
  const uint64_t data = source.run(kHole).bytes;
  CHECK(source.run(kHole + data).hole);
  CHECK(source.run(kHole + data).bytes == kHole - data);
}

TEST_CASE("a shared source becomes another one, and notes its writes") {
  const auto filled = [](char with) {
    return ByteSource{.bytes = 4,
                      .read =
                          [with](uint64_t, std::span<std::byte> into) {
                            std::fill(into.begin(), into.end(), std::byte(with));
                          },
                      .write = [](uint64_t, std::span<const std::byte>) {}};
  };
  SharedSource source(filled('a')), other(filled('b'));
  const auto before = source.now();
  source.become(other);
  CHECK(readAt(*source.now(), 0, 1) == "b");
  CHECK(readAt(*before, 0, 1) == "a");
  CHECK(source.writtenMs() == 0);
  source.write(0, {});
  CHECK(source.writtenMs() > 1'600'000'000'000);
}
