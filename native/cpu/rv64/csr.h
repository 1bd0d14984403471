// Control and status registers: S-mode's, the floating-point ones and the counters.
#pragma once

#include <cstdint>

namespace ckptfs::rv64 {

class Hart;

enum class CsrKind : uint8_t { write, set, clear };
enum class CsrResult : uint8_t {
  illegal,  // no such register, or not with this privilege
  next,     // go on
  refetch,  // the next instruction must be fetched anew: its translation may have changed
};

/** One csrrw, csrrs or csrrc on the hart's thread: old value to `old`, operand in `operand`; with
 *  `writes` false nothing is written (csrrs and csrrc with x0). */
CsrResult accessCsr(Hart& hart, unsigned number, CsrKind kind, bool writes, uint64_t operand,
                    uint64_t& old) noexcept;

}  // namespace ckptfs::rv64
