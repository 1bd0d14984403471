#include "fuse/crew.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <thread>

using namespace ckptfs::fuse;
using namespace std::chrono_literals;

namespace {

/** Requests as the kernel would queue them: what to do, told whether it may block. */
struct Queue {
  using Do = std::function<void(bool mayBlock)>;
  std::mutex lock;
  std::condition_variable wake;
  std::deque<Do> requests;
  bool ended = false;
  std::atomic<unsigned> workers{0}, most{0};

  void add(Do request) {
    const std::lock_guard guard(lock);
    requests.push_back(std::move(request));
    wake.notify_one();
  }
  void end() {
    const std::lock_guard guard(lock);
    ended = true;
    wake.notify_all();
  }
};

class QueueWorker final : public Worker {
 public:
  explicit QueueWorker(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {
    const unsigned now = ++queue_->workers;
    for (unsigned most = queue_->most; most < now;) queue_->most.compare_exchange_weak(most, now);
  }
  ~QueueWorker() override { --queue_->workers; }
  bool await() override {
    std::unique_lock guard(queue_->lock);
    queue_->wake.wait(guard, [this] { return queue_->ended || !queue_->requests.empty(); });
    if (queue_->requests.empty()) return false;
    request_ = std::move(queue_->requests.front());
    queue_->requests.pop_front();
    return true;
  }
  void serve(bool mayBlock) override { request_(mayBlock); }

 private:
  const std::shared_ptr<Queue> queue_;
  Queue::Do request_;
};

struct Rig {
  const std::shared_ptr<Queue> queue = std::make_shared<Queue>();
  const std::shared_ptr<Crew> crew;
  explicit Rig(unsigned most)
      : crew(std::make_shared<Crew>(most,
                                    [q = queue] { return std::make_unique<QueueWorker>(q); })) {
    crew->start();
  }
  ~Rig() {
    queue->end();
    CHECK(crew->awaitEnd(10s));
    CHECK(queue->workers == 0);
  }
};

}  // namespace

TEST_SUITE("crew") {
  TEST_CASE("one thread is enough for requests one after another") {
    Rig rig(8);
    for (int i = 0; i < 100; ++i) {
      std::latch done(1);
      rig.queue->add([&](bool mayBlock) {
        CHECK(mayBlock);
        done.count_down();
      });
      done.wait();
    }
    CHECK(rig.queue->most <= 8);
  }

  TEST_CASE("threads that are stuck keep nobody from taking requests") {
    Rig rig(4);
    std::latch release(1), stuck(3);
    for (int i = 0; i < 3; ++i)
      rig.queue->add([&](bool mayBlock) {
        CHECK(mayBlock);
        stuck.count_down();
        release.wait();
      });
    stuck.wait();
    // The fourth thread is the last one: what can block is left to whoever is free first.
    std::atomic<int> later{0};
    for (int i = 0; i < 20; ++i) {
      std::latch served(1);
      rig.queue->add([&](bool mayBlock) {
        CHECK_FALSE(mayBlock);
        rig.crew->submit([&](Worker&) { ++later; });
        served.count_down();
      });
      served.wait();
    }
    CHECK(later == 0);
    CHECK(rig.queue->most == 4);
    release.count_down();
    while (later != 20) std::this_thread::sleep_for(1ms);
  }

  TEST_CASE("threads that have nothing to do leave") {
    Rig rig(16);
    std::latch release(1), busy(12);
    for (int i = 0; i < 12; ++i)
      rig.queue->add([&](bool) {
        busy.count_down();
        release.wait();
      });
    busy.wait();
    release.count_down();
    while (rig.queue->workers > Crew::kIdle) std::this_thread::sleep_for(1ms);
    CHECK(rig.queue->workers >= 1);
  }

  TEST_CASE("the end does not wait for a thread that is stuck") {
    const auto release = std::make_shared<std::latch>(1);
    const auto queue = std::make_shared<Queue>();
    auto crew = std::make_shared<Crew>(4, [queue] { return std::make_unique<QueueWorker>(queue); });
    crew->start();
    std::latch stuck(1);
    queue->add([&, release](bool) {
      stuck.count_down();
      release->wait();
    });
    stuck.wait();
    queue->end();
    CHECK_FALSE(crew->awaitEnd(50ms));
    release->count_down();
    CHECK(crew->awaitEnd(10s));
  }
}
