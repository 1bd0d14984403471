// A trace engine makes guest accesses to memory blocks trap, and stops doing so run by run.
//
// It knows protection only; what a trap means (save, load, wait) is GuestMemory's affair. All
// engines pass test/memory/trace_engine_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/geometry.h"
#include "memory/fault_handler.h"

namespace ckptfs {

/** The mapping that an engine protects. */
struct GuestView {
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  Geometry geometry;
  uint64_t blocks() const noexcept { return geometry.blocksIn(bytes); }
};

class TraceEngine {
 public:
  virtual ~TraceEngine() = default;
  /** Does ahead, while guests run, what makes the next arming short. Changes nothing they can see.
   */
  virtual void prepareArm() noexcept = 0;
  /** From now on writes (any accesses) to the whole view trap to the FaultSink. Only while no other
   *  thread touches the view or lifts. Throws Error; then nothing is traced. */
  virtual void armWrite() = 0;
  virtual void armAccess() = 0;
  /** Lets accesses to the run through; one that is not traced stays so. Any thread. False: the
   *  kernel's limit on mappings does not allow it (some of the run may be let through); a wider run
   *  may be possible, and the whole view is unless the kernel is out of memory. */
  virtual bool lift(BlockRange run) noexcept = 0;
  /** Kernel mappings that the view consists of now. */
  virtual uint64_t mappings() const noexcept = 0;
};

/** Engine names for GuestMemory, the default first. */
std::vector<std::string> traceEngineNames();

/** Makes the engine called `name` for a view; `sink` gets its faults and outlives it.
 * `mappingLimit` is the most mappings that the view may take, 0: as many as the kernel allows less
 * a reserve. Throws Error(usage) for an unknown name. */
std::unique_ptr<TraceEngine> makeTraceEngine(const std::string& name, const GuestView& view,
                                             FaultSink* sink, uint64_t mappingLimit);

}  // namespace ckptfs
