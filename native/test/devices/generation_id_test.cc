#include "devices/generation_id.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/error.h"
#include "devices/plic.h"
#include "test/devices/virtio_driver.h"

using namespace ckptfs;

namespace {

struct Rig {
  TestLine line;
  GenerationId generation{line.input()};

  /** The id as a driver copies it, `size` bytes at a time. */
  std::vector<uint8_t> id(unsigned size) {
    std::vector<uint8_t> bytes;
    for (uint64_t at = 0; at < GenerationId::kBytes; at += size)
      for (uint64_t value = generation.read(at, size), i = 0; i < size; ++i, value >>= 8)
        bytes.push_back(uint8_t(value));
    return bytes;
  }
};

}  // namespace

TEST_CASE("generation id: machines have different ones, and a machine the same in every size") {
  Rig one, other;
  const auto id = one.id(1);
  CHECK(id.size() == 16);
  for (const unsigned size : {1u, 2u, 4u, 8u}) CHECK(one.id(size) == id);
  CHECK(other.id(1) != id);
  CHECK_FALSE(one.line.level());
}

TEST_CASE("generation id: a new one is told until it is read") {
  Rig rig;
  const auto before = rig.id(8);
  rig.generation.renew();
  CHECK(rig.line.level());
  CHECK(rig.generation.read(16, 4) == 0);  // beside it
  CHECK(rig.line.level());
  CHECK(rig.id(8) != before);
  CHECK_FALSE(rig.line.level());
}

TEST_CASE("generation id: a guest that has not looked for one is told of none") {
  Rig rig;
  rig.generation.renew();
  CHECK_FALSE(rig.line.level());
  rig.id(8);
  rig.generation.renew();
  CHECK(rig.line.level());
}

TEST_CASE("generation id: nothing is written, and nothing lies behind it") {
  Rig rig;
  const auto id = rig.id(8);
  for (const unsigned size : {1u, 2u, 4u, 8u}) rig.generation.write(0, size, UINT64_MAX);
  CHECK(rig.id(8) == id);
  CHECK(rig.generation.read(15, 8) == id[15]);
  CHECK(rig.generation.read(UINT64_MAX, 8) == 0);
}

TEST_CASE("generation id: state makes a round trip with the line; other states are refused") {
  Rig before, after;
  before.id(8);
  before.generation.renew();
  const Json state = Json::parse(before.generation.freeze()->toJson().dump());
  after.generation.thaw(state);
  CHECK(after.generation.freeze()->toJson() == state);
  CHECK(after.line.level());
  CHECK(after.id(4) == before.id(4));
  CHECK_FALSE(after.line.level());
  for (const char* key : {"id", "known", "unread"}) {
    Json other = state;
    other.erase(key);
    CHECK_THROWS_AS(after.generation.thaw(other), Error);
    other[key] = 1;
    CHECK_THROWS_AS(after.generation.thaw(other), Error);
  }
  for (const char* id : {"", "00", "000102030405060708090a0b0c0d0e0f00"}) {
    Json other = state;
    other["id"] = id;
    CHECK_THROWS_AS(after.generation.thaw(other), Error);
  }
}

TEST_CASE("generation id: a guest that was just told of one is told of the next as well") {
  Plic plic(1, [](unsigned, bool) {});
  GenerationId generation(plic.line(5));
  plic.write(4 * 5, 4, 1);         // priority
  plic.write(0x2000, 4, 1u << 5);  // enable
  const auto claim = [&] { return plic.read(0x200004, 4); };
  generation.read(0, 8);
  generation.renew();
  CHECK(claim() == 5);
  generation.read(0, 8);
  generation.renew();  // before the handler has completed the interrupt
  CHECK(claim() == 0);
  plic.write(0x200004, 4, 5);
  CHECK(claim() == 5);
}
