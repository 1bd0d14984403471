#include "base/geometry.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"

using namespace ckptfs;

TEST_CASE("a byte range covers the blocks it touches and no others") {
  const Geometry g;
  CHECK(g.blockBytes() == 32768);
  CHECK(g.ioBlockBytes() == 262144);
  CHECK(g.covering(0, 0).count == 0);
  CHECK(g.covering(32767, 1).end() == 1);
  CHECK(g.covering(32767, 2).count == 2);
  CHECK(g.covering(65536, 32768).first == 2);
  CHECK(g.covering(65536, 32768).count == 1);
}

TEST_CASE("geometry rejects sizes out of range and memory that is not whole blocks") {
  CHECK_NOTHROW(validate(Geometry{32768, 4, 8}, 1 << 20));
  CHECK_THROWS_AS(validate(Geometry{}, 0), Error);
  CHECK_THROWS_AS(validate(Geometry{}, 32768 + 4096), Error);
  CHECK_THROWS_AS(validate(Geometry{5000, 8, 8}, 1 << 20), Error);
  CHECK_THROWS_AS(validate(Geometry{4096, 0, 8}, 1 << 20), Error);
  CHECK_THROWS_AS(validate(Geometry{4096, 8, 257}, 1 << 20), Error);
}

TEST_CASE("hexadecimal strings carry all 64 bits and nothing else is read") {
  for (const uint64_t v : {uint64_t{0}, uint64_t{0x8000'0000'0000'0001}, ~uint64_t{0}})
    CHECK(fromHex(toHex(v)) == v);
  for (const char* bad : {"", "0x", "12", "0xg", "0x1 ", "0x10000000000000000"})
    CHECK_THROWS_AS(fromHex(Json(bad)), Error);
  CHECK_THROWS_AS(fromHex(Json(3)), Error);
}

TEST_CASE("the guest clock stands still while frozen and goes on from there") {
  GuestClock clock;
  clock.set(1000);
  CHECK(clock.now() == 1000);
  clock.run();
  CHECK(clock.now() >= 1000);
  clock.freeze();
  const uint64_t at = clock.now();
  CHECK(clock.now() == at);
  clock.run();
  CHECK(clock.now() >= at);
}
