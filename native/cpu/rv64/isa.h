// Names and numbers of the RISC-V privileged architecture that several files here share.
//
// Source: RISC-V Instruction Set Manual, volumes I and II (20240411); SBI specification v2.0.
#pragma once

#include <cstdint>

namespace ckptfs::rv64 {

enum class Privilege : uint8_t { user = 0, supervisor = 1 };

/** What a memory access is for; chooses the permission checked and the exception raised. */
enum class Access : uint8_t { fetch, load, store };

namespace cause {
constexpr uint64_t kFetchAccess = 1, kIllegal = 2, kBreakpoint = 3, kLoadMisaligned = 4,
                   kLoadAccess = 5, kStoreMisaligned = 6, kStoreAccess = 7, kUserCall = 8,
                   kFetchPage = 12, kLoadPage = 13, kStorePage = 15;
constexpr uint64_t kInterrupt = uint64_t{1} << 63;
}  // namespace cause

namespace status {
constexpr uint64_t kSie = 1 << 1, kSpie = 1 << 5, kSpp = 1 << 8, kFs = 3 << 13, kSum = 1 << 18,
                   kMxr = 1 << 19;
constexpr uint64_t kStored = kSie | kSpie | kSpp | kFs | kSum | kMxr;  // what HartState keeps
constexpr uint64_t kUxl64 = uint64_t{2} << 32;                         // reads as: U-mode is 64-bit
constexpr uint64_t kSd = uint64_t{1} << 63;                            // reads as: FS is dirty
}  // namespace status

namespace irq {  // bits of sie and sip
constexpr uint64_t kSoftware = 1 << 1, kTimer = 1 << 5, kExternal = 1 << 9;
constexpr uint64_t kAll = kSoftware | kTimer | kExternal;
}  // namespace irq

namespace satp {
constexpr uint64_t kModeShift = 60, kBare = 0, kSv39 = 8;
constexpr uint64_t kPpnMask = (uint64_t{1} << 44) - 1;
}  // namespace satp

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPageMask = kPageBytes - 1;

}  // namespace ckptfs::rv64
