#include "devices/plic.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "base/error.h"

using namespace ckptfs;

namespace {

struct Rig {
  explicit Rig(unsigned harts = 2)
      : level(harts), plic(harts, [this](unsigned hart, bool on) {
          level[hart] = on;
          ++calls;
        }) {}
  std::vector<uint8_t> level;
  int calls = 0;
  Plic plic;

  uint64_t get(uint64_t offset) { return plic.read(offset, 4); }
  void set(uint64_t offset, uint64_t value) { plic.write(offset, 4, value); }
  void priority(unsigned source, unsigned value) { set(4 * source, value); }
  void enable(unsigned hart, uint64_t sources) {
    set(0x2000 + hart * 0x80, sources & UINT32_MAX);
    set(0x2004 + hart * 0x80, sources >> 32);
  }
  void threshold(unsigned hart, unsigned value) { set(0x200000 + hart * 0x1000, value); }
  uint64_t claim(unsigned hart) { return get(0x200004 + hart * 0x1000); }
  void complete(unsigned hart, uint64_t source) { set(0x200004 + hart * 0x1000, source); }
  uint64_t pending() { return get(0x1000) | get(0x1004) << 32; }
};

}  // namespace

TEST_CASE("plic: a level is claimed once and comes again after completion while it is high") {
  Rig rig;
  const InterruptLine line = rig.plic.line(10);
  rig.priority(10, 1);
  rig.enable(0, 1 << 10);
  CHECK_FALSE(rig.level[0]);
  line(true);
  CHECK(rig.level[0]);
  CHECK_FALSE(rig.level[1]);
  CHECK(rig.pending() == 1 << 10);
  CHECK(rig.claim(0) == 10);
  CHECK_FALSE(rig.level[0]);
  CHECK(rig.pending() == 0);
  CHECK(rig.claim(0) == 0);
  line(true);  // still in service: not forwarded
  CHECK(rig.pending() == 0);
  rig.complete(0, 10);
  CHECK(rig.level[0]);
  CHECK(rig.claim(0) == 10);
  line(false);
  rig.complete(0, 10);
  CHECK_FALSE(rig.level[0]);
  CHECK(rig.claim(0) == 0);
}

TEST_CASE("plic: a forwarded interrupt stays pending when its line falls") {
  Rig rig;
  const InterruptLine line = rig.plic.line(3);
  rig.priority(3, 1);
  rig.enable(1, 1 << 3);
  line(true);
  line(false);
  CHECK(rig.level[1]);
  CHECK(rig.claim(1) == 3);
  rig.complete(1, 3);
  CHECK(rig.claim(1) == 0);
}

TEST_CASE("plic: highest priority first, then lowest number; threshold masks the output only") {
  Rig rig;
  for (unsigned source : {4, 5, 40, 63}) rig.plic.line(source)(true);
  rig.priority(4, 2);
  rig.priority(5, 2);
  rig.priority(40, 7);
  rig.enable(0, UINT64_MAX);
  rig.threshold(0, 7);
  CHECK_FALSE(rig.level[0]);
  rig.threshold(0, 6);
  CHECK(rig.level[0]);
  CHECK(rig.claim(0) == 40);
  CHECK_FALSE(rig.level[0]);
  CHECK(rig.claim(0) == 4);
  CHECK(rig.claim(0) == 5);
  CHECK(rig.claim(0) == 0);  // 63 has priority 0: never
  CHECK(rig.pending() == uint64_t{1} << 63);
  rig.priority(63, 7);
  CHECK(rig.level[0]);
  CHECK(rig.claim(0) == 63);
}

TEST_CASE("plic: completion is ignored unless the source is enabled for the context") {
  Rig rig;
  rig.plic.line(2)(true);
  rig.priority(2, 1);
  rig.enable(0, 1 << 2);
  CHECK(rig.claim(0) == 2);
  rig.complete(1, 2);
  rig.complete(0, 0);
  rig.complete(0, 64);
  rig.complete(0, UINT32_MAX);
  CHECK_FALSE(rig.level[0]);
  rig.enable(0, 0);
  rig.complete(0, 2);
  rig.enable(0, 1 << 2);
  CHECK_FALSE(rig.level[0]);
  rig.complete(0, 2);
  CHECK(rig.level[0]);
}

TEST_CASE("plic: both harts see a source, one of them claims it") {
  Rig rig;
  rig.priority(7, 1);
  rig.enable(0, 1 << 7);
  rig.enable(1, 1 << 7);
  rig.plic.line(7)(true);
  CHECK(rig.level[0]);
  CHECK(rig.level[1]);
  CHECK(rig.claim(1) == 7);
  CHECK_FALSE(rig.level[0]);
  CHECK(rig.claim(0) == 0);
}

TEST_CASE("plic: registers keep what exists and ignore the rest") {
  Rig rig;
  rig.priority(5, 0xff);
  CHECK(rig.get(20) == 7);
  rig.set(0, 7);
  CHECK(rig.get(0) == 0);
  rig.priority(64, 3);
  CHECK(rig.get(256) == 0);
  rig.enable(1, UINT64_MAX);
  CHECK(rig.get(0x2080) == 0xfffffffe);
  CHECK(rig.get(0x2084) == 0xffffffff);
  CHECK(rig.get(0x2088) == 0);
  rig.set(0x2088, 1);
  rig.threshold(1, 0x0c);
  CHECK(rig.get(0x201000) == 4);
  rig.set(0x1000, UINT32_MAX);
  CHECK(rig.pending() == 0);
  for (uint64_t offset : {0x2100, 0x1f'fffc, 0x202000, 0x202004, 0x201008, 0x3fffffc}) {
    rig.set(offset, UINT32_MAX);
    CHECK(rig.get(offset) == 0);
  }
  CHECK(rig.plic.read(20, 8) == 0);
  CHECK(rig.plic.read(20, 1) == 0);
  CHECK(rig.plic.read(21, 4) == 0);
  rig.plic.write(20, 1, 0);
  CHECK(rig.get(20) == 7);
}

TEST_CASE("plic: what cannot be is refused") {
  CHECK_THROWS_AS(Plic(0, [](unsigned, bool) {}), Error);
  CHECK_THROWS_AS(Plic(Plic::kHartsMax + 1, [](unsigned, bool) {}), Error);
  Rig rig;
  CHECK_THROWS_AS(rig.plic.line(0), Error);
  CHECK_THROWS_AS(rig.plic.line(64), Error);
}

TEST_CASE("plic: lines, claims and completions from several threads lose no interrupt") {
  std::atomic<int> level[2] = {};
  Plic plic(2, [&](unsigned hart, bool on) { level[hart] = on; });
  constexpr unsigned kRounds = 2000;
  std::atomic<unsigned> served[2] = {};
  for (unsigned hart = 0; hart < 2; ++hart) {
    plic.write(4 * (hart + 1), 4, 1);
    plic.write(0x2000 + hart * 0x80, 4, 2u << hart);
  }
  const auto work = [&](unsigned hart) {
    const InterruptLine line = plic.line(hart + 1);
    for (unsigned round = 0; round < kRounds; ++round) {
      line(true);
      if (!level[hart]) return;
      if (plic.read(0x200004 + hart * 0x1000, 4) != hart + 1) return;
      line(false);
      plic.write(0x200004 + hart * 0x1000, 4, hart + 1);
      if (level[hart]) return;
      ++served[hart];
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  CHECK(served[0] == kRounds);
  CHECK(served[1] == kRounds);
}

TEST_CASE("plic: state makes a round trip in the middle of operation") {
  Rig before;
  for (unsigned source : {1, 2, 50}) {
    before.priority(source, source % 7 + 1);
    before.plic.line(source)(true);
  }
  before.enable(0, 1 << 1);
  before.enable(1, uint64_t{1} << 50 | 1 << 2);
  before.threshold(1, 1);
  CHECK(before.claim(0) == 1);
  const std::string text = before.plic.freeze()->toJson().dump();

  Rig after;
  after.plic.thaw(Json::parse(text));
  CHECK(after.calls == 3);  // every hart is told, and hart 1 changed
  CHECK(after.plic.freeze()->toJson().dump() == text);
  CHECK_FALSE(after.level[0]);
  CHECK(after.level[1]);
  CHECK(after.claim(0) == 0);  // still in service
  after.complete(0, 1);
  CHECK(after.level[0]);
  CHECK(after.claim(1) == 2);
  CHECK(after.claim(1) == 50);
}

TEST_CASE("plic: thaw refuses damaged state and changes nothing") {
  Rig rig;
  rig.priority(9, 3);
  const Json good = rig.plic.freeze()->toJson();
  const auto refuse = [&](const char* key, const Json& value) {
    CAPTURE(key);
    Json bad = good;
    bad[key] = value;
    CHECK_THROWS_AS(rig.plic.thaw(bad), Error);
    bad.erase(key);
    CHECK_THROWS_AS(rig.plic.thaw(bad), Error);
  };
  refuse("priority", std::string(126, '0'));
  refuse("priority", "01" + std::string(126, '0'));
  refuse("priority", std::string(126, '0') + "08");
  refuse("level", "0x1");
  refuse("pending", "0x10000000000000000");
  refuse("claimed", 4);
  refuse("contexts", Json::array());
  refuse("contexts", Json::object());
  Json three = good["contexts"];
  three.push_back(three[0]);
  refuse("contexts", three);
  Json contexts = good["contexts"];
  contexts[1]["threshold"] = 8;
  refuse("contexts", contexts);
  contexts = good["contexts"];
  contexts[0]["enabled"] = "0x3";
  refuse("contexts", contexts);
  contexts = Json::array({1, 2});
  refuse("contexts", contexts);
  CHECK(rig.plic.freeze()->toJson() == good);
}
