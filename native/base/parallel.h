// A few threads that share a list of independent pieces of work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace ckptfs {

/** Calls `work(i)` once for every i below `count`, in about that order, on up to `threads` threads,
 *  the caller's among them. The first exception ends the rest early, and is thrown again. */
template <class Work>
void forEachInParallel(unsigned threads, uint64_t count, Work work) {
  std::atomic<uint64_t> next{0};
  std::mutex lock;  // guards error
  std::exception_ptr error;
  const auto run = [&] {
    for (uint64_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        next = count;
        const std::lock_guard guard(lock);
        if (!error) error = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> others;
    for (uint64_t i = 1; i < std::min<uint64_t>(threads, count); ++i) others.emplace_back(run);
    run();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace ckptfs
