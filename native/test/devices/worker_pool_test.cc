// Threads for disk requests: as many as jobs need, up to the limit.
#include "devices/worker_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <latch>

namespace ckptfs {
namespace {

TEST_CASE("worker pool: jobs that wait for one another are carried out at once, up to the limit") {
  constexpr unsigned kThreads = 5;
  std::latch together(kThreads);
  WorkerPool pool(kThreads, "test-io");
  for (unsigned i = 0; i < kThreads; ++i) pool.submit([&] { together.arrive_and_wait(); });
  together.wait();
}

TEST_CASE("worker pool: its end carries out what was submitted") {
  std::atomic<int> carriedOut = 0;
  {
    WorkerPool pool(3, "test-io");
    for (int i = 0; i < 1000; ++i) pool.submit([&] { ++carriedOut; });
  }
  CHECK(carriedOut == 1000);
}

}  // namespace
}  // namespace ckptfs
