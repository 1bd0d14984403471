#include "machine/timers.h"

#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace ckptfs {
namespace {

constexpr uint64_t kMillisecond = GuestClock::kTicksPerSecond / 1000;
/** Farther away than any test lasts. */
constexpr uint64_t kFar = 3600 * GuestClock::kTicksPerSecond;

/** A clock with timers, and what expired when. */
struct Rig {
  struct Expiry {
    unsigned vcpu;
    uint64_t at;
  };

  explicit Rig(unsigned vcpus) : timers(clock, vcpus, [this](unsigned vcpu) { expire(vcpu); }) {}

  void expire(unsigned vcpu) {
    const std::lock_guard lock(mutex);
    expired.push_back({vcpu, clock.now()});
    changed.notify_all();
  }
  std::vector<Expiry> await(size_t count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return expired.size() >= count; });
    return expired;
  }
  size_t count() {
    const std::lock_guard lock(mutex);
    return expired.size();
  }

  GuestClock clock;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Expiry> expired;
  Timers timers;
};

}  // namespace

TEST_CASE("deadlines pass in their order and not early") {
  Rig rig(3);
  const uint64_t deadlines[] = {15 * kMillisecond, 5 * kMillisecond, 10 * kMillisecond};
  for (unsigned i = 0; i < 3; ++i) rig.timers.set(i, deadlines[i]);
  rig.clock.run();
  rig.timers.wake();
  const auto expired = rig.await(3);
  CHECK(expired[0].vcpu == 1);
  CHECK(expired[1].vcpu == 2);
  CHECK(expired[2].vcpu == 0);
  for (const auto& [vcpu, at] : expired) CHECK(at >= deadlines[vcpu]);
}

TEST_CASE("a deadline in the past passes at once, and only once") {
  Rig rig(1);
  rig.clock.set(1000);
  rig.clock.run();
  rig.timers.set(0, 10);
  rig.await(1);
  rig.timers.set(0, 0);
  CHECK(rig.await(2).size() == 2);
}

TEST_CASE("a deadline is replaced by an earlier one, a later one or none") {
  Rig rig(3);
  rig.clock.run();
  rig.timers.set(0, kFar);
  rig.timers.set(1, rig.clock.now() + 20 * kMillisecond);
  rig.timers.set(2, kFar);
  const uint64_t earlier = rig.clock.now() + kMillisecond;
  rig.timers.set(0, earlier);
  CHECK(rig.await(1)[0].vcpu == 0);

  rig.timers.set(1, Timers::kNever);
  const uint64_t later = rig.clock.now() + 5 * kMillisecond;
  rig.timers.set(2, later);
  rig.timers.set(0, rig.clock.now() + kFar);
  rig.timers.set(0, Timers::kNever);
  // Vcpu 1 may have expired before it was disarmed, on a host that slept meanwhile.
  std::vector<Rig::Expiry> expired;
  do {
    expired = rig.await(2);
  } while (expired.back().vcpu != 2);
  CHECK(expired.back().at >= later);
  for (const auto& [vcpu, at] : expired) CHECK(at >= earlier);
}

TEST_CASE("nothing passes while the clock is stopped") {
  Rig rig(2);
  rig.timers.set(0, 0);
  rig.timers.set(1, kMillisecond);
  rig.timers.wake();
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  CHECK(rig.count() == 0);
  rig.clock.run();
  rig.timers.wake();
  rig.await(2);

  rig.timers.set(0, rig.clock.now() + kFar);
  rig.clock.freeze();
  rig.clock.set(rig.clock.now() + kFar);
  rig.timers.wake();
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  CHECK(rig.count() == 2);
  rig.clock.run();
  rig.timers.wake();
  CHECK(rig.await(3)[2].vcpu == 0);
}

TEST_CASE("the callback may set the next deadline") {
  GuestClock clock;
  clock.run();
  std::mutex mutex;
  std::condition_variable changed;
  int left = 20;
  Timers* self = nullptr;
  Timers timers(clock, 1, [&](unsigned vcpu) {
    const std::lock_guard lock(mutex);
    if (--left > 0) self->set(vcpu, clock.now() + 100);
    changed.notify_all();
  });
  {
    const std::lock_guard lock(mutex);
    self = &timers;
  }
  timers.set(0, 0);
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return left == 0; });
}

TEST_CASE("many threads set deadlines while the clock stops and goes") {
  constexpr unsigned kVcpus = 4;
  Rig rig(kVcpus);
  std::vector<std::thread> setters;
  for (unsigned vcpu = 0; vcpu < kVcpus; ++vcpu)
    setters.emplace_back([&, vcpu] {
      for (uint64_t i = 0; i < 500; ++i)
        rig.timers.set(vcpu, i % 5 == 0 ? Timers::kNever : rig.clock.now() + i % 7 * 100);
      rig.timers.set(vcpu, rig.clock.now());
    });
  for (int i = 0; i < 50; ++i) {
    rig.clock.run();
    rig.timers.wake();
    std::this_thread::yield();
    rig.clock.freeze();
  }
  for (std::thread& setter : setters) setter.join();
  rig.clock.run();
  for (unsigned vcpu = 0; vcpu < kVcpus; ++vcpu) rig.timers.set(vcpu, 0);
  rig.timers.wake();
  const size_t before = rig.count();
  rig.timers.set(0, rig.clock.now());
  rig.await(before + 1);
}

TEST_CASE("timers go while deadlines are armed") {
  for (const bool running : {false, true}) {
    Rig rig(2);
    if (running) rig.clock.run();
    rig.timers.set(0, kFar);
    rig.timers.set(1, rig.clock.now() + 100);
  }
}

}  // namespace ckptfs
