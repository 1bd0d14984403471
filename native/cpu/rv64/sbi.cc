#include "cpu/rv64/sbi.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "cpu/rv64/hart.h"
#include "cpu/rv64/hart_set.h"

namespace ckptfs::rv64 {
namespace {

enum Error : int64_t {
  kOk = 0,
  kFailed = -1,
  kNotSupported = -2,
  kInvalidParam = -3,
  kInvalidAddress = -5,
  kAlreadyAvailable = -6,
};

enum Extension : uint64_t {
  kLegacyPutchar = 0x01,
  kBase = 0x10,
  kTime = 0x54494d45,
  kIpi = 0x735049,
  kRfence = 0x52464e43,
  kHsm = 0x48534d,
  kSrst = 0x53525354,
  kDbcn = 0x4442434e,
};

constexpr uint64_t kSpecVersion = 2 << 24;
constexpr uint64_t kImplementationId = 0x636b7074;  // "ckpt"; none is registered

struct Result {
  int64_t error = kOk;
  uint64_t value = 0;
  bool again = false;  // an exit was requested: make the call once more
};

struct Call {
  Hart& hart;
  Cpus& cpus;
  uint64_t argument(unsigned i) const { return hart.own().x[10 + i]; }
};

/** The harts of a mask with its base; nothing if it names one that does not exist. */
struct HartMask {
  uint64_t mask = 0;
  bool valid = false;
  bool has(unsigned index) const { return (mask >> index & 1) != 0; }
};

HartMask hartMask(const Call& call, uint64_t mask, uint64_t base) {
  const unsigned count = call.cpus.count();
  const uint64_t all = count == 64 ? UINT64_MAX : (uint64_t{1} << count) - 1;
  if (base == UINT64_MAX) return {all, true};
  if (base >= count) return {0, false};
  const uint64_t shifted = mask << base;
  return {shifted, (shifted & ~all) == 0 && shifted >> base == mask};
}

bool available(uint64_t extension) {
  switch (extension) {
    case kLegacyPutchar:
    case kBase:
    case kTime:
    case kIpi:
    case kRfence:
    case kHsm:
    case kSrst:
    case kDbcn:
      return true;
    default:
      return false;
  }
}

Result base(const Call& call, uint64_t function) {
  switch (function) {
    case 0:
      return {kOk, kSpecVersion};
    case 1:
      return {kOk, kImplementationId};
    case 2:
      return {kOk, 1};  // implementation version
    case 3:
      return {kOk, available(call.argument(0)) ? 1u : 0u};
    case 4:  // mvendorid
    case 5:  // marchid
    case 6:
      return {kOk, 0};  // mimpid
    default:
      return {kNotSupported};
  }
}

Result time(const Call& call, uint64_t function) {
  if (function != 0) return {kNotSupported};
  call.hart.setTimer(call.argument(0));
  return {};
}

Result ipi(const Call& call, uint64_t function) {
  if (function != 0) return {kNotSupported};
  const HartMask harts = hartMask(call, call.argument(0), call.argument(1));
  if (!harts.valid) return {kInvalidParam};
  for (unsigned i = 0; i < call.cpus.count(); ++i)
    if (harts.has(i)) call.cpus.hart(i).setPending(irq::kSoftware);
  return {};
}

/** Complete when it returns: every named hart has fenced, or will before its next instruction. */
Result rfence(const Call& call, uint64_t function) {
  constexpr unsigned kYields = 1000;
  constexpr unsigned kSleepUs = 50;
  RemoteFence fence;
  switch (function) {
    case 0:
      fence.instructions = true;
      break;
    case 1:    // sfence.vma
    case 2: {  // sfence.vma of one address space: there is only one
      const uint64_t first = call.argument(2), bytes = call.argument(3);
      if (first != 0 || bytes != 0) fence.first = first, fence.bytes = bytes;
      break;
    }
    default:
      return {kNotSupported};
  }
  const HartMask harts = hartMask(call, call.argument(0), call.argument(1));
  if (!harts.valid) return {kInvalidParam};

  std::array<uint64_t, 64> tickets;
  for (unsigned i = 0; i < call.cpus.count(); ++i)
    if (harts.has(i)) tickets[i] = call.cpus.hart(i).postFence(fence);
  for (unsigned i = 0; i < call.cpus.count(); ++i) {
    if (!harts.has(i)) continue;
    for (unsigned waits = 0; !call.cpus.hart(i).fenceDone(tickets[i]); ++waits) {
      call.hart.serveFences();  // the other may be waiting for this hart; and this may be `i`
      if (call.hart.exitRequested()) return {.again = true};
      if (waits < kYields)
        sched_yield();
      else  // it waits for its memory, or for a processor
        usleep(kSleepUs);
    }
  }
  return {};
}

Result hsm(const Call& call, uint64_t function) {
  constexpr uint64_t kSuspendedStatus = 4;
  constexpr uint64_t kRetentive = 0, kNonRetentive = 0x80000000;
  Hart& self = call.hart;
  switch (function) {
    case 0: {  // hart_start
      const uint64_t target = call.argument(0), entry = call.argument(1);
      if (target >= call.cpus.count()) return {kInvalidParam};
      if ((entry & 1) != 0 || !self.ram().holds(entry, 2)) return {kInvalidAddress};
      const bool started = call.cpus.hart(unsigned(target)).start(entry, call.argument(2));
      return {started ? kOk : kAlreadyAvailable};
    }
    case 1:  // hart_stop: answered by the next start
      self.stop();
      return {.again = true};
    case 2: {  // hart_get_status
      if (call.argument(0) >= call.cpus.count()) return {kInvalidParam};
      const Hart& target = call.cpus.hart(unsigned(call.argument(0)));
      return {kOk, target.suspended() ? kSuspendedStatus : uint64_t(target.hsm())};
    }
    case 3: {  // hart_suspend
      const uint64_t type = uint32_t(call.argument(0)), entry = call.argument(1);
      const uint64_t opaque = call.argument(2);
      if (type != kRetentive && type != kNonRetentive) return {kInvalidParam};
      const bool resumes = type == kNonRetentive;
      if (resumes && ((entry & 1) != 0 || !self.ram().holds(entry, 2))) return {kInvalidAddress};
      if (!self.waitForInterrupt(true)) return {.again = true};
      if (!resumes) return {};
      self.stop();
      self.start(entry, opaque);
      self.mmu().flush();
      return {.again = true};
    }
    default:
      return {kNotSupported};
  }
}

Result srst(const Call& call, uint64_t function) {
  if (function != 0) return {kNotSupported};
  const uint64_t type = uint32_t(call.argument(0)), reason = uint32_t(call.argument(1));
  if (type > 2) return {kInvalidParam};
  GuestExit exit;
  exit.kind = type == 0 ? GuestExit::Kind::shutdown : GuestExit::Kind::reboot;
  exit.reason = reason;
  call.hart.host().guestExit(exit);
  call.hart.waitForExit();
  return {.again = true};
}

Result dbcn(const Call& call, uint64_t function) {
  constexpr uint64_t kMaxWrite = 4096;  // a call may write less than asked
  Hart& hart = call.hart;
  const Ram& ram = hart.ram();
  switch (function) {
    case 0:    // write
    case 1: {  // read: nobody ever types
      const uint64_t length = std::min(call.argument(0), kMaxWrite);
      if (call.argument(2) != 0 || !ram.holds(call.argument(1), call.argument(0)))
        return {kInvalidParam};
      if (function == 1) return {};
      std::array<uint8_t, kMaxWrite> text;
      const uint64_t offset = call.argument(1) - ram.base;
      const std::byte* from = ram.view + offset;
      if (length > 0) {  // at most two pages
        ram.admit(offset, false);
        ram.admit(offset + length - 1, false);
      }
      for (uint64_t i = 0; i < length; ++i)
        text[i] = __atomic_load_n(reinterpret_cast<const uint8_t*>(from + i), __ATOMIC_RELAXED);
      hart.host().debugWrite(text.data(), length);
      return {kOk, length};
    }
    case 2: {  // write_byte
      const uint8_t byte = uint8_t(call.argument(0));
      hart.host().debugWrite(&byte, 1);
      return {};
    }
    default:
      return {kNotSupported};
  }
}

Result dispatch(const Call& call) {
  const uint64_t function = call.argument(6);
  switch (call.argument(7)) {
    case kBase:
      return base(call, function);
    case kTime:
      return time(call, function);
    case kIpi:
      return ipi(call, function);
    case kRfence:
      return rfence(call, function);
    case kHsm:
      return hsm(call, function);
    case kSrst:
      return srst(call, function);
    case kDbcn:
      return dbcn(call, function);
    default:
      return {kNotSupported};
  }
}

}  // namespace

void callSbi(Hart& hart, Cpus& cpus) noexcept {
  const Call call{hart, cpus};
  if (call.argument(7) == kLegacyPutchar) {  // legacy calls return no value, and keep a1
    const uint8_t byte = uint8_t(call.argument(0));
    hart.host().debugWrite(&byte, 1);
    hart.own().x[10] = 0;
  } else {
    const Result result = dispatch(call);
    if (result.again) return;
    hart.own().x[10] = uint64_t(result.error);
    hart.own().x[11] = result.value;
  }
  hart.own().pc += 4;
}

}  // namespace ckptfs::rv64
