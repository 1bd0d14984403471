// Threads that act like vCPUs and devices on a guest memory, and that can be paused like them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "memory/guest_memory.h"
#include "test/memory/guest_access.h"

namespace ckptfs {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;  // ten to a hundred times slower: fewer rounds
#else
inline constexpr bool kSanitized = false;
#endif

inline uint64_t loadWord(const std::byte* view, uint64_t offset) {
  return __atomic_load_n(reinterpret_cast<const uint64_t*>(view + offset), __ATOMIC_RELAXED);
}
inline void storeWord(std::byte* view, uint64_t offset, uint64_t value) {
  __atomic_store_n(reinterpret_cast<uint64_t*>(view + offset), value, __ATOMIC_RELAXED);
}

/** Runs `body` on a thread that acts like a vCPU. */
inline void onVcpu(const std::function<void()>& body) {
  std::jthread([&] {
    GuestMemory::attachThread();
    body();
  }).join();
}

/** Runs `step` again and again on `count` threads until destroyed, but not between pause and
 * resume. */
class GuestThreads {
 public:
  using Step = std::function<void(unsigned thread, std::mt19937_64& random)>;

  GuestThreads(unsigned count, Step step) : count_(count), step_(std::move(step)) {
    for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this, i] { run(i); });
  }
  ~GuestThreads() {
    stop_ = true;
    for (std::jthread& thread : threads_) thread.join();
  }
  GuestThreads(const GuestThreads&) = delete;
  GuestThreads& operator=(const GuestThreads&) = delete;

  void pause() {
    ++turns_;
    for (unsigned now = paused_; now != count_; now = paused_) paused_.wait(now);
  }
  void resume() {
    paused_ = 0;
    ++turns_;
    turns_.notify_all();
  }
  uint64_t steps() const { return steps_; }

 private:
  void run(unsigned index) {
    GuestMemory::attachThread();
    std::mt19937_64 random(index);
    while (!stop_) {
      if (const uint64_t turn = turns_; turn % 2 == 1) {
        ++paused_;
        paused_.notify_all();
        turns_.wait(turn);
        continue;
      }
      step_(index, random);
      ++steps_;
    }
  }

  const unsigned count_;
  const Step step_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> turns_{0};  // odd: paused
  std::atomic<unsigned> paused_{0};
  std::atomic<uint64_t> steps_{0};
  std::vector<std::jthread> threads_;
};

/** Fills RAM with blocks of several kinds: untouched, zeros, compressible, random. */
inline void fillMemory(GuestMemory& memory, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (BlockId block = 0; block < memory.blockCount(); ++block) {
    std::byte* const at = memory.hostView() + memory.geometry().offsetOf(block);
    const uint64_t kind = random() % 4;
    if (kind == 0) continue;
    for (uint64_t i = 0; i < memory.geometry().blockBytes(); i += 8)
      storeWord(at, i, kind == 1 ? 0 : kind == 2 ? block * 100 + i / 512 : random());
  }
}

/** Two vCPUs that write in bursts near one another, and a device. */
inline GuestThreads writersOf(GuestMemory& memory) {
  return {3, [&memory](unsigned thread, std::mt19937_64& random) {
            const uint64_t words = memory.bytes() / 8;
            const uint64_t center = random() % words;
            for (int i = 0; i < 16; ++i) {
              const uint64_t offset = (center + random() % 4096) % words * 8;
              if (thread < 2) {
                guestStore(memory, offset, random() % 3 == 0 ? 0 : random());
              } else {
                if (memory.prepareWrite(offset, 8)) storeWord(memory.hostView(), offset, random());
              }
            }
            std::this_thread::yield();
          }};
}

inline std::vector<std::byte> copyOf(const GuestMemory& memory) {
  std::vector<std::byte> copy(memory.bytes());
  std::memcpy(copy.data(), memory.hostView(), copy.size());
  return copy;
}

}  // namespace ckptfs
