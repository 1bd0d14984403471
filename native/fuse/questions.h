// The questions that the tree has yet to answer, and how each answer becomes a reply.
//
// A question belongs to a request (request.h) and goes with it: when the request is overdue, it is
// forgotten. ask() from any thread; answer() on the JavaScript thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "fuse/question.h"
#include "fuse/request.h"

namespace ckptfs::fuse {

class Questions {
 public:
  /** What JavaScript may have before it at once. */
  static constexpr size_t kMax = 4096;
  /** Replies with an answer that is no error; true if the kernel has got the reply. Throws Error if
   *  the answer is malformed, then without having taken the request. */
  using Reply = std::function<bool(Request&, const Answer&)>;

  Questions(Requests& requests, Owner& owner) : requests_(requests), owner_(owner) {}

  void ask(fuse_req_t req, Question question, Reply reply);
  /** True if it was in time and the kernel has got the reply. Throws Error for a malformed one. */
  bool answer(uint64_t id, const Answer& answer);
  /** Its request has been answered. */
  void forget(uint64_t id);

 private:
  struct Open {
    std::shared_ptr<Request> request;
    Reply reply;
  };

  Requests& requests_;
  Owner& owner_;
  std::atomic<uint64_t> lastId_{0};
  std::mutex lock_;  // guards open_
  std::unordered_map<uint64_t, Open> open_;
};

}  // namespace ckptfs::fuse
