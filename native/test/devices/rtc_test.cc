#include "devices/rtc.h"

#include <doctest/doctest.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "base/error.h"
#include "test/devices/virtio_driver.h"

using namespace ckptfs;

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kFar = 3600 * kSecond;

uint64_t hostNs() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return uint64_t(t.tv_sec) * kSecond + uint64_t(t.tv_nsec);
}

struct Rig {
  TestLine line;
  Rtc rtc{line.input()};

  uint64_t get(uint64_t offset) { return rtc.read(offset, 4); }
  void set(uint64_t offset, uint64_t value) { rtc.write(offset, 4, value & UINT32_MAX); }
  uint64_t time() {
    const uint64_t low = get(0);
    return low | get(4) << 32;
  }
  void setTime(uint64_t ns) {
    set(4, ns >> 32);
    set(0, ns);
  }
  void alarm(uint64_t ns) {
    set(12, ns >> 32);
    set(8, ns);
    set(16, 1);
  }
  /** Its time is the host's and `ahead` ns more. */
  bool shows(int64_t ahead) {
    const uint64_t before = hostNs() + uint64_t(ahead);
    const uint64_t shown = time();
    return before <= shown && shown <= hostNs() + uint64_t(ahead);
  }
};

}  // namespace

TEST_CASE("rtc: shows the host's time, to the nanosecond") {
  Rig rig;
  for (int i = 0; i < 1000; ++i) CHECK(rig.shows(0));
}

TEST_CASE("rtc: the high half is of the moment when the low one was read") {
  Rig rig;
  rig.setTime(uint64_t{5} << 32 | 0xfd00'0000);  // 50 ms before the carry
  for (uint64_t low = UINT32_MAX; low > 0x8000'0000;) {
    low = rig.get(0);
    if (rig.get(4) != (low > 0x8000'0000 ? 5 : 6)) FAIL("the halves do not belong together");
  }
}

TEST_CASE("rtc: the guest sets it") {
  Rig rig;
  const uint64_t then = hostNs() - kFar;
  rig.setTime(then);
  const uint64_t shown = rig.time();
  CHECK(shown - then < kSecond);
  rig.setTime(7);  // 1970
  CHECK(rig.time() < kSecond + 7);
}

TEST_CASE("rtc: an alarm goes off at its time, once") {
  Rig rig;
  const uint64_t at = hostNs() + kSecond / 20;
  rig.alarm(at);
  CHECK(rig.get(24) == 1);
  CHECK((rig.get(8) | rig.get(12) << 32) == at);
  rig.line.awaitHigh();
  CHECK(hostNs() >= at);
  CHECK(rig.get(24) == 0);
  rig.set(28, 1);
  CHECK_FALSE(rig.line.level());
  rig.alarm(at);  // in the past
  rig.line.awaitHigh();
  rig.set(16, 0);
  CHECK_FALSE(rig.line.level());
  rig.set(16, 1);
  CHECK(rig.line.level());
}

TEST_CASE("rtc: an alarm that is cleared or far stays silent, until the clock is set to it") {
  Rig rig;
  const uint64_t soon = hostNs() + kSecond / 50;
  rig.alarm(soon);
  rig.set(20, 1);
  CHECK(rig.get(24) == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  CHECK_FALSE(rig.line.level());
  rig.alarm(UINT64_MAX);
  CHECK(rig.get(24) == 1);
  rig.alarm(hostNs() + kFar);
  CHECK_FALSE(rig.line.level());
  rig.setTime(hostNs() + kFar);
  rig.line.awaitHigh();
}

TEST_CASE("rtc: after a restore it shows the host's time, set off as before, and rings late") {
  Rig before;
  before.setTime(hostNs() - kFar);
  before.alarm(hostNs() - kFar + kSecond / 50);
  before.set(16, 0);
  const Json state = Json::parse(before.rtc.freeze()->toJson().dump());
  CHECK(state.at("armed") == true);
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  Rig after;
  after.rtc.thaw(state);
  const uint64_t shown = after.time() + kFar;
  CHECK(hostNs() - shown < kSecond);  // the time that has passed has passed
  CHECK_FALSE(after.line.level());
  after.set(16, 1);
  after.line.awaitHigh();
}

TEST_CASE("rtc: state makes a round trip; other states and registers are nothing") {
  Rig before, after;
  before.alarm(hostNs() + kFar);
  before.time();
  before.set(32, 1);
  CHECK(before.get(32) == 0);
  CHECK(before.get(2) == 0);
  const Json state = Json::parse(before.rtc.freeze()->toJson().dump());
  after.rtc.thaw(state);
  CHECK(after.rtc.freeze()->toJson() == state);
  for (const auto& [key, value] : state.items()) {
    Json other = state;
    other.erase(key);
    CHECK_THROWS_AS(after.rtc.thaw(other), Error);
    other[key] = "x";
    CHECK_THROWS_AS(after.rtc.thaw(other), Error);
  }
}
