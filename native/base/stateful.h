// What has state that belongs in a checkpoint: every vCPU set and every device.
//
// Inside the pause only freeze() runs, and it only copies a plain State struct (requirement A2).
// Turning the copy into JSON happens after the guest runs again.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "base/json.h"

namespace ckptfs {

/** A copy of some component's State, taken in the pause. */
class Frozen {
 public:
  virtual ~Frozen() = default;
  virtual Json toJson() const = 0;
};

/** A Frozen that holds a State by value; `to_json(Json&, const State&)` is found by ADL. */
template <class State>
class FrozenState final : public Frozen {
 public:
  explicit FrozenState(const State& state) : state_(state) {}
  Json toJson() const override { return Json(state_); }

 private:
  State state_;
};

/** A component whose State a checkpoint saves and a restore loads. */
class Stateful {
 public:
  virtual ~Stateful() = default;
  /** Copies the State; called while the machine is quiesced. */
  virtual std::unique_ptr<Frozen> freeze() const = 0;
  /** Loads a State written by toJson(), before the machine starts. Every value is checked:
   *  throws Error(damaged) on a missing key, a wrong type or a value out of range. */
  virtual void thaw(const Json& json) = 0;
};

}  // namespace ckptfs
