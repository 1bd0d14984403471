// Machine as JavaScript sees it (RawMachine in src/native.ts).
#pragma once

#include <napi.h>

namespace ckptfs::binding {

void defineMachine(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
