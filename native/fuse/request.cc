#include "fuse/request.h"

#include <cerrno>
#include <utility>

namespace ckptfs::fuse {

std::shared_ptr<Request> Requests::begin(fuse_req_t req, SharedPath path, uint64_t question,
                                         bool limited) {
  const auto deadline = limited ? Clock::now() + limit_ : Request::kNever;
  auto request = std::make_shared<Request>(req, std::move(path), question, deadline);
  int refusal = 0;
  {
    const std::lock_guard lock(lock_);
    if (closed_)
      refusal = ENOTCONN;
    else if (limited_.size() + unlimited_.size() >= kMax)
      refusal = EBUSY;
    else
      request->place_ = listOf(*request).insert(listOf(*request).end(), request);
  }
  if (refusal == 0) return request;
  fuse_reply_err(req, refusal);
  return nullptr;
}

fuse_req_t Requests::take(Request& request) noexcept {
  List taken;  // the reference is let go of without the lock
  const std::lock_guard lock(lock_);
  const fuse_req_t req = std::exchange(request.req_, nullptr);
  if (req != nullptr) taken.splice(taken.end(), listOf(request), request.place_);
  return req;
}

bool Requests::fail(Request& request, int err) noexcept {
  const fuse_req_t req = take(request);
  if (req != nullptr) fuse_reply_err(req, err);
  return req != nullptr;
}

Requests::List& Requests::listOf(const Request& request) {
  return request.deadline_ == Request::kNever ? unlimited_ : limited_;
}

void Requests::takeUntil(List& list, Clock::time_point until, std::vector<Taken>& into) {
  while (!list.empty() && list.front()->deadline_ <= until) {
    std::shared_ptr<Request> request = std::move(list.front());
    list.pop_front();
    const fuse_req_t req = std::exchange(request->req_, nullptr);
    into.push_back({req, std::move(request)});
  }
}

void Requests::expire(Clock::time_point now, const std::function<void(const Request&)>& late) {
  std::vector<Taken> overdue;
  {
    const std::lock_guard lock(lock_);
    takeUntil(limited_, now, overdue);
  }
  for (const Taken& taken : overdue) {
    fuse_reply_err(taken.req, ETIMEDOUT);
    late(*taken.request);
  }
}

void Requests::close() {
  std::vector<Taken> left;
  {
    const std::lock_guard lock(lock_);
    closed_ = true;
    takeUntil(limited_, Request::kNever, left);
    takeUntil(unlimited_, Request::kNever, left);
  }
  for (const Taken& taken : left) fuse_reply_err(taken.req, ENOTCONN);
}

}  // namespace ckptfs::fuse
