// A machine for vCPU tests: RAM, a host that records what the guest does, and threads that run it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cpu/rv64/cpus.h"
#include "cpu/vcpu.h"
#include "memory/guest_memory.h"

namespace ckptfs::rv64::test {

/** Records, and lets the test decide about time. One device of eight bytes answers at kDevice. */
class TestHost : public VcpuHost {
 public:
  static constexpr uint64_t kDevice = 0x10000000;

  bool mmioRead(uint64_t address, unsigned size, uint64_t& value) noexcept override;
  bool mmioWrite(uint64_t address, unsigned size, uint64_t value) noexcept override;
  /** Guest time advances by one tick with every reading, so that results do not depend on the host.
   */
  uint64_t now() noexcept override { return ticks.fetch_add(1); }
  void setTimer(unsigned vcpu, uint64_t at) noexcept override;
  void debugWrite(const uint8_t* bytes, uint64_t length) noexcept override;
  void guestExit(const GuestExit& exit) noexcept override;

  VcpuSet* cpus = nullptr;
  std::function<void()> onConsole;     // after every debugWrite
  std::function<void()> onDeviceRead;  // before every mmioRead
  std::atomic<uint64_t> ticks{0};
  std::mutex mutex;  // guards what follows
  uint64_t device = 0;
  std::string console;
  std::vector<GuestExit> exits;
  std::map<unsigned, uint64_t> timers;
};

class TestMachine {
 public:
  static constexpr uint64_t kRamBase = 0x80000000;
  static constexpr uint64_t kRamBytes = 8 << 20;

  explicit TestMachine(unsigned harts = 1, const std::string& engine = "mprotect");
  /** Copies to guest RAM at a guest-physical address. */
  void write(uint64_t address, const void* bytes, uint64_t length);
  void write32(uint64_t address, std::initializer_list<uint32_t> words);
  const uint8_t* at(uint64_t address) const;
  uint64_t read64(uint64_t address) const;

  /** Resets and runs all harts until the guest ends; the reason of its SRST call. */
  uint64_t run(uint64_t entry = kRamBase);
  /** Runs all harts until requestExit() of each, without a reset. */
  void resume();

  GuestMemory memory;
  TestHost host;
  std::unique_ptr<VcpuSet> cpus;
};

/** A guest program assembled from test/cpu/guests/<name>.S, linked at kRamBase. */
std::vector<uint8_t> loadGuest(const std::string& name);

}  // namespace ckptfs::rv64::test
