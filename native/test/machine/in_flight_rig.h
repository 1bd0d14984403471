// A platform with one disk, a driver of the disk, and checkpoints of both in the order of LiveSave:
// without a guest, so that a test decides what is in flight when.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"
#include "devices/memory_map.h"
#include "machine/pending_reads.h"
#include "machine/platform.h"
#include "test/checkpoint/temp_directory.h"
#include "test/devices/blk_rig.h"

namespace ckptfs {

/** The registers of the platform's first virtio device. */
class FirstDevice final : public MmioDevice {
 public:
  explicit FirstDevice(Bus& bus) : bus_(bus) {}
  uint64_t read(uint64_t offset, unsigned size) noexcept override {
    uint64_t value = 0;
    bus_.read(memory_map::kVirtioBase + offset, size, value);
    return value;
  }
  void write(uint64_t offset, unsigned size, uint64_t value) noexcept override {
    bus_.write(memory_map::kVirtioBase + offset, size, value);
  }
  std::unique_ptr<Frozen> freeze() const override { return {}; }
  void thaw(const Json&) override {}

 private:
  Bus& bus_;
};

struct InFlightRig {
  static constexpr uint64_t kRamBytes = 4 << 20;
  static constexpr uint64_t kDiskBytes = 1 << 20;
  static constexpr std::chrono::milliseconds kMoment{20};

  explicit InFlightRig(const std::string& trace) : memory(kRamBytes, Geometry{}, trace) {
    DiskConfig disk;
    disk.id = "vda";
    disk.access = "direct";
    disk.parent = directory.path() + "/disk.raw";
    disk.faults = faults;
    std::ofstream(disk.parent).put('p');
    std::filesystem::resize_file(disk.parent, kDiskBytes);
    attach(disk);
    driver->start();
  }
  /** Goes on from a checkpoint of `other`, as a restored VM. */
  InFlightRig(const InFlightRig& other, const std::vector<std::byte>& ram,
              const std::string& deviceState)
      : memory(kRamBytes, Geometry{}, "soft") {
    std::copy(ram.begin(), ram.end(), memory.hostView());
    DiskConfig disk;
    disk.id = "vda";
    disk.access = "redo";
    disk.parent = other.chain().parentPath();
    for (const auto& layer : other.chain().layers())
      if (layer.sealed) disk.redo.push_back({layer.path, layer.bytes});
    attach(disk);
    chain().push(chain().prepare(directory.path() + "/redo"));
    platform->thaw(Json::parse(deviceState));
    *driver = *other.then;
    driver->moveTo(device.value(), memory);
  }

  void attach(const DiskConfig& disk) {
    MachineConfig config;
    config.memoryBytes = kRamBytes;
    config.disks = {disk};
    platform.emplace(
        config, memory, memory_map::kRamBase, [](unsigned, bool) {},
        [](std::span<const uint8_t>) {});
    device.emplace(platform->bus());
    driver.emplace(*device, memory);
  }
  Chain& chain() const { return *platform->disks()[0].chain; }

  // ---- A checkpoint, in two parts: until the guest would run again, and the rest ----

  /** `base`: the directory of an earlier checkpoint that memory is tracked against. */
  void begin(const std::string& base = "") {
    const std::string number = std::to_string(checkpoints++);
    checkpoint = directory.make("checkpoint" + number);
    auto fresh = chain().prepare(directory.path() + "/redo" + number);
    reads = std::make_shared<PendingReads>(memory.geometry(), memory_map::kRamBase);
    SaveOptions options;
    options.directory = checkpoint;
    options.late = reads.get();
    if (!base.empty()) {
      for (const auto& file : std::filesystem::directory_iterator(base))
        if (file.path().filename() != "memory.map")
          std::filesystem::create_hard_link(file,
                                            checkpoint + "/" + file.path().filename().string());
      options.base = std::make_shared<MemoryImage>(base);
    }
    saver.emplace(memory, options);
    platform->hold();
    platform->keepInFlight(kPatience, reads->watcher());
    REQUIRE(
        reads->prepare([this](BlockId block, const std::byte* raw) { saver->late(block, raw); }));
    platform->stop();
    saver->arm();
    Json states = Json::object();
    for (const auto& [name, state] : platform->freeze()) states[name] = state->toJson();
    deviceState = states.dump();
    oracle.assign(memory.hostView(), memory.hostView() + kRamBytes);
    then = driver;
    chain().push(std::move(fresh));
    platform->release();
    saver->start();
  }
  void finish() {
    chain().sealFrozen();
    saver->wait();
    const MemoryImage image(checkpoint);
    saved.resize(kRamBytes);
    uint64_t done = 0;
    while (done < kRamBytes) done += image.read(done, std::span(saved).subspan(done));
    const auto view = chain().frozenView();
    frozen.resize(kDiskBytes);
    view->read(0, frozen);
  }

  // ---- Requests ----

  void fillDisk(uint64_t sector, uint64_t sectors, int value) {
    chain().write(sector * 512, std::vector<std::byte>(sectors * 512, std::byte(value)));
  }
  void fillData(unsigned slot, int value) {
    prepareWrite(BlkDriver::data(slot), 4096);
    std::memset(driver->at(BlkDriver::data(slot)), value, 4096);
  }
  /** The rings and all requests lie in the first two blocks. */
  void issue(unsigned slot, BlkType type, uint64_t sector, uint32_t length) {
    prepareWrite(memory_map::kRamBase, 0x10000);
    driver->offer(slot, type, sector, length);
    driver->kick();
  }
  void prepareWrite(uint64_t address, uint64_t length) {
    REQUIRE(memory.prepareWrite(address - memory_map::kRamBase, length));
  }
  /** Waits for so many requests to be returned, each with status 0; no interrupt reaches a test. */
  bool complete(unsigned count) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    for (unsigned done = 0; done < count;) {
      if (const auto used = driver->poll())
        ++done, good &= driver->result(used->id / 3) == 0;
      else if (std::chrono::steady_clock::now() > end)
        return false;
      else
        std::this_thread::yield();
    }
    return good;
  }
  bool quietFor(std::chrono::milliseconds time) {
    std::this_thread::sleep_for(time);
    return !driver->poll();
  }
  std::byte diskByte(uint64_t sector) {
    std::byte byte{};
    chain().read(sector * 512, {&byte, 1});
    return byte;
  }
  static std::byte byteAt(const std::vector<std::byte>& ram, uint64_t address) {
    return ram[address - memory_map::kRamBase];
  }
  /** RAM of the checkpoint is what it was in the pause, but for these bytes of a slot's data. */
  bool savedAsThenBut(unsigned slot, uint64_t length, int value) const {
    auto expected = oracle;
    const auto at = expected.begin() + ptrdiff_t(BlkDriver::data(slot) - memory_map::kRamBase);
    std::fill_n(at, length, std::byte(value));
    return saved == expected;
  }

  TempDirectory directory;
  GuestMemory memory;
  std::shared_ptr<Faults> faults = std::make_shared<Faults>();
  std::optional<Platform> platform;
  std::optional<FirstDevice> device;
  std::optional<BlkDriver> driver;
  std::optional<BlkDriver> then;  // the driver in the pause
  std::string checkpoint;
  std::shared_ptr<PendingReads> reads;
  std::optional<Saver> saver;
  std::string deviceState;
  std::vector<std::byte> oracle, saved, frozen;
  bool good = true;
  int checkpoints = 0;
};

}  // namespace ckptfs
