#include "binding/fuse_owner.h"

#include <utility>

namespace ckptfs::binding {

FuseOwner::FuseOwner(Napi::Env env, Napi::Function listener)
    : channel_(Channel::New(env, listener, "ckptfs mount", 0, 1, static_cast<void*>(nullptr))) {}

void FuseOwner::ask(fuse::Question question) noexcept {
  post({.question = std::move(question)});
}

void FuseOwner::released(uint64_t handle) noexcept {
  post({.question = {.kind = "released", .handle = handle}});
}

void FuseOwner::failed(const std::string& path, const std::string& what, int err) noexcept {
  if (failures_->undelivered++ < kMaxFailures)
    post({.question = {.kind = "failed", .path = path},
          .what = what,
          .err = err,
          .failures = failures_});
  else
    --failures_->undelivered;
}

void FuseOwner::post(Event event) noexcept {
  const std::lock_guard lock(lock_);
  if (closed_) return;
  auto* const sent = new Event(std::move(event));
  if (channel_.NonBlockingCall(sent) != napi_ok) delete sent;
}

void FuseOwner::close() {
  const std::lock_guard lock(lock_);
  if (!std::exchange(closed_, true)) channel_.Release();
}

void FuseOwner::deliver(Napi::Env env, Napi::Function listener, void*, Event* event) {
  const std::unique_ptr<Event> owned(event);
  // At the end of the environment what is still queued is dropped.
  if (static_cast<napi_env>(env) == nullptr) return;
  if (owned->failures) --owned->failures->undelivered;
  const fuse::Question& question = owned->question;
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", Napi::Number::New(env, double(question.id)));
  object.Set("kind", question.kind);
  object.Set("path", question.path);
  object.Set("name", question.name);
  object.Set("handle", Napi::Number::New(env, double(question.handle)));
  object.Set("position", Napi::Number::New(env, double(question.position)));
  object.Set("bytes", Napi::Number::New(env, double(question.bytes)));
  object.Set("message", owned->what);
  object.Set("errno", Napi::Number::New(env, owned->err));
  if (!question.data.empty())
    object.Set("data", Napi::Buffer<uint8_t>::Copy(
                           env, reinterpret_cast<const uint8_t*>(question.data.data()),
                           question.data.size()));
  listener.Call({object});
}

}  // namespace ckptfs::binding
