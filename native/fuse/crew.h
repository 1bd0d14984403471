// The threads that take the kernel's requests and carry them out.
//
// A thread that has taken a request carries it out itself: handing it to another one would cost a
// read of 4 KiB more than the read. So that one is always there to take the next request, another
// thread is started when none waits, up to a limit. At the limit the last one that waits may not
// get stuck in work that can block: it submits such work, which is done by whichever thread is free
// first. So requests are taken, and answered in time, however many threads a broken source holds.
//
// The threads belong to nobody: each keeps alive what it works with (the crew, and through Work the
// session), so that one that is stuck can be left behind.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace ckptfs::fuse {

/** What a thread of the crew does; each thread has one of its own. */
class Worker {
 public:
  virtual ~Worker() = default;
  /** Waits for a request and takes it; false when there will be no more. */
  virtual bool await() = 0;
  /** Carries it out. Unless it `mayBlock`, work that can block is to be submitted to the crew. */
  virtual void serve(bool mayBlock) = 0;
};

class Crew : public std::enable_shared_from_this<Crew> {
 public:
  /** Threads that have nothing to do stay, as long as there are no more than so many of them. */
  static constexpr unsigned kIdle = 8;
  using Job = std::function<void(Worker&)>;
  using Hire = std::function<std::unique_ptr<Worker>()>;

  /** `hire` makes the worker of another thread; may throw when there is no memory. */
  Crew(unsigned most, Hire hire) : most_(most), hire_(std::move(hire)) {}

  /** Starts the first thread. */
  void start();
  /** To be done by a thread that may block. From serve() only. */
  void submit(Job job);
  /** Once await() gives false everywhere: true when all threads have ended, false after `longest`.
   */
  bool awaitEnd(std::chrono::nanoseconds longest);

 private:
  bool hireOne();  // with lock_ held
  void run(Worker& worker);
  bool mayServe(Worker& worker);

  const unsigned most_;
  const Hire hire_;
  std::mutex lock_;  // guards all below
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // no more than there are requests (Requests::kMax)
  unsigned threads_ = 0;
  unsigned waiting_ = 0;  // in await(), or just started
};

}  // namespace ckptfs::fuse
