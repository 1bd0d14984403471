// Files that are arriving (base/arrival.h), as JavaScript brings them: Arrivals of src/native.ts.
#pragma once

#include <napi.h>

namespace ckptfs::binding {

void defineArrivals(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
