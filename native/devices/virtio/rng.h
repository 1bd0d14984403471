// virtio-rng (virtio 1.2, section 5.4): random bytes of the host, given at once when notified.
//
// Every request is carried out on the vCPU thread that notifies, with the mutex held, so nothing is
// ever in flight. The work of one notification is bounded: at most one queue of requests, and at
// most kRequestLimitBytes each (a device may return less than was asked for).
#pragma once

#include "devices/virtio/mmio.h"

namespace ckptfs {

class VirtioRng final : public VirtioMmio {
 public:
  static constexpr uint32_t kDeviceId = 4;
  static constexpr uint64_t kRequestLimitBytes = 4096;

  struct State {
    VirtioState virtio;
  };

  VirtioRng(const GuestRam& ram, InterruptLine line);

  std::unique_ptr<Frozen> freeze() const override;
  void thaw(const Json& json) override;

 protected:
  void process(unsigned queue) noexcept override;

 private:
  bool serve(const DescriptorChain& chain) noexcept;
};

void to_json(Json& json, const VirtioRng::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, VirtioRng::State& state);

}  // namespace ckptfs
