// Which signals the thread that runs JavaScript takes, and with it the threads that it makes.
#pragma once

#include <napi.h>

namespace ckptfs::binding {

void defineSignals(Napi::Env env, Napi::Object exports);

}  // namespace ckptfs::binding
