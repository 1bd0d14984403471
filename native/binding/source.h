// ByteSource as JavaScript sees it: { bytes, read(into, position), close() }.
#pragma once

#include <napi.h>

#include <memory>

#include "base/byte_source.h"

namespace ckptfs::binding {

class Source final : public Napi::ObjectWrap<Source> {
 public:
  static void define(Napi::Env env, Napi::Object exports);
  /** A JavaScript object over `source`. */
  static Napi::Object wrap(Napi::Env env, ByteSource source);
  explicit Source(const Napi::CallbackInfo& info);

 private:
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  std::shared_ptr<const ByteSource> source_;  // empty after close(); reads under way keep their own
};

}  // namespace ckptfs::binding
