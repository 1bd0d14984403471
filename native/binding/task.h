// Long work that JavaScript can follow and stop: { result: Promise, cancel(): void }.
//
// The work runs on a libuv pool thread and tells its progress through a Progress; JavaScript hears
// the latest amounts at most every few milliseconds, on its own thread.
#pragma once

#include <napi.h>

#include <chrono>
#include <memory>
#include <mutex>

#include "base/progress.h"
#include "binding/async.h"

namespace ckptfs::binding {

/** The way of a task's amounts to its JavaScript listener. Lives until close() and the last
 *  delivery. */
class ProgressChannel {
 public:
  static ProgressChannel* create(Napi::Env env, Napi::Function listener);
  /** From any thread, one at a time. */
  void tell(uint64_t doneBytes, uint64_t totalBytes);
  /** Nobody tells any more; from the JavaScript thread, once. */
  void close();

 private:
  ProgressChannel() = default;
  struct Amounts {
    double doneBytes, totalBytes;
  };
  static void deliver(Napi::Env env, Napi::Function listener, ProgressChannel*, Amounts* amounts);
  using Channel = Napi::TypedThreadSafeFunction<ProgressChannel, Amounts, deliver>;

  std::chrono::steady_clock::time_point told_{};
  Channel channel_;
};

/** Runs `work(Progress&)`, then settles the result with `convert(env, value)`; `onProgress` is
 *  called with the bytes done and all of them. */
template <class Work, class Convert>
Napi::Value runTask(Napi::Env env, Napi::Function onProgress, Work work, Convert convert) {
  ProgressChannel* const channel = ProgressChannel::create(env, onProgress);
  const auto progress = std::make_shared<Progress>(
      [channel](uint64_t done, uint64_t total) { channel->tell(done, total); });
  // The promise settles once, on the JavaScript thread: by then the work has ended.
  const std::shared_ptr<ProgressChannel> closing(channel, [](ProgressChannel* c) { c->close(); });
  Napi::Object task = Napi::Object::New(env);
  task.Set("result", runAsync(
                         env, [work = std::move(work), progress] { return work(*progress); },
                         [convert = std::move(convert), closing](Napi::Env e, const auto& value) {
                           return convert(e, value);
                         }));
  task.Set("cancel",
           Napi::Function::New(env, [progress](const Napi::CallbackInfo&) { progress->cancel(); }));
  return task;
}

}  // namespace ckptfs::binding
