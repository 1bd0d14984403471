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

/** One csrrw, csrrs or csrrc on the hart's thread. */
struct CsrAccess {
  unsigned number;
  CsrKind kind;
  bool writes;  // false: csrrs and csrrc with x0
  uint64_t operand;
  uint64_t retired;  // instructions before this one
};
/** The register's old value to `old`, unless the result is illegal. */
CsrResult accessCsr(Hart& hart, const CsrAccess& access, uint64_t& old) noexcept;

}  // namespace ckptfs::rv64
