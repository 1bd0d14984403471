// A trace engine makes guest accesses to memory blocks trap, and stops doing so run by run.
//
// It knows protection only; what a trap means (save, load, wait) is for BlockTraces to say, which
// also sees to it that one call at a time is made (mappings() aside). All engines pass
// test/memory/trace_engine_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/geometry.h"
#include "memory/block_states.h"
#include "memory/fault_handler.h"

namespace ckptfs {

/** The mapping that an engine protects. */
struct GuestView {
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  Geometry geometry;
  int fd = -1;  // the memory file that it maps whole
  uint64_t blocks() const noexcept { return geometry.blocksIn(bytes); }
};

class TraceEngine {
 public:
  virtual ~TraceEngine() = default;
  /** From now on accesses to the run beyond `rights` (none or read) trap to the FaultSink; blocks
   *  with fewer rights keep those. `none` is for a view whose memory has never been touched. False:
   *  the kernel refused, or its limit on mappings did; errno tells, nothing has changed. */
  virtual bool protect(BlockRange run, Rights rights) noexcept = 0;
  /** Lets accesses within `rights` (read or all) through; blocks with more rights keep those.
   * False: the kernel's limit on mappings does not allow it (some of the run may be let through); a
   * wider run may be possible, and the whole view is unless the kernel is out of memory. */
  virtual bool permit(BlockRange run, Rights rights) noexcept = 0;
  /** The same before anybody asks for it, as far as it can be had cheaply. */
  virtual void permitAhead(BlockRange run, Rights rights) noexcept = 0;
  /** Kernel mappings that the view consists of now. Any thread. */
  virtual uint64_t mappings() const noexcept = 0;
};

/** The engine without traps: whoever accesses memory asks GuestMemory::access() first. */
inline constexpr const char* kSoftEngine = "soft";

/** Engine names for GuestMemory, the default first. */
std::vector<std::string> traceEngineNames();

/** Makes the engine called `name` for a view; `sink` gets its faults and outlives it.
 * `mappingLimit` is the most mappings that the view may take, 0: as many as the kernel allows less
 * a reserve. Throws Error(usage) for an unknown name, Error(unsupported) for one that this host
 * does not offer. */
std::unique_ptr<TraceEngine> makeTraceEngine(const std::string& name, const GuestView& view,
                                             FaultSink* sink, uint64_t mappingLimit);

}  // namespace ckptfs
