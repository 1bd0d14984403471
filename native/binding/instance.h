// What the addon keeps per JavaScript environment: constructors, and the machines and mounts that
// are still there.
#pragma once

#include <napi.h>

#include <memory>
#include <set>

namespace ckptfs {
class Machine;
namespace fuse {
class Session;
}
}  // namespace ckptfs

namespace ckptfs::binding {

struct Instance {
  Napi::FunctionReference source;
  std::set<std::shared_ptr<Machine>> machines;            // closed when the environment ends
  std::set<std::shared_ptr<fuse::Session>> fuseSessions;  // likewise

  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }
};

}  // namespace ckptfs::binding
