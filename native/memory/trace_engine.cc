#include "memory/trace_engine.h"

#include "base/error.h"
#include "memory/mprotect_engine.h"
#include "memory/soft_engine.h"
#include "memory/userfaultfd_engine.h"

namespace ckptfs {

std::vector<std::string> traceEngineNames() {
  return {kSoftEngine, "mprotect", "userfaultfd"};
}

std::unique_ptr<TraceEngine> makeTraceEngine(const std::string& name, const GuestView& view,
                                             FaultSink* sink, uint64_t mappingLimit) {
  if (name == kSoftEngine) return std::make_unique<SoftEngine>();
  if (name == "mprotect") return std::make_unique<MprotectEngine>(view, sink, mappingLimit);
  if (name == "userfaultfd") return std::make_unique<UserfaultfdEngine>(view, sink);
  std::string names;
  for (const std::string& one : traceEngineNames()) names += (names.empty() ? "" : ", ") + one;
  throw Error(Code::usage, "unknown trace engine '" + name + "'; this build has " + names);
}

}  // namespace ckptfs
