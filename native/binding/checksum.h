// XXH3-64 of bytes that come in pieces, as checksum() of src/native.ts.
#pragma once

#include <napi.h>

namespace ckptfs::binding {

void defineChecksum(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
