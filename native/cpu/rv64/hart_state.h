// All state of one hart that the guest can observe: what reset, freeze and thaw touch.
//
// Owned by the hart's thread while it runs. `pending`, `hsm` and `timerDeadline` are also written
// by other threads: always through std::atomic_ref, the last two under the hart's mutex too.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/json.h"
#include "cpu/rv64/isa.h"

namespace ckptfs::rv64 {

/** Hart state management (SBI HSM), as far as it outlives a call. The numbers are the SBI's. */
enum class Hsm : uint8_t { started = 0, stopped = 1 };

struct HartState {
  static constexpr unsigned kSink = 32;        // x[kSink] takes the writes meant for x0
  static constexpr uint32_t kAllCounters = 7;  // cycle, time and instret
  static constexpr uint64_t kNoTimer = UINT64_MAX;
  static constexpr uint64_t kNoReservation = UINT64_MAX;

  std::array<uint64_t, 33> x{};
  std::array<uint64_t, 32> f{};
  uint64_t pc = 0;
  Privilege privilege = Privilege::supervisor;
  Hsm hsm = Hsm::stopped;

  uint64_t sstatus = 0;  // the bits of status::kStored
  uint64_t sie = 0;
  uint64_t stvec = 0;
  uint64_t sscratch = 0;
  uint64_t sepc = 0;
  uint64_t scause = 0;
  uint64_t stval = 0;
  uint64_t satp = 0;  // mode and PPN; there are no address space identifiers
  // The SBI lets user mode read the counters, as others do: Linux leaves it so, and the clock of
  // its vDSO reads the time.
  uint32_t scounteren = kAllCounters;
  uint32_t frm = 0;
  uint32_t fflags = 0;

  uint64_t pending = 0;               // sip
  uint64_t timerDeadline = kNoTimer;  // guest ticks; kNoTimer once it has fired
  uint64_t retired = 0;               // instructions since the start

  // LR/SC reservation: byte offset in RAM and the value seen there. Not part of a checkpoint.
  uint64_t reservation = kNoReservation;
  uint64_t reservedValue = 0;
};

/** The State of a VcpuSet: one entry for every hart. */
struct HartStates {
  std::vector<HartState> harts;
};

void to_json(Json& json, const HartState& state);
void to_json(Json& json, const HartStates& states);

/** Inverse of to_json for exactly `count` harts; throws Error(damaged) on anything else. */
HartStates hartStatesFromJson(const Json& json, unsigned count);

}  // namespace ckptfs::rv64
