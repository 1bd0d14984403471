// The vCPUs and devices of a small machine, without threads that run a guest.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cpu/rv64/cpus.h"
#include "devices/memory_map.h"
#include "fuzz/fuzz_input.h"
#include "machine/platform.h"
#include "memory/guest_memory.h"
#include "test/cpu/no_host.h"

namespace ckptfs::fuzz {

class DeviceFixture final : NoHost {
 public:
  static constexpr uint64_t kRamBytes = 1 << 16;
  static constexpr unsigned kHarts = 1;

  DeviceFixture()
      : config_(configWith(scratch_.write("disk", Bytes(1 << 16)))),
        memory_(kRamBytes, config_.geometry),
        vcpus_(makeRv64(memory_, memory_map::kRamBase, kHarts, *this)),
        platform_(
            config_, memory_, memory_map::kRamBase,
            [this](unsigned vcpu, bool level) { vcpus_->setExternalInterrupt(vcpu, level); },
            [](std::span<const uint8_t>) {}) {
    platform_.hold();
  }

  /** As Machine::restore() takes it. Throws Error(damaged). */
  void thaw(const Json& state) {
    try {
      vcpus_->thaw(state.at("vcpus"));
      platform_.thaw(state.at("devices"), kDeviceStateFormat);
    } catch (const nlohmann::json::exception& error) {
      throw Error(Code::damaged, error.what());
    }
  }
  Json state() const {
    Json state = {{"vcpus", vcpus_->freeze()->toJson()}, {"devices", Json::object()}};
    for (const auto& [name, frozen] : platform_.freeze()) state["devices"][name] = frozen->toJson();
    return state;
  }
  /** Lets the devices do what their state asks for, on RAM of these bytes again and again, and
   *  looks at every register. */
  void use(std::span<const uint8_t> ram) {
    for (uint64_t at = 0; !ram.empty() && at < kRamBytes; at += ram.size())
      std::memcpy(memory_.hostView() + at, ram.data(), std::min(ram.size(), kRamBytes - at));
    vcpus_->flushTranslations();
    vcpus_->rearmTimers();
    for (unsigned i = 0; i < kHarts; ++i) vcpus_->timerExpired(i);
    platform_.release();
    const uint8_t text[] = {'x', 3, 13};
    platform_.uart().receive(text);
    for (const uint64_t base :
         {memory_map::kPlicBase, memory_map::kUartBase, memory_map::kGenerationBase,
          memory_map::kRtcBase, memory_map::kVirtioBase,
          memory_map::kVirtioBase + memory_map::kVirtioBytes})
      for (uint64_t offset = 0; offset < 0x200; offset += 4) {
        uint64_t value = 0;
        platform_.bus().read(base + offset, base == memory_map::kUartBase ? 1 : 4, value);
      }
    platform_.hold();
    platform_.waitDrained(std::chrono::seconds(30));
  }

 private:
  static MachineConfig configWith(const std::string& disk) {
    MachineConfig config;
    config.memoryBytes = kRamBytes;
    config.cpus = kHarts;
    DiskConfig parent;
    parent.parent = disk;
    parent.id = "vda";
    parent.access = "direct";
    config.disks.push_back(parent);
    return config;
  }

  const Scratch scratch_;
  const MachineConfig config_;
  GuestMemory memory_;
  std::unique_ptr<VcpuSet> vcpus_;
  Platform platform_;
};

}  // namespace ckptfs::fuzz
