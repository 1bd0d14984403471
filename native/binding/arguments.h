// Arguments of calls from JavaScript. Their types were checked by src/native.ts.
#pragma once

#include <napi.h>

#include <string>

#include "base/error.h"

namespace ckptfs::binding {

inline std::string textAt(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::String>().Utf8Value();
}

/** A size or an address; Error(usage) for what a double does not hold exactly. */
inline uint64_t numberAt(const Napi::CallbackInfo& info, size_t index) {
  const double value = info[index].As<Napi::Number>().DoubleValue();
  if (!(value >= 0) || value > double(uint64_t{1} << 53))
    throw Error(Code::usage, "argument " + std::to_string(index) + " is not a size or an address");
  return uint64_t(value);
}

}  // namespace ckptfs::binding
