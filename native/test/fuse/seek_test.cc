#include "fuse/seek.h"

#include <doctest/doctest.h>

using namespace ckptfs;
using fuse::seekRun;

namespace {

/** Even tens are data, odd ones holes; told in pieces of at most 4. */
ByteSource striped(uint64_t bytes) {
  ByteSource source{.bytes = bytes, .read = {}};
  source.run = [](uint64_t offset) {
    return ByteRun{std::min<uint64_t>(4, 10 - offset % 10), offset / 10 % 2 == 1};
  };
  return source;
}

}  // namespace

TEST_SUITE("seek") {
  TEST_CASE("data and holes") {
    const ByteSource source = striped(45);
    CHECK(seekRun(source, 0, false) == 0);
    CHECK(seekRun(source, 0, true) == 10);
    CHECK(seekRun(source, 13, true) == 13);
    CHECK(seekRun(source, 13, false) == 20);
    CHECK(seekRun(source, 39, false) == 40);
  }

  TEST_CASE("the end is a hole, and there is no data after the last") {
    CHECK(seekRun(striped(45), 41, true) == 45);
    CHECK_FALSE(seekRun(striped(38), 33, false));
    CHECK_FALSE(seekRun(striped(45), 45, true));
    CHECK_FALSE(seekRun(striped(45), 45, false));
    CHECK_FALSE(seekRun(striped(45), UINT64_MAX, false));
    CHECK_FALSE(seekRun(striped(0), 0, true));
  }

  TEST_CASE("a source that cannot tell has no holes") {
    const ByteSource source{.bytes = 100, .read = {}};
    CHECK(seekRun(source, 7, false) == 7);
    CHECK(seekRun(source, 7, true) == 100);
  }

  TEST_CASE("runs of no bytes, or beyond the end, do no harm") {
    ByteSource source = striped(10);
    source.run = [](uint64_t) { return ByteRun{0, true}; };
    CHECK_FALSE(seekRun(source, 0, false));
    source.run = [](uint64_t) { return ByteRun{UINT64_MAX, true}; };
    CHECK_FALSE(seekRun(source, 0, false));
    source.run = [](uint64_t) { return ByteRun{UINT64_MAX, false}; };
    CHECK(seekRun(source, 3, true) == 10);
  }
}
