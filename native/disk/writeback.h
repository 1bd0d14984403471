// Sends what was appended to a file to its device in the background, so that a flush has little
// left to do. The kernel would wait for some seconds, or for the flush.
//
// A thread of its own, begun when there is enough to send: sending may wait for the device, which
// whoever appends must not. Pieces are large, and the last page stays, which is still written to.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace ckptfs {

class Writeback {
 public:
  static constexpr uint64_t kPieceBytes = 8 << 20;

  /** Of the file open as `fd`, from byte `begin` on; the file outlives this. */
  Writeback(int fd, uint64_t begin) : fd_(fd), sent_(begin), end_(begin) {}
  ~Writeback();
  Writeback(const Writeback&) = delete;
  Writeback& operator=(const Writeback&) = delete;

  /** Everything up to `end` has been written. One caller at a time. */
  void advance(uint64_t end);

 private:
  void run();

  const int fd_;
  uint64_t sent_;     // the thread's
  std::mutex mutex_;  // guards the two below
  uint64_t end_;
  bool closing_ = false;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace ckptfs
