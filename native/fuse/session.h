// A mount that libfuse's low level serves: the kernel's requests come to threads of the session's
// own, names and attributes are asked of the owner, bytes come from native sources.
//
// Threads: the crew takes requests (crew.h), the watchdog answers those that are overdue, the
// invalidator sends what the kernel must not believe any longer. The owner's thread (JavaScript's)
// answers questions. None of them looks into the mount.
//
// Who owns a request is told in request.h. The end answers all requests first: what is still asked
// of JavaScript, or under way in a source, finds later that its request is gone. A thread that is
// stuck in a source then is left behind; it keeps alive what it needs, but no connection to the
// kernel.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "fuse/byte_requests.h"
#include "fuse/context.h"
#include "fuse/invalidator.h"
#include "fuse/tree_requests.h"

namespace ckptfs::fuse {

class Session : public std::enable_shared_from_this<Session> {
 public:
  /** Of the crew: readers of slow sources beyond it wait for one another. */
  static constexpr unsigned kMaxThreads = 32;

  Session(Setup setup, std::unique_ptr<Owner> owner);
  ~Session();

  /** Mounts on a directory and returns when the kernel has connected. Throws Error; then nothing is
   *  mounted by it. Once. */
  void mount(const std::string& directory);
  /** The same with somebody else at the other end of a socket. */
  void connect(int socket);

  /** True if the answer was in time and the kernel has got it. Throws Error if it is malformed. */
  bool answer(uint64_t id, const Answer& answer) { return context_.questions.answer(id, answer); }
  /** See Invalidator::changed(). */
  void changed(std::string directory, std::string name);

  /** Whoever waits for an open file to change is woken; nothing if nobody does. */
  void wake(uint64_t handle) { context_.pollers.wake(handle); }

  /** When the mount is gone: ends the threads and closes the connection. What is still asked of a
   *  mount that was only detached is ENOTCONN. Idempotent, but one call at a time. */
  void end();

  // For the parts of the session.
  TreeRequests& tree() noexcept { return tree_; }
  ByteRequests& bytes() noexcept { return bytes_; }
  NodeTable& nodes() noexcept { return context_.nodes; }
  fuse_session* fuse() const noexcept { return fuse_; }
  int device() const noexcept { return device_; }
  int endEvent() const noexcept { return endEvent_; }
  bool isEnding() const noexcept { return ending_.load(std::memory_order_acquire); }
  void connected();

 private:
  void begin();
  void watch();

  Context context_;
  TreeRequests tree_{context_};
  ByteRequests bytes_{context_};
  fuse_session* fuse_ = nullptr;
  int device_ = -1;  // fuse_'s
  int endEvent_ = -1;
  std::atomic<bool> ending_{false};
  std::optional<Invalidator> invalidator_;
  std::mutex lock_;  // guards the two below
  std::condition_variable changed_;
  bool connected_ = false, ended_ = false;
  std::thread watchdog_;
};

}  // namespace ckptfs::fuse
