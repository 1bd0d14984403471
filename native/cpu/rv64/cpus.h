// The software vCPUs of a machine: RV64IMAFDC harts with S and U mode, and the SBI below them.
#pragma once

#include <memory>

#include "cpu/vcpu.h"
#include "memory/guest_memory.h"

namespace ckptfs {

constexpr unsigned kMaxHarts = 64;  // one SBI hart mask

/** `count` harts (1..kMaxHarts) over RAM at guest-physical `ramBase`. Memory and host must outlive
 *  the result. Throws Error(usage) for a count out of range, Error(io) when memory is short. */
std::unique_ptr<VcpuSet> makeRv64(GuestMemory& memory, uint64_t ramBase, unsigned count,
                                  VcpuHost& host);

}  // namespace ckptfs
