// All harts of a machine, and what the SBI does to several of them at once.
#pragma once

#include <memory>
#include <vector>

#include "cpu/rv64/hart.h"
#include "cpu/vcpu.h"

namespace ckptfs::rv64 {

class Cpus final : public VcpuSet {
 public:
  Cpus(const Ram& ram, unsigned count, VcpuHost& host);

  unsigned count() const noexcept override { return unsigned(harts_.size()); }
  Vcpu& vcpu(unsigned index) noexcept override { return *harts_[index]; }
  Hart& hart(unsigned index) noexcept { return *harts_[index]; }
  void reset(uint64_t entry, uint64_t deviceTree) noexcept override;
  void setExternalInterrupt(unsigned vcpu, bool level) noexcept override;
  void timerExpired(unsigned vcpu) noexcept override;
  void flushTranslations() noexcept override;
  void rearmTimers() noexcept override;
  std::unique_ptr<Frozen> freeze() const override;
  void thaw(const Json& json) override;

 private:
  std::vector<std::unique_ptr<Hart>> harts_;
};

}  // namespace ckptfs::rv64
