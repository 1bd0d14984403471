// What the addon keeps per JavaScript environment: constructors, and the machines that still run.
#pragma once

#include <napi.h>

#include <memory>
#include <set>

namespace ckptfs {
class Machine;
}

namespace ckptfs::binding {

struct Instance {
  Napi::FunctionReference source;
  std::set<std::shared_ptr<Machine>> machines;  // closed when the environment ends

  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }
};

}  // namespace ckptfs::binding
