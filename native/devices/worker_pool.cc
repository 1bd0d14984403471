#include "devices/worker_pool.h"

#include <algorithm>
#include <system_error>

#include "base/thread_name.h"

namespace ckptfs {

WorkerPool::WorkerPool(unsigned threads, std::string name)
    : limit_(std::max(threads, 1u)), name_(std::move(name)) {
  begin();
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::submit(std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  if (idle_ >= jobs_.size() || threads_.size() == limit_) return wake_.notify_one();
  try {
    begin();
  } catch (const std::system_error&) {
    // The system gives no more threads: those that there are get to it.
  }
}

void WorkerPool::begin() {
  threads_.emplace_back([this, label = name_ + "-" + std::to_string(threads_.size())] {
    nameThread(label.c_str());
    work();
  });
}

void WorkerPool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
    --idle_;
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace ckptfs
