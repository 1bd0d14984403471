#include "binding/events.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

namespace ckptfs::binding {

Events* Events::create(Napi::Env env, Napi::Function listener) {
  auto* events = new Events;
  events->channel_ = Channel::New(
      env, listener, "ckptfs machine events", 0, 1, events,
      [](Napi::Env, void*, Events* last) { delete last; }, static_cast<void*>(nullptr));
  return events;
}

void Events::console(std::span<const uint8_t> bytes) {
  {
    std::lock_guard lock(mutex_);
    const bool scheduled = !pending_.empty();
    bytes = bytes.first(std::min(bytes.size(), kConsoleLimitBytes - pending_.size()));
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    if (scheduled) return;
  }
  post("console", {});
}

void Events::post(const char* type, std::string payload) {
  auto* delivery = new Delivery{type, std::move(payload)};
  if (channel_.NonBlockingCall(delivery) != napi_ok) delete delivery;
}

void Events::close() {
  channel_.Release();
}

void Events::deliver(Napi::Env env, Napi::Function listener, Events* events, Delivery* delivery) {
  const std::unique_ptr<Delivery> owned(delivery);
  // At the end of the environment what is still queued is dropped.
  if (static_cast<napi_env>(env) == nullptr) return;
  const Napi::String type = Napi::String::New(env, delivery->type);
  if (std::string_view(delivery->type) != "console") {
    listener.Call({type, Napi::String::New(env, delivery->payload)});
    return;
  }
  std::vector<uint8_t> bytes;
  {
    std::lock_guard lock(events->mutex_);
    bytes.swap(events->pending_);
  }
  listener.Call({type, Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size())});
}

}  // namespace ckptfs::binding
