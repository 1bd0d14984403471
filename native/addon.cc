// Registration of the addon, and the clean-up when its JavaScript environment ends. CKPTFS_FUSE3:
// libfuse 3 was there when it was built (binding.gyp).
#include <napi.h>

#include "base/arrival.h"
#include "binding/arrivals.h"
#include "binding/checksum.h"
#include "binding/files.h"
#ifdef CKPTFS_FUSE3
#include "binding/fuse_session.h"
#endif
#include "binding/instance.h"
#include "binding/machine.h"
#include "binding/signals.h"
#include "binding/source.h"
#include "machine/machine.h"

namespace ckptfs::binding {
namespace {

/** Ends what JavaScript did not close: no vCPU may run, and no mount be served, while the process
 * is being torn down. */
void cleanUp(Instance* instance) {
#ifdef CKPTFS_FUSE3
  endFuseSessions(*instance);  // before the machines that mounts show
#endif
  Arrival::failAll();  // what comes by JavaScript will not come
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
  defineChecksum(env, exports);
  defineArrivals(env, exports);
  defineSignals(env, exports);
#ifdef CKPTFS_FUSE3
  defineFuseSession(env, exports);
#endif
  return exports;
}

}  // namespace
}  // namespace ckptfs::binding

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  return ckptfs::binding::initialize(env, exports);
}

NODE_API_MODULE(ckptfs, initialize)
