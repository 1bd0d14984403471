// A session of libfuse 3 as JavaScript sees it (RawFuseSession in src/native/fuse.ts).
#pragma once

#include <napi.h>

#include "binding/instance.h"

namespace ckptfs::binding {

void defineFuseSession(Napi::Env env, Napi::Object exports);
/** Ends the sessions that JavaScript did not end. */
void endFuseSessions(Instance& instance);

}  // namespace ckptfs::binding
