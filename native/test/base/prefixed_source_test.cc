#include "base/prefixed_source.h"

#include <doctest/doctest.h>

using namespace ckptfs;

namespace {

std::vector<std::byte> counting(size_t bytes, unsigned from) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = std::byte(from + i);
  return data;
}

}  // namespace

TEST_CASE("a source behind other bytes reads as both, wherever a read begins and ends") {
  constexpr size_t kFront = 37, kBehind = 50;
  std::vector<std::byte> all = counting(kFront, 1);
  const std::vector<std::byte> behind = counting(kBehind, 100);
  unsigned reads = 0;
  const ByteSource source{kBehind, [&](uint64_t offset, std::span<std::byte> into) {
                            REQUIRE(offset + into.size() <= kBehind);
                            ++reads;
                            std::copy_n(behind.begin() + long(offset), into.size(), into.begin());
                          }};
  const ByteSource both = prefixed(all, source);
  all.insert(all.end(), behind.begin(), behind.end());
  REQUIRE(both.bytes == all.size());
  for (size_t offset = 0; offset < all.size(); ++offset)
    for (size_t length = 1; length <= all.size() - offset; ++length) {
      std::vector<std::byte> found(length);
      both.read(offset, found);
      REQUIRE(std::equal(found.begin(), found.end(), all.begin() + long(offset)));
    }
  reads = 0;
  std::vector<std::byte> front(kFront);
  both.read(0, front);
  CHECK(reads == 0);
  CHECK_FALSE(both.write);
}
