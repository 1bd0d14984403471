#include "fuse/crew.h"

#include <system_error>
#include <thread>
#include <utility>

#include "base/thread_name.h"

namespace ckptfs::fuse {

void Crew::start() {
  const std::lock_guard lock(lock_);
  if (!hireOne()) throw std::system_error(EAGAIN, std::generic_category(), "no thread to be had");
}

bool Crew::hireOne() {
  if (threads_ >= most_) return false;
  try {
    std::shared_ptr<Worker> worker = hire_();
    std::thread([crew = shared_from_this(), worker = std::move(worker)]() mutable {
      nameThread("fuse");
      crew->run(*worker);
      // What the worker holds is gone before awaitEnd() returns.
      worker = nullptr;
      const std::lock_guard lock(crew->lock_);
      --crew->threads_;
      crew->changed_.notify_all();
    }).detach();
  } catch (const std::exception&) {
    return false;  // those that are there have to do
  }
  ++threads_;
  ++waiting_;
  return true;
}

void Crew::run(Worker& worker) {
  // hireOne() has counted it as waiting.
  while (mayServe(worker) && worker.await()) {
    bool mayBlock;
    {
      const std::lock_guard lock(lock_);
      --waiting_;
      mayBlock = waiting_ > 0 || hireOne();
    }
    worker.serve(mayBlock);
    const std::lock_guard lock(lock_);
    ++waiting_;
  }
  const std::lock_guard lock(lock_);
  --waiting_;
}

/** Does what was submitted, as long as another one waits for requests meanwhile; false when the
 *  thread is not needed any more. */
bool Crew::mayServe(Worker& worker) {
  std::unique_lock lock(lock_);
  while (!jobs_.empty() && waiting_ > 1) {
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    --waiting_;
    lock.unlock();
    job(worker);
    job = nullptr;
    lock.lock();
    ++waiting_;
  }
  return waiting_ <= kIdle;
}

void Crew::submit(Job job) {
  const std::lock_guard lock(lock_);
  jobs_.push_back(std::move(job));
}

bool Crew::awaitEnd(std::chrono::nanoseconds longest) {
  std::unique_lock lock(lock_);
  return changed_.wait_for(lock, longest, [this] { return threads_ == 0; });
}

}  // namespace ckptfs::fuse
