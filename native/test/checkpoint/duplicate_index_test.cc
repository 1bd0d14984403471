#include "checkpoint/save/duplicate_index.h"

#include <doctest/doctest.h>

#include "checkpoint/image/format.h"

using namespace ckptfs;

TEST_CASE("duplicate index: finds what it was given, and nothing else") {
  DuplicateIndex index(1000);
  CHECK_FALSE(index.find(0));
  index.insert(0, 0);
  index.insert(7, 500);
  index.insert(UINT64_MAX, format::kMaxBlocks - 1);
  CHECK(index.find(0) == BlockId{0});
  CHECK(index.find(7) == BlockId{500});
  CHECK(index.find(UINT64_MAX) == format::kMaxBlocks - 1);
  CHECK_FALSE(index.find(8));
  index.insert(7, 3);
  CHECK(index.find(7) == BlockId{3});
}

TEST_CASE("duplicate index: forgets when it is full, but never lies") {
  DuplicateIndex index(100);
  uint64_t found = 0;
  for (uint64_t i = 0; i < 10'000; ++i) index.insert(i * 0x9e3779b97f4a7c15, i);
  for (uint64_t i = 0; i < 10'000; ++i) {
    const auto block = index.find(i * 0x9e3779b97f4a7c15);
    if (block) CHECK(*block == i);
    found += block.has_value();
  }
  CHECK(found >= 32);
  CHECK(found < 200);
}
