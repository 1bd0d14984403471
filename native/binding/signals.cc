#include "binding/signals.h"

#include <pthread.h>

#include <csignal>

namespace ckptfs::binding {
namespace {

using Info = const Napi::CallbackInfo&;

/** Of the thread before the first of the holds; how many there are. */
thread_local sigset_t before;
thread_local unsigned holds = 0;

/** All but those by which the processor tells a thread of what it has just done. */
sigset_t fromOutside() {
  sigset_t signals;
  sigfillset(&signals);
  for (const int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS})
    sigdelset(&signals, own);
  return signals;
}

/** Until the function that it returns is called, other threads take the process's signals. */
Napi::Value holdSignals(Info info) {
  const sigset_t signals = fromOutside();
  if (holds++ == 0) pthread_sigmask(SIG_BLOCK, &signals, &before);
  return Napi::Function::New(info.Env(), [](Info) {
    if (--holds == 0) pthread_sigmask(SIG_SETMASK, &before, nullptr);
  });
}

}  // namespace

void defineSignals(Napi::Env env, Napi::Object exports) {
  exports.Set("holdSignals", Napi::Function::New(env, holdSignals, "holdSignals"));
}

}  // namespace ckptfs::binding
