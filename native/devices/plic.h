// The platform interrupt controller, "sifive,plic-1.0.0" (RISC-V PLIC specification 1.0).
//
// One context per hart, for S-mode external interrupts; context index = hart index. In the device
// tree: interrupts-extended = <&hart0_intc 9  &hart1_intc 9 ...> in hart order, riscv,ndev = 63.
//
// All sources are level-triggered. A source's gateway forwards a high level once (pending), and
// looks at the level again when the interrupt is completed. A pending bit that was set stays set
// when the line falls, until it is claimed.
//
// The mutex guards State and is held while the output callback runs, so that the levels of one hart
// arrive in order: the callback must not call back into the PLIC. Devices drive lines while they
// hold their own lock, so the lock order is device, PLIC, vCPU.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "devices/bus.h"

namespace ckptfs {

class Plic final : public MmioDevice {
 public:
  static constexpr unsigned kSources = 64;  // identifiers 0..63; 0 means "no interrupt"
  static constexpr unsigned kHartsMax = 512;
  static constexpr uint8_t kPriorityMax = 7;  // the three bits that priority and threshold keep

  using Output = std::function<void(unsigned hart, bool level)>;

  struct Context {
    uint64_t enabled = 0;  // one bit per source
    uint8_t threshold = 0;
    bool operator==(const Context&) const = default;
  };
  struct State {
    std::array<uint8_t, kSources> priority{};
    uint64_t level = 0;    // inputs as the devices drive them
    uint64_t pending = 0;  // forwarded by the gateway, not yet claimed
    uint64_t claimed = 0;  // claimed, not yet completed
    std::vector<Context> contexts;
    bool operator==(const State&) const = default;
  };

  /** Throws Error(usage) unless 1 <= harts <= kHartsMax. `output` is setExternalInterrupt(). */
  Plic(unsigned harts, Output output);

  /** The input of a source in 1..63, callable from any thread; throws Error(usage) otherwise. */
  InterruptLine line(unsigned source);

  uint64_t read(uint64_t offset, unsigned size) noexcept override;
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override;
  std::unique_ptr<Frozen> freeze() const override;
  /** Drives every output. To be thawed after the vCPUs and before the devices, which then drive
   *  their lines: a line that moved while the machine was being frozen is right again. */
  void thaw(const Json& json) override;

 private:
  void setLevel(unsigned source, bool level) noexcept;
  uint32_t claim(const Context& context) noexcept;
  void complete(const Context& context, uint32_t source) noexcept;
  void update() noexcept;

  mutable std::mutex mutex_;
  State state_;
  const Output output_;
  std::vector<uint8_t> driven_;  // the last level told to each hart (wiring, not State)
};

void to_json(Json& json, const Plic::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, Plic::State& state);

}  // namespace ckptfs
