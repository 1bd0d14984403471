// The kernel's requests that are being worked on: each is answered exactly once, in bounded time.
//
// begin() makes a Request of a fuse_req_t. Whoever has an answer take()s the request first: the
// thread that did the work, the JavaScript thread with what the tree says, the watchdog when it is
// overdue, or close(). One of them gets the fuse_req_t and replies; all others get null and leave
// it alone. So work may come to its end long after its request was answered, and finds that out
// when it wants to reply.
//
// All calls from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "fuse/fuse_api.h"

namespace ckptfs::fuse {

using Clock = std::chrono::steady_clock;
using SharedPath = std::shared_ptr<const std::string>;

class Request {
 public:
  Request(fuse_req_t req, SharedPath path, uint64_t question, Clock::time_point deadline)
      : req_(req), path_(std::move(path)), question_(question), deadline_(deadline) {}

  /** Takes as long as it takes. */
  static constexpr Clock::time_point kNever = Clock::time_point::max();

  /** What it is about, for people. */
  const std::string& path() const noexcept { return *path_; }
  /** The question to JavaScript that will answer it; 0 if none does. */
  uint64_t question() const noexcept { return question_; }

 private:
  friend class Requests;
  fuse_req_t req_;  // null once taken
  const SharedPath path_;
  const uint64_t question_;
  const Clock::time_point deadline_;
  std::list<std::shared_ptr<Request>>::iterator place_;
};

class Requests {
 public:
  /** More than the threads of a busy machine have under way; a bound on what is kept for them. */
  static constexpr size_t kMax = 8192;

  explicit Requests(Clock::duration limit) : limit_(limit) {}
  ~Requests() { close(); }

  /** Null when there are too many, or after close(): then it has been answered. */
  std::shared_ptr<Request> begin(fuse_req_t req, SharedPath path, uint64_t question = 0,
                                 bool limited = true);
  /** For the one who replies; null if somebody else does. */
  fuse_req_t take(Request& request) noexcept;
  /** Answers with an errno, unless somebody else has answered. */
  bool fail(Request& request, int err) noexcept;

  /** Answers with ETIMEDOUT what is overdue, and tells `late` of each. */
  void expire(Clock::time_point now, const std::function<void(const Request&)>& late);
  /** Nobody will answer any more: what is under way, and what comes, is ENOTCONN. */
  void close();

 private:
  struct Taken {
    fuse_req_t req;
    std::shared_ptr<Request> request;
  };
  using List = std::list<std::shared_ptr<Request>>;
  /** With lock_ held: those of a list, from its front on, that are due by then. */
  static void takeUntil(List& list, Clock::time_point until, std::vector<Taken>& into);
  /** With lock_ held. */
  List& listOf(const Request& request);

  const Clock::duration limit_;
  std::mutex lock_;  // guards the three below, and req_ and place_ of all requests
  bool closed_ = false;
  List limited_;    // oldest first, and so by deadline
  List unlimited_;  // in any order
};

}  // namespace ckptfs::fuse
