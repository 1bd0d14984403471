// Machine events on their way from the machine's threads to the JavaScript thread.
//
// Console output is gathered and delivered in batches: a guest that prints a byte at a time costs
// one call into JavaScript for as many bytes as have come together since the last one. What a guest
// prints while JavaScript is busy is lost beyond kConsoleLimitBytes: a guest must neither fill the
// host's memory nor wait for JavaScript.
#pragma once

#include <napi.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace ckptfs::binding {

class Events {
 public:
  static constexpr size_t kConsoleLimitBytes = 1 << 20;

  /** `listener(type, payload)` is called on the JavaScript thread of `env`. The object lives until
   *  close() and the last delivery, whichever is later. */
  static Events* create(Napi::Env env, Napi::Function listener);

  // From any thread.
  void console(std::span<const uint8_t> bytes);
  void post(const char* type, std::string payload);

  /** Nobody posts any more; from the JavaScript thread, once. */
  void close();

 private:
  Events() = default;
  struct Delivery {
    const char* type;
    std::string payload;
  };
  static void deliver(Napi::Env env, Napi::Function listener, Events* events, Delivery* delivery);
  using Channel = Napi::TypedThreadSafeFunction<Events, Delivery, deliver>;

  std::mutex mutex_;  // guards pending_
  std::vector<uint8_t> pending_;
  Channel channel_;
};

}  // namespace ckptfs::binding
