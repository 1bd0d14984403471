// The JavaScript side of a FUSE session: takes its questions and reports to the JavaScript thread.
//
// post() may be called by any thread at any time, also by one that has been stuck until after
// close(); what comes then is dropped. Questions are bounded by Questions::kMax; of failures, which
// readers can cause as fast as they like, those are dropped that JavaScript is behind with.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "fuse/question.h"

namespace ckptfs::binding {

class FuseOwner final : public fuse::Owner {
 public:
  static constexpr unsigned kMaxFailures = 64;

  /** `listener(event)` is called on the JavaScript thread of `env`. */
  FuseOwner(Napi::Env env, Napi::Function listener);
  ~FuseOwner() override { close(); }

  void ask(fuse::Question question) noexcept override;
  void released(uint64_t handle) noexcept override;
  void failed(const std::string& path, const std::string& what, int err) noexcept override;

  /** JavaScript hears no more. Idempotent. */
  void close();

 private:
  struct Failures {
    std::atomic<unsigned> undelivered{0};
  };
  struct Event {
    fuse::Question question;  // its kind is the event's
    std::string what = {};    // of a failure
    int err = 0;
    std::shared_ptr<Failures> failures = nullptr;
  };
  static void deliver(Napi::Env env, Napi::Function listener, void*, Event* event);
  using Channel = Napi::TypedThreadSafeFunction<void, Event, deliver>;
  void post(Event event) noexcept;

  std::mutex lock_;  // guards the two below
  bool closed_ = false;
  Channel channel_;
  const std::shared_ptr<Failures> failures_ = std::make_shared<Failures>();
};

}  // namespace ckptfs::binding
