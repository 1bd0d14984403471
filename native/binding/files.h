// Functions on checkpoint directories, disks and lock files (the rest of Addon in src/native.ts).
#pragma once

#include <napi.h>

namespace ckptfs::binding {

void defineFiles(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
