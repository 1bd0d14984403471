// ByteSource as JavaScript sees it: { bytes, read(into, position), close() }; where something
// can be written, write(from, position), flush() and writtenMs work too. dataBytes() counts what is
// no hole. become(other) exchanges it under all who have it open (base/shared_source.h).
#pragma once

#include <napi.h>

#include <memory>

#include "base/shared_source.h"

namespace ckptfs::binding {

class Source final : public Napi::ObjectWrap<Source> {
 public:
  static void define(Napi::Env env, Napi::Object exports);
  /** A JavaScript object over `source`. */
  static Napi::Object wrap(Napi::Env env, ByteSource source);
  /** What such an object reads. Throws Error(usage) for any other value, and for one that is
   * closed. */
  static std::shared_ptr<SharedSource> sharedOf(Napi::Env env, Napi::Value value);
  explicit Source(const Napi::CallbackInfo& info);

 private:
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value writtenMs(const Napi::CallbackInfo& info);
  Napi::Value dataBytes(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value flush(const Napi::CallbackInfo& info);
  void become(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  std::shared_ptr<SharedSource> source_;  // empty after close(); what is under way keeps its own
};

}  // namespace ckptfs::binding
