// Arguments of calls from JavaScript. Their types were checked by src/native.ts.
#pragma once

#include <napi.h>

#include <cstddef>
#include <string>
#include <vector>

#include "base/error.h"

namespace ckptfs::binding {

inline std::string textAt(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::String>().Utf8Value();
}

inline std::vector<std::string> textsAt(const Napi::CallbackInfo& info, size_t index) {
  const auto array = info[index].As<Napi::Array>();
  std::vector<std::string> texts(array.Length());
  for (uint32_t i = 0; i < texts.size(); i++)
    texts[i] = array.Get(i).As<Napi::String>().Utf8Value();
  return texts;
}

/** A size or an address; Error(usage) for what a double does not hold exactly. */
inline uint64_t numberAt(const Napi::CallbackInfo& info, size_t index) {
  const double value = info[index].As<Napi::Number>().DoubleValue();
  if (!(value >= 0) || value > double(uint64_t{1} << 53))
    throw Error(Code::usage, "argument " + std::to_string(index) + " is not a size or an address");
  return uint64_t(value);
}

/** A copy of a Uint8Array; empty when it is left out. */
inline std::vector<std::byte> bytesAt(const Napi::CallbackInfo& info, size_t index) {
  if (info[index].IsUndefined()) return {};
  const auto array = info[index].As<Napi::Uint8Array>();
  const auto* data = reinterpret_cast<const std::byte*>(array.Data());
  return {data, data + array.ByteLength()};
}

}  // namespace ckptfs::binding
