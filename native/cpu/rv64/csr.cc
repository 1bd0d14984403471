// Source: RISC-V ISA manual volume II, chapters 2 and 12; volume I, chapters 7 and 21.
#include "cpu/rv64/csr.h"

#include "cpu/rv64/hart.h"

namespace ckptfs::rv64 {
namespace {

enum Csr : unsigned {
  kFflags = 0x001,
  kFrm = 0x002,
  kFcsr = 0x003,
  kSstatus = 0x100,
  kSie = 0x104,
  kStvec = 0x105,
  kScounteren = 0x106,
  kSenvcfg = 0x10a,
  kSscratch = 0x140,
  kSepc = 0x141,
  kScause = 0x142,
  kStval = 0x143,
  kSip = 0x144,
  kSatp = 0x180,
  kCycle = 0xc00,
  kTime = 0xc01,
  kInstret = 0xc02,
};

constexpr unsigned privilegeOf(unsigned number) {
  return number >> 8 & 3;
}
constexpr bool readOnly(unsigned number) {
  return number >> 10 == 3;
}

bool read(Hart& hart, unsigned number, uint64_t retired, uint64_t& value) noexcept {
  const HartState& s = hart.own();
  switch (number) {
    case kFflags:
      value = s.fflags;
      return (s.sstatus & status::kFs) != 0;
    case kFrm:
      value = s.frm;
      return (s.sstatus & status::kFs) != 0;
    case kFcsr:
      value = s.frm << 5 | s.fflags;
      return (s.sstatus & status::kFs) != 0;
    case kSstatus:
      value = s.sstatus | status::kUxl64;
      if ((s.sstatus & status::kFs) == status::kFs) value |= status::kSd;
      return true;
    case kSie:
      value = s.sie;
      return true;
    case kStvec:
      value = s.stvec;
      return true;
    case kScounteren:
      value = s.scounteren;
      return true;
    case kSenvcfg:
      value = 0;
      return true;
    case kSscratch:
      value = s.sscratch;
      return true;
    case kSepc:
      value = s.sepc;
      return true;
    case kScause:
      value = s.scause;
      return true;
    case kStval:
      value = s.stval;
      return true;
    case kSip:
      value = hart.pending();
      return true;
    case kSatp:
      value = s.satp;
      return true;
    case kCycle:
    case kTime:
    case kInstret:
      if (s.privilege == Privilege::user && (s.scounteren >> (number & 3) & 1) == 0) return false;
      value = number == kTime ? hart.host().now() : retired;
      return true;
    default:
      return false;
  }
}

/** `value` for a register that read() accepted. */
CsrResult write(Hart& hart, unsigned number, uint64_t value) noexcept {
  HartState& s = hart.own();
  switch (number) {
    case kFflags:
    case kFrm:
    case kFcsr:
      s.sstatus |= status::kFs;
      if (number == kFcsr) s.frm = value >> 5 & 7;
      if (number == kFrm) s.frm = value & 7;
      if (number != kFrm) s.fflags = value & 31;
      break;
    case kSstatus: {
      const uint64_t changed = (s.sstatus ^ value) & status::kStored;
      s.sstatus ^= changed;
      if ((changed & status::kMxr) != 0) hart.mmu().flush();  // read entries depend on it
      if ((changed & value & status::kSie) != 0) hart.recheckInterrupts();
      break;
    }
    case kSie:
      s.sie = value & irq::kAll;
      hart.recheckInterrupts();
      break;
    case kSip:
      if ((value & irq::kSoftware) != 0)
        hart.setPending(irq::kSoftware);
      else
        hart.clearPending(irq::kSoftware);
      break;
    case kStvec:
      s.stvec = value & ~uint64_t{2};
      break;
    case kScounteren:
      s.scounteren = value & HartState::kAllCounters;
      break;
    case kSenvcfg:
      break;
    case kSscratch:
      s.sscratch = value;
      break;
    case kSepc:
      s.sepc = value & ~uint64_t{1};
      break;
    case kScause:
      s.scause = value;
      break;
    case kStval:
      s.stval = value;
      break;
    case kSatp: {
      const uint64_t mode = value >> satp::kModeShift;
      if (mode != satp::kBare && mode != satp::kSv39) break;  // 12.1.11: the write has no effect
      s.satp = mode << satp::kModeShift | (value & satp::kPpnMask);
      hart.mmu().flush();
      return CsrResult::refetch;
    }
    default:
      return CsrResult::illegal;
  }
  return CsrResult::next;
}

}  // namespace

CsrResult accessCsr(Hart& hart, const CsrAccess& access, uint64_t& old) noexcept {
  if (privilegeOf(access.number) > unsigned(hart.own().privilege)) return CsrResult::illegal;
  if (access.writes && readOnly(access.number)) return CsrResult::illegal;
  if (!read(hart, access.number, access.retired, old)) return CsrResult::illegal;
  if (!access.writes) return CsrResult::next;
  switch (access.kind) {
    case CsrKind::write:
      return write(hart, access.number, access.operand);
    case CsrKind::set:
      return write(hart, access.number, old | access.operand);
    default:
      return write(hart, access.number, old & ~access.operand);
  }
}

}  // namespace ckptfs::rv64
