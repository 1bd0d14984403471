// The generation of the virtual machine, "microsoft,vmgenid": 16 random bytes that are others each
// time the machine goes on from a checkpoint, and an interrupt that says so. A guest that was
// cloned, or set back, learns by it that what it took for random or unique no longer is: Linux
// reseeds its random numbers.
//
// Source: the devicetree binding rng/microsoft,vmgenid, for the "Virtual Machine Generation ID" of
// Microsoft. The id is a register that is read in any sizes, and nothing is written. The driver
// acknowledges nothing, so the level of the line is: there is an id that has not been looked at, by
// a guest that has looked at another. One that never has is still booting: it needs no word of it,
// and Linux's driver asks for the interrupt before it can handle one.
//
// The mutex guards State; the line is driven with it held.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/bus.h"

namespace ckptfs {

class GenerationId final : public MmioDevice {
 public:
  static constexpr size_t kBytes = 16;

  struct State {
    std::array<uint8_t, kBytes> id{};
    bool known = false;   // the guest has read one
    bool unread = false;  // it has changed since
    bool operator==(const State&) const = default;
  };

  /** A machine that boots has an id of its own, and no interrupt. Throws Error. */
  explicit GenerationId(InterruptLine line);

  /** The machine has come from a checkpoint: another id, of which a guest that knows one is told.
   * Throws Error. */
  void renew();

  uint64_t read(uint64_t offset, unsigned size) noexcept override;
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override;
  std::unique_ptr<Frozen> freeze() const override;
  /** Drives the interrupt line. */
  void thaw(const Json& json) override;

 private:
  void update() noexcept;

  mutable std::mutex mutex_;
  State state_;
  const InterruptLine line_;
};

void to_json(Json& json, const GenerationId::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, GenerationId::State& state);

}  // namespace ckptfs
