// What a trace reports to: the saver for write traces, the restorer for access traces.
#pragma once

#include <cstdint>

#include "base/geometry.h"

namespace ckptfs {

/** Why a block is moved: a vCPU or device needs it now, or a background thread settles it. */
enum class Cause : uint8_t { demand, background };

class TraceClient {
 public:
  virtual ~TraceClient() = default;
  /** Saves (write trace) or loads (access trace) the contents of one block through the host view.
   *  The caller holds the block in `saving` or `loading`. Runs inside a fault of a vCPU thread, on
   * a device thread or on a background thread. False: it could not be done and the error was
   *  recorded; the block goes back to its traced state. */
  virtual bool handle(BlockId block, Cause cause) noexcept = 0;
};

}  // namespace ckptfs
