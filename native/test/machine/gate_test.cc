#include "machine/gate.h"

#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

namespace ckptfs {
namespace {

/** Threads that pass the gate again and again, as vCPUs do. */
class Passers {
 public:
  Passers(Gate& gate, unsigned count) : gate_(gate) {
    for (unsigned i = 0; i < count; ++i)
      threads_.emplace_back([this] {
        while (gate_.pass()) ++passes_;
        gate_.leave();
      });
  }
  ~Passers() {
    gate_.close();
    for (std::thread& thread : threads_) thread.join();
  }
  uint64_t passes() const { return passes_; }
  void awaitPasses() const {
    for (const uint64_t since = passes_; passes_ < since + threads_.size();)
      std::this_thread::yield();
  }

 private:
  Gate& gate_;
  std::atomic<uint64_t> passes_{0};
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("a held gate parks every thread until the last hold goes") {
  Gate gate(3);
  const Passers passers(gate, 3);
  passers.awaitPasses();
  gate.hold();
  CHECK(gate.waitParked());
  const uint64_t passes = passers.passes();
  gate.hold();
  CHECK(gate.waitParked());
  CHECK(gate.holds() == 2);
  gate.release();
  CHECK(gate.holds() == 1);
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  CHECK(passers.passes() == passes);
  CHECK(gate.waitParked());
  gate.release();
  CHECK(gate.holds() == 0);
  passers.awaitPasses();
}

TEST_CASE("a hold that was released before the threads came is none") {
  Gate gate(1);
  gate.hold();
  gate.release();
  CHECK(gate.pass());
}

TEST_CASE("a thread that leaves is not waited for") {
  Gate gate(2);
  gate.leave();
  std::thread second([&] { gate.leave(); });
  gate.hold();
  CHECK(gate.waitParked());
  second.join();
}

TEST_CASE("nobody waits for a stuck thread") {
  Gate gate(2);  // one of them never comes
  gate.hold();
  std::thread parked([&] { CHECK(gate.pass()); });
  std::thread fails([&] { gate.stuck(true); });
  CHECK_FALSE(gate.waitParked());
  CHECK_FALSE(gate.waitParked());
  fails.join();
  gate.stuck(false);
  std::thread late([&] { CHECK(gate.pass()); });
  CHECK(gate.waitParked());  // true even though...
  gate.stuck(true);
  CHECK(gate.waitParked());  // ...somebody is stuck who is no vCPU: all of those are parked
  gate.release();
  parked.join();
  late.join();
}

TEST_CASE("close lets every thread go, parked or coming, held or not") {
  for (const bool held : {false, true}) {
    Gate gate(2);
    if (held) gate.hold();
    std::thread first([&] {
      while (gate.pass()) {
      }
      gate.leave();
    });
    gate.close();
    CHECK_FALSE(gate.pass());
    gate.leave();
    first.join();
    gate.hold();
    CHECK(gate.waitParked());
    CHECK_FALSE(gate.pass());
  }
}

TEST_CASE("many threads hold and release at once") {
  constexpr unsigned kThreads = 4;
  constexpr int kRounds = 300;
  Gate gate(kThreads);
  const Passers passers(gate, kThreads);
  std::atomic<unsigned> inside{0};
  std::vector<std::thread> holders;
  for (unsigned i = 0; i < 3; ++i)
    holders.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        gate.hold();
        REQUIRE(gate.waitParked());
        ++inside;
        const uint64_t passes = passers.passes();
        std::this_thread::yield();
        CHECK(passers.passes() == passes);
        --inside;
        gate.release();
      }
    });
  for (std::thread& holder : holders) holder.join();
  CHECK(gate.holds() == 0);
  passers.awaitPasses();
}

}  // namespace ckptfs
