#include "memory/trace_engine.h"

#include "base/error.h"
#include "memory/mprotect_engine.h"

namespace ckptfs {

std::vector<std::string> traceEngineNames() {
  return {"mprotect"};
}

std::unique_ptr<TraceEngine> makeTraceEngine(const std::string& name, const GuestView& view,
                                             FaultSink* sink, uint64_t mappingLimit) {
  if (name == "mprotect") return std::make_unique<MprotectEngine>(view, sink, mappingLimit);
  throw Error(Code::usage, "unknown trace engine '" + name + "'; this build has mprotect");
}

}  // namespace ckptfs
