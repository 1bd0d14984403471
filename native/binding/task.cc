#include "binding/task.h"

namespace ckptfs::binding {

namespace {
constexpr std::chrono::milliseconds kTellEvery{20};
}

ProgressChannel* ProgressChannel::create(Napi::Env env, Napi::Function listener) {
  auto* const created = new ProgressChannel;
  created->channel_ = Channel::New(
      env, listener, "ckptfs progress", 0, 1, created,
      [](Napi::Env, void*, ProgressChannel* last) { delete last; }, static_cast<void*>(nullptr));
  return created;
}

void ProgressChannel::tell(uint64_t doneBytes, uint64_t totalBytes) {
  const auto now = std::chrono::steady_clock::now();
  if (now - told_ < kTellEvery) return;
  told_ = now;
  auto* const amounts = new Amounts{double(doneBytes), double(totalBytes)};
  if (channel_.NonBlockingCall(amounts) != napi_ok) delete amounts;
}

void ProgressChannel::close() {
  channel_.Release();
}

void ProgressChannel::deliver(Napi::Env env, Napi::Function listener, ProgressChannel*,
                              Amounts* amounts) {
  const std::unique_ptr<Amounts> owned(amounts);
  // At the end of the environment what is still queued is dropped.
  if (static_cast<napi_env>(env) == nullptr) return;
  listener.Call(
      {Napi::Number::New(env, amounts->doneBytes), Napi::Number::New(env, amounts->totalBytes)});
}

}  // namespace ckptfs::binding
