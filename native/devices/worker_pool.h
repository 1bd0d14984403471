// Threads that carry out blocking disk requests for all devices of one machine.
//
// A thread is started when a job finds none idle, up to a limit: a guest that has one request in
// flight costs one thread. Jobs start in the order of submission. The queue needs no limit of its
// own: a device submits one job per request in flight, and has at most a virtqueue of those
// (kQueueSizeMax).
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace ckptfs {

class WorkerPool {
 public:
  /** Of at most `threads` threads (at least 1), named "<name>-<index>". */
  WorkerPool(unsigned threads, std::string name);
  /** Carries out what was submitted, then joins the threads. */
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /** From any thread; a job must not throw. */
  void submit(std::function<void()> job);

 private:
  void begin();
  void work();

  const size_t limit_;
  const std::string name_;
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool closing_ = false;
  size_t idle_ = 0;  // threads that wait for a job
  std::vector<std::thread> threads_;
};

}  // namespace ckptfs
