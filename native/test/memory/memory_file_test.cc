#include "memory/memory_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>

using namespace ckptfs;

namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;

/** Bytes of memory that the file takes. */
uint64_t takenBytes(const MemoryFile& file) {
  struct stat status = {};
  REQUIRE(fstat(file.fd(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST_CASE("memory in huge pages takes no more than its size, and keeps its holes") {
  const MemoryFile file(3 * kHugePageBytes + 4096);
  CHECK(takenBytes(file) == 0);
  CHECK(lseek(file.fd(), 0, SEEK_END) == 3 * kHugePageBytes + 4096);
  const char byte = 'x';
  REQUIRE(pwrite(file.fd(), &byte, 1, kHugePageBytes) == 1);
  if (geteuid() == 0) CHECK(takenBytes(file) == kHugePageBytes);
  CHECK(lseek(file.fd(), 0, SEEK_DATA) == kHugePageBytes);
  REQUIRE(pwrite(file.fd(), &byte, 1, 3 * kHugePageBytes) == 1);
  if (geteuid() == 0) CHECK(takenBytes(file) == kHugePageBytes + 4096);
  char read = 'y';
  REQUIRE(pread(file.fd(), &read, 1, kHugePageBytes + 1) == 1);
  CHECK(read == 0);
}

TEST_CASE("memory larger than what the host has is in small pages") {
  const MemoryFile file(uint64_t{1} << 40);
  const char byte = 'x';
  REQUIRE(pwrite(file.fd(), &byte, 1, 5 * kHugePageBytes) == 1);
  CHECK(takenBytes(file) == 4096);
}
