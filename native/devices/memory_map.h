// Where the guest finds RAM and every device, and which interrupt source each device drives.
//
// The device tree is built from the same numbers; a checkpoint relies on them, so they never
// change.
#pragma once

#include <cstdint>

namespace ckptfs::memory_map {

inline constexpr uint64_t kPlicBase = 0x0c00'0000;
inline constexpr uint64_t kPlicBytes = 0x0400'0000;

inline constexpr uint64_t kUartBase = 0x1000'0000;
inline constexpr uint64_t kUartBytes = 0x100;
inline constexpr unsigned kUartSource = 10;

/** Slot i has its registers at kVirtioBase + i * kVirtioBytes and drives source kVirtioSource + i.
 */
inline constexpr uint64_t kVirtioBase = 0x1000'1000;
inline constexpr uint64_t kVirtioBytes = 0x1000;
inline constexpr unsigned kVirtioSource = 1;
inline constexpr unsigned kVirtioSlots = 8;
static_assert(kVirtioSource + kVirtioSlots <= kUartSource);

inline constexpr uint64_t kGenerationBase = 0x1001'0000;
inline constexpr uint64_t kGenerationBytes = 0x1000;
inline constexpr unsigned kGenerationSource = 11;

inline constexpr uint64_t kRtcBase = 0x1001'1000;
inline constexpr uint64_t kRtcBytes = 0x1000;
inline constexpr unsigned kRtcSource = 12;

inline constexpr uint64_t kRamBase = 0x8000'0000;

}  // namespace ckptfs::memory_map
