// A vCPU's host without devices, time or an end.
#pragma once

#include "cpu/vcpu.h"

namespace ckptfs {

struct NoHost : VcpuHost {
  bool mmioRead(uint64_t, unsigned, uint64_t&) noexcept override { return false; }
  bool mmioWrite(uint64_t, unsigned, uint64_t) noexcept override { return false; }
  uint64_t now() noexcept override { return 0; }
  void setTimer(unsigned, uint64_t) noexcept override {}
  void debugWrite(const uint8_t*, uint64_t) noexcept override {}
  void guestExit(const GuestExit&) noexcept override {}
};

}  // namespace ckptfs
