#include "devices/rtc.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/thread_name.h"
#include "devices/state_fields.h"

namespace ckptfs {
namespace {

enum Register : uint64_t {
  kTimeLow = 0,
  kTimeHigh = 4,
  kAlarmLow = 8,
  kAlarmHigh = 12,
  kInterruptEnable = 16,
  kClearAlarm = 20,
  kAlarmStatus = 24,
  kClearInterrupt = 28,
};

/** The longest that is waited for at once: any alarm is within what the host's clock can count to.
 */
constexpr uint64_t kLongestWaitNs = 3'600'000'000'000;

using HostClock = std::chrono::system_clock;

uint64_t hostNs() noexcept {
  const auto since = HostClock::now().time_since_epoch();
  return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
}

constexpr uint64_t withLow(uint64_t value, uint64_t low) noexcept {
  return (value & ~uint64_t{UINT32_MAX}) | (low & UINT32_MAX);
}
constexpr uint64_t withHigh(uint64_t value, uint64_t high) noexcept {
  return (value & UINT32_MAX) | high << 32;
}

}  // namespace

Rtc::Rtc(InterruptLine line) : line_(std::move(line)) {}

Rtc::~Rtc() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

uint64_t Rtc::now() const noexcept {
  return hostNs() + state_.offsetNs;
}

void Rtc::setNow(uint64_t ns) noexcept {
  state_.offsetNs = ns - hostNs();
  rearm();
}

void Rtc::update() noexcept {
  line_(state_.interruptEnabled && state_.interruptPending);
}

bool Rtc::ring() noexcept {
  if (!state_.armed || now() < state_.alarmNs) return false;
  state_.armed = false;
  state_.interruptPending = true;
  update();
  return true;
}

void Rtc::rearm() noexcept {
  ring();
  if (state_.armed && !thread_.joinable()) thread_ = std::thread([this] { waitForAlarms(); });
  changed_.notify_all();
}

void Rtc::waitForAlarms() noexcept {
  nameThread("ckptfs-rtc");
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (ring()) continue;
    if (!state_.armed) {
      changed_.wait(lock);
    } else if (const uint64_t time = now(); time < state_.alarmNs) {
      const uint64_t waitNs = std::min(state_.alarmNs - time, kLongestWaitNs);
      changed_.wait_for(lock, std::chrono::nanoseconds(waitNs));
    }
  }
}

uint64_t Rtc::read(uint64_t offset, unsigned) noexcept {
  const std::lock_guard lock(mutex_);
  switch (offset) {
    case kTimeLow: {
      const uint64_t time = now();
      state_.timeHigh = uint32_t(time >> 32);
      return time & UINT32_MAX;
    }
    case kTimeHigh:
      return state_.timeHigh;
    case kAlarmLow:
      return state_.alarmNs & UINT32_MAX;
    case kAlarmHigh:
      return state_.alarmNs >> 32;
    case kInterruptEnable:
      return state_.interruptEnabled;
    case kAlarmStatus:
      return state_.armed;
    default:
      return 0;
  }
}

void Rtc::write(uint64_t offset, unsigned, uint64_t value) noexcept {
  const std::lock_guard lock(mutex_);
  switch (offset) {
    case kTimeLow:
      setNow(withLow(now(), value));
      break;
    case kTimeHigh:
      setNow(withHigh(now(), value));
      break;
    case kAlarmLow:
      state_.alarmNs = withLow(state_.alarmNs, value);
      state_.armed = true;
      rearm();
      break;
    case kAlarmHigh:
      state_.alarmNs = withHigh(state_.alarmNs, value);
      rearm();
      break;
    case kInterruptEnable:
      state_.interruptEnabled = (value & 1) != 0;
      update();
      break;
    case kClearAlarm:
      state_.armed = false;
      break;
    case kClearInterrupt:
      state_.interruptPending = false;
      update();
      break;
    default:
      break;
  }
}

std::unique_ptr<Frozen> Rtc::freeze() const {
  const std::lock_guard lock(mutex_);
  return std::make_unique<FrozenState<State>>(state_);
}

void Rtc::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  const std::lock_guard lock(mutex_);
  state_ = loaded;
  update();
  rearm();
}

void to_json(Json& json, const Rtc::State& state) {
  json = Json{{"offsetNs", toHex(state.offsetNs)},
              {"alarmNs", toHex(state.alarmNs)},
              {"timeHigh", state.timeHigh},
              {"armed", state.armed},
              {"interruptEnabled", state.interruptEnabled},
              {"interruptPending", state.interruptPending}};
}

void from_json(const Json& json, Rtc::State& state) {
  state.offsetNs = field::hex(json, "offsetNs");
  state.alarmNs = field::hex(json, "alarmNs");
  state.timeHigh = uint32_t(field::number(json, "timeHigh", UINT32_MAX));
  state.armed = field::flag(json, "armed");
  state.interruptEnabled = field::flag(json, "interruptEnabled");
  state.interruptPending = field::flag(json, "interruptPending");
}

}  // namespace ckptfs
