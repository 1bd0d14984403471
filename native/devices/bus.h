// The memory-mapped IO bus: which device answers which guest-physical addresses.
//
// Devices are attached before the machine starts; afterwards the bus never changes, so that lookups
// need no lock. Each device guards its own State.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/stateful.h"

namespace ckptfs {

/** A level-triggered interrupt line; callable from any thread. */
using InterruptLine = std::function<void(bool level)>;

/** A device with registers on the bus. Called on vCPU threads. */
class MmioDevice : public Stateful {
 public:
  /** `offset` is from the device's base; `size` is 1, 2, 4 or 8. Unknown registers read as 0. */
  virtual uint64_t read(uint64_t offset, unsigned size) noexcept = 0;
  virtual void write(uint64_t offset, unsigned size, uint64_t value) noexcept = 0;
};

class Bus {
 public:
  /** Throws Error(usage) if the window overlaps another. The device outlives the bus. */
  void attach(uint64_t base, uint64_t length, MmioDevice* device);
  /** False: no device answers there. */
  bool read(uint64_t address, unsigned size, uint64_t& value) const noexcept;
  bool write(uint64_t address, unsigned size, uint64_t value) const noexcept;

 private:
  struct Window {
    uint64_t base;
    uint64_t length;
    MmioDevice* device;
  };
  const Window* find(uint64_t address, unsigned size) const noexcept;
  std::vector<Window> windows_;
};

}  // namespace ckptfs
