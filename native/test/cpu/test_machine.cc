#include "test/cpu/test_machine.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

namespace ckptfs::rv64::test {

bool TestHost::mmioRead(uint64_t address, unsigned size, uint64_t& value) noexcept {
  if (address < kDevice || address + size > kDevice + 8) return false;
  if (onDeviceRead) onDeviceRead();
  std::lock_guard lock(mutex);
  value = 0;
  std::memcpy(&value, reinterpret_cast<const uint8_t*>(&device) + (address - kDevice), size);
  return true;
}

bool TestHost::mmioWrite(uint64_t address, unsigned size, uint64_t value) noexcept {
  if (address < kDevice || address + size > kDevice + 8) return false;
  std::lock_guard lock(mutex);
  std::memcpy(reinterpret_cast<uint8_t*>(&device) + (address - kDevice), &value, size);
  return true;
}

// A deadline that is not far off has come: the tests need no clock.
void TestHost::setTimer(unsigned vcpu, uint64_t at) noexcept {
  constexpr uint64_t kSoon = 1'000'000;
  {
    std::lock_guard lock(mutex);
    timers[vcpu] = at;
  }
  if (at > ticks.load() + kSoon) return;
  if (ticks.load() < at) ticks.store(at);
  cpus->timerExpired(vcpu);
}

void TestHost::debugWrite(const uint8_t* bytes, uint64_t length) noexcept {
  {
    std::lock_guard lock(mutex);
    console.append(reinterpret_cast<const char*>(bytes), length);
  }
  if (onConsole) onConsole();
}

void TestHost::guestExit(const GuestExit& exit) noexcept {
  {
    std::lock_guard lock(mutex);
    exits.push_back(exit);
  }
  for (unsigned i = 0; i < cpus->count(); ++i) cpus->vcpu(i).requestExit();
}

TestMachine::TestMachine(unsigned harts, const std::string& engine)
    : memory(kRamBytes, Geometry{}, engine), cpus(makeRv64(memory, kRamBase, harts, host)) {
  host.cpus = cpus.get();
}

void TestMachine::write(uint64_t address, const void* bytes, uint64_t length) {
  std::memcpy(memory.hostView() + (address - kRamBase), bytes, length);
}

void TestMachine::write32(uint64_t address, std::initializer_list<uint32_t> words) {
  write(address, words.begin(), words.size() * 4);
}

const uint8_t* TestMachine::at(uint64_t address) const {
  return reinterpret_cast<const uint8_t*>(memory.hostView()) + (address - kRamBase);
}

uint64_t TestMachine::read64(uint64_t address) const {
  uint64_t value;
  std::memcpy(&value, at(address), 8);
  return value;
}

uint64_t TestMachine::run(uint64_t entry) {
  host.exits.clear();
  cpus->reset(entry, 0);
  resume();
  return host.exits.empty() ? UINT64_MAX : host.exits.front().reason;
}

void TestMachine::resume() {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < cpus->count(); ++i)
    threads.emplace_back([this, i] {
      GuestMemory::attachThread();
      cpus->vcpu(i).run();
    });
  for (std::thread& thread : threads) thread.join();
}

std::vector<uint8_t> loadGuest(const std::string& name) {
  const auto directory =
      std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path();
  const auto path = directory / "guests" / (name + ".bin");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no guest program " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace ckptfs::rv64::test
