// Registration of the addon, and the clean-up when its JavaScript environment ends.
#include <napi.h>

#include "binding/files.h"
#include "binding/instance.h"
#include "binding/machine.h"
#include "binding/source.h"
#include "machine/machine.h"

namespace ckptfs::binding {
namespace {

/** Ends what JavaScript did not close: no vCPU may run while the process is being torn down. */
void cleanUp(Instance* instance) {
  for (const auto& machine : instance->machines) machine->close();
  instance->machines.clear();
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto* instance = new Instance;
  env.SetInstanceData(instance);
  env.AddCleanupHook(cleanUp, instance);
  Source::define(env, exports);
  defineMachine(env, exports);
  defineFiles(env, exports);
  return exports;
}

}  // namespace
}  // namespace ckptfs::binding

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  return ckptfs::binding::initialize(env, exports);
}

NODE_API_MODULE(ckptfs, initialize)
