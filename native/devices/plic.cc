#include "devices/plic.h"

#include <bit>

#include "base/error.h"
#include "devices/state_fields.h"

namespace ckptfs {
namespace {

// Register map of the specification; all registers are 32 bits wide.
constexpr uint64_t kPriority = 0x0;  // + 4 * source
constexpr uint64_t kPending = 0x1000;
constexpr uint64_t kEnable = 0x2000;  // + 0x80 * context
constexpr uint64_t kEnableStride = 0x80;
constexpr uint64_t kContext = 0x20'0000;  // + 0x1000 * context
constexpr uint64_t kContextStride = 0x1000;
constexpr uint64_t kThreshold = 0;
constexpr uint64_t kClaim = 4;
static_assert(kEnable + Plic::kHartsMax * kEnableStride <= kContext);

constexpr uint64_t kValidSources = ~uint64_t{1};

constexpr uint64_t bit(unsigned source) {
  return uint64_t{1} << source;
}

/** The 32-bit half of a per-source bitmap at register index 0 or 1; the rest of the map is zero. */
uint32_t half(uint64_t bits, uint64_t index) {
  return index < 2 ? uint32_t(bits >> (32 * index)) : 0;
}

/** The source to serve first among `candidates`: highest priority, then lowest number; 0 for none.
 */
unsigned best(const Plic::State& state, uint64_t candidates, uint8_t above) {
  unsigned winner = 0;
  for (uint64_t left = candidates; left != 0; left &= left - 1) {
    const unsigned source = std::countr_zero(left);
    if (state.priority[source] > above) {
      winner = source;
      above = state.priority[source];
    }
  }
  return winner;
}

}  // namespace

Plic::Plic(unsigned harts, Output output) : output_(std::move(output)), driven_(harts, 0) {
  if (harts < 1 || harts > kHartsMax)
    throw Error(Code::usage, "the interrupt controller serves 1 to " + std::to_string(kHartsMax) +
                                 " harts, not " + std::to_string(harts));
  state_.contexts.resize(harts);
}

InterruptLine Plic::line(unsigned source) {
  if (source == 0 || source >= kSources)
    throw Error(Code::usage, "interrupt source " + std::to_string(source) + " is not in 1 to " +
                                 std::to_string(kSources - 1));
  return [this, source](bool level) { setLevel(source, level); };
}

void Plic::setLevel(unsigned source, bool level) noexcept {
  const std::lock_guard lock(mutex_);
  state_.level = level ? state_.level | bit(source) : state_.level & ~bit(source);
  update();
}

uint32_t Plic::claim(const Context& context) noexcept {
  // The threshold masks the notification only, not the claim (specification, "Interrupt Claims").
  const unsigned source = best(state_, state_.pending & context.enabled, 0);
  if (source != 0) {
    state_.pending &= ~bit(source);
    state_.claimed |= bit(source);
    update();
  }
  return source;
}

void Plic::complete(const Context& context, uint32_t source) noexcept {
  // A source that is not enabled for the context is ignored (specification, "Interrupt
  // Completion").
  if (source >= kSources || (context.enabled & bit(source)) == 0) return;
  state_.claimed &= ~bit(source);
  update();
}

void Plic::update() noexcept {
  state_.pending |= state_.level & ~state_.claimed;  // the gateways
  for (unsigned hart = 0; hart < driven_.size(); ++hart) {
    const Context& context = state_.contexts[hart];
    const bool level = best(state_, state_.pending & context.enabled, context.threshold) != 0;
    if (level != bool(driven_[hart])) {
      driven_[hart] = level;
      output_(hart, level);
    }
  }
}

uint64_t Plic::read(uint64_t offset, unsigned size) noexcept {
  if (size != 4 || offset % 4 != 0) return 0;
  const std::lock_guard lock(mutex_);
  if (offset < kPending) {
    const uint64_t source = (offset - kPriority) / 4;
    return source < kSources ? state_.priority[source] : 0;
  }
  if (offset < kEnable) return half(state_.pending, (offset - kPending) / 4);
  if (offset < kContext) {
    const uint64_t context = (offset - kEnable) / kEnableStride;
    if (context >= state_.contexts.size()) return 0;
    return half(state_.contexts[context].enabled, (offset - kEnable) % kEnableStride / 4);
  }
  const uint64_t context = (offset - kContext) / kContextStride;
  if (context >= state_.contexts.size()) return 0;
  switch ((offset - kContext) % kContextStride) {
    case kThreshold:
      return state_.contexts[context].threshold;
    case kClaim:
      return claim(state_.contexts[context]);
    default:
      return 0;
  }
}

void Plic::write(uint64_t offset, unsigned size, uint64_t value) noexcept {
  if (size != 4 || offset % 4 != 0) return;
  const std::lock_guard lock(mutex_);
  if (offset < kPending) {
    const uint64_t source = (offset - kPriority) / 4;
    if (source == 0 || source >= kSources) return;
    state_.priority[source] = value & kPriorityMax;
  } else if (offset < kEnable) {
    return;  // pending bits are read-only
  } else if (offset < kContext) {
    const uint64_t context = (offset - kEnable) / kEnableStride;
    const uint64_t index = (offset - kEnable) % kEnableStride / 4;
    if (context >= state_.contexts.size() || index >= 2) return;
    uint64_t& enabled = state_.contexts[context].enabled;
    const uint64_t mask = uint64_t{UINT32_MAX} << (32 * index);
    enabled = ((enabled & ~mask) | (value << (32 * index) & mask)) & kValidSources;
  } else {
    const uint64_t context = (offset - kContext) / kContextStride;
    if (context >= state_.contexts.size()) return;
    switch ((offset - kContext) % kContextStride) {
      case kThreshold:
        state_.contexts[context].threshold = value & kPriorityMax;
        break;
      case kClaim:
        return complete(state_.contexts[context], uint32_t(value));
      default:
        return;
    }
  }
  update();
}

std::unique_ptr<Frozen> Plic::freeze() const {
  const std::lock_guard lock(mutex_);
  return std::make_unique<FrozenState<State>>(state_);
}

void Plic::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  const std::lock_guard lock(mutex_);
  if (loaded.contexts.size() != state_.contexts.size())
    throw Error(Code::damaged, "device state: the interrupt controller has " +
                                   std::to_string(loaded.contexts.size()) +
                                   " contexts, this machine needs " +
                                   std::to_string(state_.contexts.size()));
  state_ = std::move(loaded);
  update();
  for (unsigned hart = 0; hart < driven_.size(); ++hart) output_(hart, driven_[hart]);
}

void to_json(Json& json, const Plic::State& state) {
  json = Json{{"priority", field::fromBytes(state.priority)},
              {"level", toHex(state.level)},
              {"pending", toHex(state.pending)},
              {"claimed", toHex(state.claimed)},
              {"contexts", Json::array()}};
  for (const Plic::Context& context : state.contexts)
    json["contexts"].push_back(
        Json{{"enabled", toHex(context.enabled)}, {"threshold", context.threshold}});
}

void from_json(const Json& json, Plic::State& state) {
  const auto sources = [](const Json& object, const char* key) {
    const uint64_t bits = field::hex(object, key);
    if ((bits & ~kValidSources) != 0)
      throw Error(Code::damaged, "device state: \"" + std::string(key) + "\" holds source 0");
    return bits;
  };
  const auto priority = field::bytes(json, "priority", Plic::kSources);
  if (priority.size() != Plic::kSources || priority[0] != 0)
    throw Error(Code::damaged, "device state: \"priority\" needs one byte per source, 0 for none");
  for (unsigned source = 0; source < Plic::kSources; ++source) {
    if (priority[source] > Plic::kPriorityMax)
      throw Error(Code::damaged, "device state: a priority is out of range");
    state.priority[source] = priority[source];
  }
  state.level = sources(json, "level");
  state.pending = sources(json, "pending");
  state.claimed = sources(json, "claimed");
  state.contexts.clear();
  for (const Json& context : field::list(json, "contexts", Plic::kHartsMax))
    state.contexts.push_back({sources(context, "enabled"),
                              uint8_t(field::number(context, "threshold", Plic::kPriorityMax))});
}

}  // namespace ckptfs
