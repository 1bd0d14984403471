#include "machine/platform.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "devices/memory_map.h"
#include "devices/virtio/rng.h"

namespace ckptfs {

using namespace memory_map;

namespace {

/** Disk requests that are carried out at once, over all disks. 4 KiB reads at random from a cold
 *  cache: 23,000 a second with 4 threads, 51,000 with 32, which is what io_uring gives at that
 * depth (docs/performance.md). */
constexpr unsigned kDiskWorkers = 32;

std::shared_ptr<Chain> openChain(const DiskConfig& disk) {
  const auto access = disk.access == "readonly" ? Chain::Access::readonly
                      : disk.access == "direct" ? Chain::Access::direct
                                                : Chain::Access::redo;
  return openLayers(disk, access);
}

}  // namespace

std::shared_ptr<Chain> openLayers(const DiskLayers& layers, Chain::Access access) {
  return Chain::open(layers.parent, layers.parentIdentity, layers.redo, access, layers.committed);
}

Platform::Platform(const MachineConfig& config, GuestMemory& memory, uint64_t ramBase,
                   Plic::Output interrupt, ConsoleOutput output)
    : plic_(config.cpus, std::move(interrupt)),
      uart_(plic_.line(kUartSource), std::move(output)),
      generation_(plic_.line(kGenerationSource)),
      rtc_(plic_.line(kRtcSource)),
      pool_(kDiskWorkers, "ckptfs-disk") {
  const GuestRam ram(memory, ramBase);
  stateful_ = {
      {"plic", &plic_}, {"uart", &uart_}, {"generation", &generation_, 2}, {"rtc", &rtc_, 3}};
  bus_.attach(kPlicBase, kPlicBytes, &plic_);
  bus_.attach(kUartBase, kUartBytes, &uart_);
  bus_.attach(kGenerationBase, kGenerationBytes, &generation_);
  bus_.attach(kRtcBase, kRtcBytes, &rtc_);
  const auto attach = [&](std::unique_ptr<VirtioMmio> device) {
    const unsigned slot = unsigned(virtio_.size());
    virtio_.push_back(std::move(device));
    VirtioMmio* const attached = virtio_.back().get();
    bus_.attach(kVirtioBase + slot * kVirtioBytes, kVirtioBytes, attached);
    stateful_.push_back({"virtio" + std::to_string(slot), attached});
  };
  const auto nextLine = [&] { return plic_.line(kVirtioSource + unsigned(virtio_.size())); };
  for (const DiskConfig& disk : config.disks) {
    const auto chain = openChain(disk);
    std::shared_ptr<Disk> front = chain;
    if (disk.faults) front = std::make_shared<FaultDisk>(chain, disk.faults);
    disks_.push_back({disk.id, chain, front});
    auto device = std::make_unique<VirtioBlk>(*front, disk.id, ram, nextLine(), pool_);
    blocks_.push_back(device.get());
    attach(std::move(device));
  }
  attach(std::make_unique<VirtioRng>(ram, nextLine()));
}

std::shared_ptr<Chain> Platform::disk(const std::string& id) const {
  for (const Attached& disk : disks_)
    if (disk.id == id) return disk.chain;
  throw Error(Code::notFound, "the VM has no disk " + id);
}

void Platform::hold() {
  for (const auto& device : virtio_) device->hold();
}

void Platform::waitDrained(std::chrono::milliseconds timeout) {
  for (const auto& device : virtio_) {
    if (!device->waitDrained(timeout))
      throw Error(Code::busy, "the guest's disk requests did not complete in " +
                                  std::to_string(timeout.count() / 1000) +
                                  " s; check the storage of its disks and try again");
  }
}

bool Platform::busy() const {
  return std::any_of(virtio_.begin(), virtio_.end(),
                     [](const auto& device) { return !device->drained(); });
}

void Platform::keepInFlight(std::chrono::milliseconds timeout,
                            const VirtioBlk::ReadWatcher& watch) {
  for (VirtioBlk* const device : blocks_) {
    if (!device->waitHazards(timeout))
      throw Error(Code::busy,
                  "disk reads of the guest that later writes would overtake did not "
                  "complete in " +
                      std::to_string(timeout.count() / 1000) +
                      " s; check the storage of its disks and try again");
    if (!device->prepareMemory())
      throw Error(Code::busy,
                  "a disk request of the guest waits for memory that cannot be read; see the VM's "
                  "error");
  }
  for (VirtioBlk* const device : blocks_) device->watchReads(watch);
}

void Platform::stop() {
  for (const auto& device : virtio_) device->stop();
}

void Platform::release() {
  for (const auto& device : virtio_) device->release();
}

void Platform::flush() noexcept {
  for (const Attached& disk : disks_) {
    try {
      if (!disk.chain->readOnly()) disk.chain->flush();
    } catch (const Error&) {
      // The guest asked for durability by its own flushes, and was told of their failure.
    }
  }
}

void Platform::retry() {
  for (const auto& device : virtio_) device->retry();
}

std::vector<std::pair<std::string, std::unique_ptr<Frozen>>> Platform::freeze() const {
  std::vector<std::pair<std::string, std::unique_ptr<Frozen>>> frozen;
  frozen.reserve(stateful_.size());
  for (const Part& part : stateful_) frozen.emplace_back(part.name, part.device->freeze());
  return frozen;
}

void Platform::thaw(const Json& devices, unsigned format) {
  for (const Part& part : stateful_) {
    if (part.sinceFormat > format) continue;
    const auto state = devices.find(part.name);
    if (state == devices.end())
      throw Error(Code::damaged, "device state: there is none for " + part.name);
    part.device->thaw(*state);
  }
}

void Platform::renew() {
  generation_.renew();
}

}  // namespace ckptfs
