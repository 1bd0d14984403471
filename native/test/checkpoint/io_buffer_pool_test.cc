#include "checkpoint/restore/io_buffer_pool.h"

#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>

using namespace ckptfs;

TEST_CASE("io buffer pool: one load per IO block, whatever the number of threads that want it") {
  IoBufferPool pool(4, 64);
  std::atomic<int> loads{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      bool mustLoad = false;
      IoBufferPool::Buffer& buffer = pool.acquire(7, mustLoad);
      if (mustLoad) {
        ++loads;
        buffer.bytes()[0] = std::byte{7};
        pool.loaded(buffer, true);
      }
      CHECK(buffer.bytes()[0] == std::byte{7});
      pool.release(buffer, false);
    });
  threads.clear();
  CHECK(loads == 1);
}

TEST_CASE("io buffer pool: a failed load is tried anew, a dropped buffer is not found") {
  IoBufferPool pool(2, 64);
  bool mustLoad = false;
  pool.loaded(pool.acquire(1, mustLoad), false);
  CHECK(mustLoad);
  IoBufferPool::Buffer& first = pool.acquire(1, mustLoad);
  CHECK(mustLoad);
  pool.loaded(first, true);
  IoBufferPool::Buffer& second = pool.acquire(1, mustLoad);
  CHECK_FALSE(mustLoad);
  CHECK(&first == &second);
  pool.release(second, true);  // dropped while still pinned
  CHECK(pool.acquireIdle() == nullptr);
  IoBufferPool::Buffer& third = pool.acquire(1, mustLoad);
  CHECK(mustLoad);
  CHECK(&third != &first);
  pool.loaded(third, true);
  pool.release(third, false);
  CHECK(pool.acquireIdle() == &third);
  pool.release(third, true);
  pool.release(first, false);
  CHECK(pool.acquireIdle() == nullptr);
}

TEST_CASE("io buffer pool: more IO blocks than buffers, the contents always fit the request") {
  IoBufferPool pool(2, 64);
  std::atomic<int> wrong{0};
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < 3; ++i)
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      for (int n = 0; n < 2000; ++n) {
        const uint32_t ioBlock = random() % 5;
        bool mustLoad = false;
        IoBufferPool::Buffer& buffer = pool.acquire(ioBlock, mustLoad);
        if (mustLoad) {
          const bool ok = random() % 4 != 0;
          buffer.bytes()[0] = static_cast<std::byte>(ioBlock);
          pool.loaded(buffer, ok);
          if (!ok) continue;
        }
        wrong += buffer.bytes()[0] != static_cast<std::byte>(ioBlock);
        wrong += buffer.ioBlock() != ioBlock;
        pool.release(buffer, random() % 4 == 0);
      }
    });
  threads.clear();
  CHECK(wrong == 0);
}
