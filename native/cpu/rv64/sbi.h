// The supervisor binary interface: what M-mode firmware would do for the guest's kernel.
//
// Source: RISC-V SBI specification v2.0. Extensions BASE, TIME, IPI, RFENCE, HSM, SRST and DBCN,
// and the legacy console putchar.
#pragma once

namespace ckptfs::rv64 {

class Hart;
class Cpus;

/** Serves the ecall of S-mode at state.pc, on the hart's thread: results to a0 and a1, pc moved on.
 *  If an exit is requested while it waits, pc stays and the call is made again by the next run. */
void callSbi(Hart& hart, Cpus& cpus) noexcept;

}  // namespace ckptfs::rv64
