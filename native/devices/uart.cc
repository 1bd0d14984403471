#include "devices/uart.h"

#include <algorithm>

#include "base/error.h"
#include "devices/state_fields.h"

namespace ckptfs {
namespace {

// Register offsets; 0 and 1 are the divisor while kDivisorAccess is set.
enum Register : uint64_t {
  kData,
  kInterruptEnable,
  kFifo,
  kLine,
  kModem,
  kStatus,
  kModemStatus,
  kScratch
};

constexpr uint8_t kDivisorAccess = 0x80;  // line control

constexpr uint8_t kEnableReceive = 0x01;  // interrupt enable
constexpr uint8_t kEnableTransmit = 0x02;
constexpr uint8_t kEnableMask = 0x0f;

constexpr uint8_t kFifoEnable = 0x01;  // FIFO control
constexpr uint8_t kFifoClearReceive = 0x02;
constexpr uint8_t kFifoTriggerMask = 0xc0;

constexpr uint8_t kIdNone = 0x01;  // interrupt identification
constexpr uint8_t kIdTransmit = 0x02;
constexpr uint8_t kIdReceive = 0x04;
constexpr uint8_t kIdTimeout = 0x0c;
constexpr uint8_t kIdFifosEnabled = 0xc0;

constexpr uint8_t kDataReady = 0x01;         // line status
constexpr uint8_t kTransmitterEmpty = 0x60;  // holding register and shift register

constexpr uint8_t kDtr = 0x01;  // modem control
constexpr uint8_t kRts = 0x02;
constexpr uint8_t kOut1 = 0x04;
constexpr uint8_t kOut2 = 0x08;
constexpr uint8_t kLoop = 0x10;
constexpr uint8_t kModemMask = 0x1f;

constexpr uint8_t kCts = 0x10;  // modem status
constexpr uint8_t kDsr = 0x20;
constexpr uint8_t kRing = 0x40;
constexpr uint8_t kCarrier = 0x80;

constexpr uint8_t kTriggerBytes[4] = {1, 4, 8, 14};  // by the top two bits of FIFO control

}  // namespace

Uart::Uart(InterruptLine line, Output output)
    : line_(std::move(line)), output_(std::move(output)) {}

size_t Uart::receive(std::span<const uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  const size_t taken = std::min(bytes.size(), kReceiveLimitBytes - state_.received.size());
  state_.received.insert(state_.received.end(), bytes.begin(), bytes.begin() + ptrdiff_t(taken));
  update();
  return taken;
}

bool Uart::fifoEnabled() const noexcept {
  return (state_.fifoControl & kFifoEnable) != 0;
}

size_t Uart::fifoLevel() const noexcept {
  return std::min(state_.received.size(), fifoEnabled() ? kFifoBytes : 1);
}

uint8_t Uart::identify() const noexcept {
  const size_t level = fifoLevel();
  if ((state_.interruptEnable & kEnableReceive) && level > 0) {
    const bool reached = level >= kTriggerBytes[state_.fifoControl >> 6];
    return !fifoEnabled() || reached ? kIdReceive : kIdTimeout;
  }
  if ((state_.interruptEnable & kEnableTransmit) && state_.transmitPending) return kIdTransmit;
  return kIdNone;
}

void Uart::update() noexcept {
  line_(identify() != kIdNone);
}

uint8_t Uart::readReceiver() noexcept {
  if (state_.received.empty()) return 0;
  const uint8_t byte = state_.received.front();
  state_.received.pop_front();
  update();
  return byte;
}

uint8_t Uart::readIdentification() noexcept {
  const uint8_t id = identify();
  if (id == kIdTransmit) {  // reading acknowledges this source alone
    state_.transmitPending = false;
    update();
  }
  return id | (fifoEnabled() ? kIdFifosEnabled : 0);
}

uint8_t Uart::modemStatus() const noexcept {
  if ((state_.modemControl & kLoop) == 0) return kCarrier | kDsr | kCts;  // always connected
  const uint8_t out = state_.modemControl;
  return (out & kDtr ? kDsr : 0) | (out & kRts ? kCts : 0) | (out & kOut1 ? kRing : 0) |
         (out & kOut2 ? kCarrier : 0);
}

uint64_t Uart::read(uint64_t offset, unsigned) noexcept {
  const std::lock_guard lock(mutex_);
  const bool divisor = (state_.lineControl & kDivisorAccess) != 0;
  switch (offset) {
    case kData:
      return divisor ? state_.divisor & 0xff : readReceiver();
    case kInterruptEnable:
      return divisor ? state_.divisor >> 8 : state_.interruptEnable;
    case kFifo:
      return readIdentification();
    case kLine:
      return state_.lineControl;
    case kModem:
      return state_.modemControl;
    case kStatus:
      return kTransmitterEmpty | (state_.received.empty() ? 0 : kDataReady);
    case kModemStatus:
      return modemStatus();
    case kScratch:
      return state_.scratch;
    default:
      return 0;
  }
}

bool Uart::transmit(uint8_t byte) noexcept {
  state_.transmitPending = true;  // the byte leaves at once, so the transmitter is empty again
  const bool loop = (state_.modemControl & kLoop) != 0;
  if (loop && state_.received.size() < kReceiveLimitBytes) state_.received.push_back(byte);
  update();
  return !loop;
}

void Uart::setInterruptEnable(uint8_t value) noexcept {
  const uint8_t before = state_.interruptEnable;
  state_.interruptEnable = value & kEnableMask;
  // Enabling it with an empty transmitter raises it: drivers start sending that way.
  if (~before & value & kEnableTransmit) state_.transmitPending = true;
  update();
}

void Uart::setFifoControl(uint8_t value) noexcept {
  const bool toggled = ((state_.fifoControl ^ value) & kFifoEnable) != 0;
  if (toggled || (value & kFifoClearReceive)) {
    const auto front = state_.received.begin();
    state_.received.erase(front, front + ptrdiff_t(fifoLevel()));
  }
  // The other bits are programmed only together with the enable bit.
  state_.fifoControl = value & kFifoEnable ? value & (kFifoEnable | kFifoTriggerMask) : 0;
  update();
}

void Uart::write(uint64_t offset, unsigned, uint64_t wide) noexcept {
  const auto value = uint8_t(wide);
  std::unique_lock lock(mutex_);
  const bool divisor = (state_.lineControl & kDivisorAccess) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        state_.divisor = uint16_t((state_.divisor & 0xff00) | value);
      } else if (transmit(value)) {
        lock.unlock();
        output_({&value, 1});
      }
      break;
    case kInterruptEnable:
      if (divisor)
        state_.divisor = uint16_t((state_.divisor & 0xff) | value << 8);
      else
        setInterruptEnable(value);
      break;
    case kFifo:
      setFifoControl(value);
      break;
    case kLine:
      state_.lineControl = value;
      break;
    case kModem:
      state_.modemControl = value & kModemMask;
      break;
    case kScratch:
      state_.scratch = value;
      break;
    default:
      break;  // status registers are read-only
  }
}

std::unique_ptr<Frozen> Uart::freeze() const {
  const std::lock_guard lock(mutex_);
  return std::make_unique<FrozenState<State>>(state_);
}

void Uart::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  const std::lock_guard lock(mutex_);
  state_ = std::move(loaded);
  update();
}

void to_json(Json& json, const Uart::State& state) {
  const std::vector<uint8_t> received(state.received.begin(), state.received.end());
  json = Json{{"interruptEnable", state.interruptEnable},
              {"fifoControl", state.fifoControl},
              {"lineControl", state.lineControl},
              {"modemControl", state.modemControl},
              {"scratch", state.scratch},
              {"divisor", state.divisor},
              {"transmitPending", state.transmitPending},
              {"received", field::fromBytes(received)}};
}

void from_json(const Json& json, Uart::State& state) {
  state.interruptEnable = uint8_t(field::number(json, "interruptEnable", kEnableMask));
  state.fifoControl = uint8_t(field::number(json, "fifoControl", 0xff));
  if (state.fifoControl != 0 && (state.fifoControl & ~kFifoTriggerMask) != kFifoEnable)
    throw Error(Code::damaged, "device state: \"fifoControl\" has bits that do not exist");
  state.lineControl = uint8_t(field::number(json, "lineControl", 0xff));
  state.modemControl = uint8_t(field::number(json, "modemControl", kModemMask));
  state.scratch = uint8_t(field::number(json, "scratch", 0xff));
  state.divisor = uint16_t(field::number(json, "divisor", 0xffff));
  state.transmitPending = field::flag(json, "transmitPending");
  const auto received = field::bytes(json, "received", Uart::kReceiveLimitBytes);
  state.received.assign(received.begin(), received.end());
}

}  // namespace ckptfs
