// The devices around the vCPUs: bus, interrupt controller, console, generation id, clock, disks,
// entropy source.
//
// Devices are thawed after the vCPUs, the interrupt controller first: each then drives its own
// line.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/bus.h"
#include "devices/generation_id.h"
#include "devices/plic.h"
#include "devices/rtc.h"
#include "devices/uart.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/mmio.h"
#include "devices/worker_pool.h"
#include "disk/chain.h"
#include "machine/machine_config.h"

namespace ckptfs {

class GuestMemory;

/** Opens the layers of a disk; throws Error. */
std::shared_ptr<Chain> openLayers(const DiskLayers& layers, Chain::Access access);

class Platform {
 public:
  using ConsoleOutput = std::function<void(std::span<const uint8_t>)>;

  /** Opens the disks; throws Error. `interrupt` is VcpuSet::setExternalInterrupt. */
  Platform(const MachineConfig& config, GuestMemory& memory, uint64_t ramBase,
           Plic::Output interrupt, ConsoleOutput output);
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  Bus& bus() noexcept { return bus_; }
  Uart& uart() noexcept { return uart_; }
  /** The disk of that id; throws Error(notFound). */
  std::shared_ptr<Chain> disk(const std::string& id) const;

  struct Attached {
    std::string id;
    std::shared_ptr<Chain> chain;
    std::shared_ptr<Disk> front;  // what the guest gets: the chain, perhaps behind faults
  };
  const std::vector<Attached>& disks() const noexcept { return disks_; }

  /** Takes no new device requests; the guest goes on running and may queue more. */
  void hold();
  /** Waits until no request is in flight, while held. Throws Error(busy) after `timeout`. */
  void waitDrained(std::chrono::milliseconds timeout);
  /** Requests of the guest are in flight (requirements B6, C8). */
  bool busy() const;
  /**
   * Or lets the requests in flight go on across the pause, while held (requirements A8 to A14).
   * Waits until none of them reads from the disk what a later one overwrites (A12) and makes all
   * their memory present; then tells `watch` of the reads. Throws Error(busy) after `timeout`, or
   * if some of that memory cannot be read.
   */
  void keepInFlight(std::chrono::milliseconds timeout, const VirtioBlk::ReadWatcher& watch);
  /** In the pause, before memory is armed: no device changes its state or rings until release(). */
  void stop();
  /** Begins to serve requests, at the start of the guest and after a hold. */
  void release();
  /** Makes durable what the guest has written, as a plug pulled later would not; for the end. */
  void flush() noexcept;
  /** Gives requests that waited for memory that could not be loaded another try. */
  void retry();

  /** Copies every device's State (requirement A2); called while quiesced, and drained or stopped.
   */
  std::vector<std::pair<std::string, std::unique_ptr<Frozen>>> freeze() const;
  /** Of a state in the given format, which may be older than a device: that one stays as it is at
   *  boot. Throws Error(damaged). */
  void thaw(const Json& devices, unsigned format = kDeviceStateFormat);
  /** After thaw(): what has to differ from the machine that was saved. */
  void renew();

 private:
  Bus bus_;
  Plic plic_;
  Uart uart_;
  GenerationId generation_;
  Rtc rtc_;
  std::vector<Attached> disks_;  // outlive the devices
  WorkerPool pool_;
  std::vector<std::unique_ptr<VirtioMmio>> virtio_;
  std::vector<VirtioBlk*> blocks_;  // of virtio_
  struct Part {
    std::string name;  // in the saved state
    Stateful* device;
    unsigned sinceFormat = 1;  // the first that has it
  };
  std::vector<Part> stateful_;  // the interrupt controller first
};

}  // namespace ckptfs
