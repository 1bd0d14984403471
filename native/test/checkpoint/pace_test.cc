// Time is simulated: the tests say how long background threads would have waited.
#include "checkpoint/pace.h"

#include <doctest/doctest.h>

using namespace ckptfs;

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMs = 1'000'000;

struct Simulated {
  uint64_t now = 5 * kSecond;
  bool ioBusy = false;
  Pace pace;
  explicit Simulated(uint64_t limit = 0)
      : pace(
            limit, [this] { return ioBusy; }, [this] { return now; }) {}

  /** Asks until it is granted; the time it took. `meanwhile` happens in each wait. */
  template <class Meanwhile>
  uint64_t grant(uint64_t bytes, Meanwhile meanwhile) {
    const uint64_t since = now;
    while (const uint64_t delay = pace.delayNs(bytes)) {
      REQUIRE(delay <= 100 * kMs);
      now += delay;
      meanwhile();
    }
    return now - since;
  }
  uint64_t grant(uint64_t bytes) {
    return grant(bytes, [] {});
  }
  void demands(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) pace.demanded();
  }
};

}  // namespace

TEST_CASE("pace: without a limit nothing waits") {
  Simulated s;
  for (int i = 0; i < 1000; ++i) CHECK(s.grant(64 << 20) == 0);
}

TEST_CASE("pace: a limit holds over time, whatever the sizes") {
  for (const uint64_t limit : {uint64_t{1} << 20, uint64_t{300} << 20, uint64_t{7}}) {
    CAPTURE(limit);
    Simulated s(limit);
    const uint64_t from = s.now;
    uint64_t bytes = 0;
    for (int i = 0; i < 200; ++i) {
      const uint64_t piece = (static_cast<uint64_t>(i) * 7919 % 100 + 1) * (limit / 100 + 1);
      s.grant(piece);
      bytes += piece;
    }
    s.grant(0);  // the last piece's own time
    const double rate = static_cast<double>(bytes) * 1e9 / static_cast<double>(s.now - from);
    CHECK(rate <= static_cast<double>(limit) * 1.01);
    CHECK(rate >= static_cast<double>(limit) * 0.98);
  }
}

TEST_CASE("pace: what was not used does not pile up") {
  Simulated s(1 << 20);
  s.now += 3600 * kSecond;
  uint64_t bytes = 0;
  while (s.pace.delayNs(1 << 16) == 0) bytes += 1 << 16;
  CHECK(bytes <= 1 << 18);
}

TEST_CASE("pace: limits of any size do not overflow") {
  Simulated slow(1);
  CHECK(slow.pace.delayNs(64 << 20) == 0);
  CHECK(slow.pace.delayNs(1) > 0);
  Simulated fast(UINT64_MAX);
  for (int i = 0; i < 10; ++i) CHECK(fast.grant(UINT32_MAX) == 0);
}

TEST_CASE("pace: gives way to vCPUs that save much, within bounds") {
  Simulated s;
  CHECK(s.grant(1) == 0);
  const auto busy = [&] { s.demands(2 * Pace::kBusyDemandsPerMs); };
  uint64_t waited = 0;
  for (int i = 0; i < 20; ++i) {
    s.now += kMs / 10;
    busy();
    const uint64_t took = s.grant(1, busy);
    CHECK(took <= Pace::kDemandYieldNs);
    waited += took;
  }
  CHECK(waited > 10 * Pace::kDemandYieldNs);
  // They have stopped: so does the yielding.
  s.grant(1);
  s.now += 2 * kMs;
  s.grant(1);
  for (int i = 0; i < 20; ++i) CHECK(s.grant(1) == 0);
}

TEST_CASE("pace: a few demands do not slow anything down") {
  Simulated s;
  for (int i = 0; i < 100; ++i) {
    s.demands(1);
    s.now += kMs / 4;
    CHECK(s.grant(1) == 0);
  }
}

TEST_CASE("pace: gives way to the guest's disk requests, within bounds") {
  Simulated s;
  s.ioBusy = true;
  s.grant(1);
  for (int i = 0; i < 10; ++i) {
    const uint64_t took = s.grant(1);
    CHECK(took > 0);
    CHECK(took <= Pace::kIoYieldNs);
  }
  s.ioBusy = false;
  CHECK(s.grant(1) == 0);
}
