#include "checkpoint/save/staging.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <set>
#include <thread>

using namespace ckptfs;
using namespace std::chrono_literals;

namespace {
const Geometry kGeometry{.pageBytes = 4096, .pagesPerBlock = 1, .blocksPerIoBlock = 4};
}

TEST_CASE("staging: a buffer holds an IO block in order") {
  StagingPool pool(kGeometry, 1, 0, 0);
  StagingBuffer* const buffer = pool.take();
  CHECK(pool.tryTake() == nullptr);
  for (BlockId id = 0; id < 4; ++id) {
    CHECK_FALSE(buffer->full());
    CHECK(buffer->room() == 4 - id);
    const std::vector<std::byte> contents(4096, static_cast<std::byte>(id + 1));
    buffer->add(id * 10, contents.data());
  }
  CHECK(buffer->full());
  for (size_t i = 0; i < 4; ++i) {
    CHECK(buffer->ids()[i] == i * 10);
    CHECK(buffer->raw(i)[4095] == static_cast<std::byte>(i + 1));
  }
  pool.release(buffer);
  CHECK(pool.take()->empty());
}

TEST_CASE("staging: full buffers come out in the order of their submission") {
  StagingPool pool(kGeometry, 3, 0, 0);
  StagingBuffer* const a = pool.take();
  StagingBuffer* const b = pool.take();
  CHECK(pool.nextFull(0ns, 0) == nullptr);
  pool.submit(b);
  pool.submit(a);
  CHECK(pool.nextFull(1h, 0) == b);
  pool.close();
  CHECK(pool.lastFull() == a);
  CHECK(pool.lastFull() == nullptr);
  CHECK(pool.nextFull(1h, 0) == nullptr);
}

TEST_CASE("staging: an interrupt ends waits, once for each") {
  StagingPool pool(kGeometry, 1, 0, 0);
  pool.interrupt();
  CHECK(pool.nextFull(1h, 0) == nullptr);  // it came before
  CHECK(pool.interrupts() == 1);
  std::jthread waiter([&] { CHECK(pool.nextFull(1h, 1) == nullptr); });
  pool.interrupt();
}

TEST_CASE("staging: grows when few are free, up to its limit, and gives all back") {
  const uint64_t io = kGeometry.ioBlockBytes();
  StagingPool pool(kGeometry, 2, 8 * io, 2000 * io);
  CHECK(pool.counters().buffers == 8);
  pool.grow();
  CHECK(pool.counters().buffers == 8);  // enough are free
  std::set<StagingBuffer*> taken;
  while (StagingBuffer* const buffer = pool.tryTake()) taken.insert(buffer);
  CHECK(taken.size() == 8);
  pool.grow();
  CHECK(pool.counters().buffers > 8);
  for (int i = 0; i < 100; ++i) {
    while (StagingBuffer* const buffer = pool.tryTake()) {
      std::vector<std::byte> contents(4096, std::byte{7});
      buffer->add(1, contents.data());
      taken.insert(buffer);
    }
    pool.grow();
  }
  CHECK(pool.counters().buffers == 2000);
  CHECK(taken.size() == 2000);
  pool.giveBack();
  CHECK(pool.counters().buffers == 0);
}

TEST_CASE("staging: who finds none free waits for one") {
  StagingPool pool(kGeometry, 1, 0, 0);
  StagingBuffer* const buffer = pool.take();
  std::atomic<StagingBuffer*> got{nullptr};
  std::jthread waiter([&] { got = pool.take(); });
  while (pool.counters().starved == 0) std::this_thread::yield();
  CHECK(got == nullptr);
  pool.release(buffer);
  waiter.join();
  CHECK(got == buffer);
}
