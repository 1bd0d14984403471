#include "cpu/rv64/cpus.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cpu/rv64/hart_set.h"

namespace ckptfs {
namespace rv64 {

Cpus::Cpus(const Ram& ram, unsigned count, VcpuHost& host) {
  for (unsigned i = 0; i < count; ++i)
    harts_.push_back(std::make_unique<Hart>(i, *this, ram, host));
}

void Cpus::reset(uint64_t entry, uint64_t deviceTree) noexcept {
  for (auto& hart : harts_) hart->load(HartState{});
  harts_[0]->start(entry, deviceTree);
}

void Cpus::setExternalInterrupt(unsigned vcpu, bool level) noexcept {
  if (level)
    harts_[vcpu]->setPending(irq::kExternal);
  else
    harts_[vcpu]->clearPending(irq::kExternal);
}

void Cpus::timerExpired(unsigned vcpu) noexcept {
  harts_[vcpu]->timerExpired();
}

void Cpus::flushTranslations() noexcept {
  for (auto& hart : harts_) hart->postFence({});
}

void Cpus::rearmTimers() noexcept {
  for (auto& hart : harts_) hart->rearmTimer();
}

std::unique_ptr<Frozen> Cpus::freeze() const {
  HartStates states;
  for (const auto& hart : harts_) states.harts.push_back(hart->snapshot());
  return std::make_unique<FrozenState<HartStates>>(states);
}

void Cpus::thaw(const Json& json) {
  const HartStates states = hartStatesFromJson(json, count());
  for (size_t i = 0; i < harts_.size(); ++i) harts_[i]->load(states.harts[i]);
}

}  // namespace rv64

std::unique_ptr<VcpuSet> makeRv64(GuestMemory& memory, uint64_t ramBase, unsigned count,
                                  VcpuHost& host) {
  if (count == 0 || count > kMaxHarts)
    throw Error(Code::usage, "a machine has 1 to " + std::to_string(kMaxHarts) + " vCPUs");
  const rv64::Ram ram{memory.guestView(), ramBase, memory.bytes(), &memory};
  return std::make_unique<rv64::Cpus>(ram, count, host);
}

}  // namespace ckptfs
