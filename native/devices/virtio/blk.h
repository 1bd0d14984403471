// virtio-blk (virtio 1.2, section 5.2): a Disk for the guest, with several requests in flight.
//
// Requests are taken from the queue with the mutex held and carried out by the worker pool without
// it. A request in flight is either at work or parked; it is parked when guest memory cannot be
// loaded or saved, and then waits for retry(), a reset of the device, or its destruction: it is
// never completed with bad data.
//
// The mutex of VirtioMmio guards inFlight_ and parked_. Disk, memory and pool outlive the device.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "devices/virtio/blk_request.h"
#include "devices/virtio/mmio.h"
#include "devices/worker_pool.h"

namespace ckptfs {

class VirtioBlk final : public VirtioMmio {
 public:
  static constexpr uint32_t kDeviceId = 2;

  struct State {
    VirtioState virtio;
    uint64_t diskBytes = 0;  // the disk that the driver knows: a restore needs one like it
    bool readOnly = false;
  };

  /** `id` is what the guest reads as the serial number. `onFailure` is told of disk errors, which
   * the guest sees as IO errors, on worker threads. Throws Error(usage) unless the disk is a whole
   *  number of sectors. */
  VirtioBlk(Disk& disk, std::string id, const GuestRam& ram, InterruptLine line, WorkerPool& pool,
            std::function<void(const Error&)> onFailure = {});
  /** Waits for the requests at work. */
  ~VirtioBlk() override;

  bool waitDrained(std::chrono::milliseconds timeout) override;
  std::unique_ptr<Frozen> freeze() const override;
  void thaw(const Json& json) override;

 protected:
  void process(unsigned queue) noexcept override;
  bool idle() const noexcept override { return inFlight_ == 0; }
  void resume() noexcept override;
  void settle(Lock& lock) noexcept override;
  std::span<const std::byte> config() const noexcept override;

 private:
  // struct virtio_blk_config.
  struct Config {
    uint64_t capacity;  // in sectors
    uint32_t segmentLimitBytes;
    uint32_t segmentsMax;
    uint8_t geometry[4];
    uint32_t blockBytes;
    uint8_t topology[8];
    uint8_t writeback;
    uint8_t unused0;
    uint16_t queues;
    uint32_t discardSectorsMax;
    uint32_t discardRangesMax;
    uint32_t discardAlignment;
    uint32_t zeroesSectorsMax;
    uint32_t zeroesRangesMax;
    uint8_t zeroesMayUnmap;
    uint8_t unused1[7];  // 3 of the specification, 4 to the alignment
  };
  static_assert(offsetof(Config, zeroesMayUnmap) == 56 && sizeof(Config) == 64);

  void start(std::shared_ptr<BlkRequest> request);
  void work(std::shared_ptr<BlkRequest> request, bool writeThrough) noexcept;
  bool allParked() const noexcept { return inFlight_ == parked_.size(); }

  const BlkTarget target_;
  const Config config_;
  WorkerPool& pool_;
  size_t inFlight_ = 0;
  std::vector<std::shared_ptr<BlkRequest>> parked_;
  std::condition_variable changed_;  // inFlight_ or parked_
};

void to_json(Json& json, const VirtioBlk::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, VirtioBlk::State& state);

}  // namespace ckptfs
