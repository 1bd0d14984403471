// virtio-blk (virtio 1.2, section 5.2): a Disk for the guest, with several requests in flight.
//
// Requests are taken from the queue with the mutex held and carried out by the worker pool without
// it. A request in flight is at work, parked or unread. It is parked when guest memory cannot be
// loaded or saved, and then waits for retry(), a reset of the device, or its destruction: it is
// never completed with bad data. It is unread when it comes with a restored State and its
// descriptors have not been read again: release() does so, and retry() if memory could not be
// loaded then. Nothing new is taken before.
//
// Requests in flight across a checkpoint (requirement A8) belong to both VMs. The one that goes on
// completes them. In the checkpoint they are heads in the State; a VM restored from it carries
// them out once more, on the disk and with the buffers of the checkpoint. What must not happen
// in between is up to the machine, which asks for it while the device is held:
//   - waitHazards(): no read is still to come on sectors that a later request overwrites;
//   - prepareMemory(): no memory of these requests is still absent, so that none of them can be
//     stopped by it; the disk's other writers may have to wait for them;
//   - watchReads(): whoever saves memory learns what they still write to it.
//
// The mutex of VirtioMmio guards all but the constants. Disk, memory and pool outlive the device.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
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
    std::vector<uint16_t> inFlight;  // heads of the chains taken and not returned, oldest first
  };

  /** A read in flight: from `disk`, which sees what the request sees, at `offset` into the segments
   *  (guest-physical, in order). */
  struct PendingRead {
    std::shared_ptr<Disk> disk;
    uint64_t offset = 0;
    std::vector<Segment> memory;
  };
  /** What it returns is destroyed once the read has stored its data, or is dropped; without the
   *  mutex of the device. */
  using ReadWatcher = std::function<std::shared_ptr<void>(PendingRead)>;

  /** `id` is what the guest reads as the serial number. `onFailure` is told of disk errors, which
   * the guest sees as IO errors, on worker threads. Throws Error(usage) unless the disk is a whole
   *  number of sectors. */
  VirtioBlk(Disk& disk, std::string id, const GuestRam& ram, InterruptLine line, WorkerPool& pool,
            std::function<void(const Error&)> onFailure = {});
  /** Waits for the requests at work. */
  ~VirtioBlk() override;

  bool waitDrained(std::chrono::milliseconds timeout) override;
  /** Waits until no request in flight reads what one that was issued later changes (requirement
   *  A12). False after `timeout`, or if a request waits for memory. For a held device. */
  bool waitHazards(std::chrono::milliseconds timeout);
  /** Makes the memory of all requests in flight present and open. False: some cannot be had. For a
   *  held device. */
  bool prepareMemory() const;
  /** Calls `watch` for each read in flight whose data is not in memory yet, with the mutex held. */
  void watchReads(const ReadWatcher& watch);

  std::unique_ptr<Frozen> freeze() const override;
  void thaw(const Json& json) override;

 protected:
  void process(unsigned queue) noexcept override;
  bool idle() const noexcept override { return inFlight() == 0; }
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

  /** A request in flight whose descriptors have been read. */
  struct Taken {
    BlkRequest request;
    std::shared_ptr<void> watcher;
    bool executed = false;  // its data and status are stored
    bool parked = false;
  };
  using TakenList = std::list<Taken>;

  /** Starts the request of a chain that was found; unavailable: its memory cannot be loaded now. */
  VirtQueue::Peek take(VirtQueue::Peek found, DescriptorChain& chain);
  void takeAgain() noexcept;
  void start(TakenList::iterator taken);
  void work(TakenList::iterator taken, bool writeThrough) noexcept;
  size_t inFlight() const noexcept { return taken_.size() + unread_.size(); }
  bool atWork() const noexcept;
  bool waiting() const noexcept;
  bool hazard() const noexcept;

  const BlkTarget target_;
  const Config config_;
  WorkerPool& pool_;
  TakenList taken_;               // in the order of issue
  std::vector<uint16_t> unread_;  // heads, in the order of issue; older than all that is taken
  bool closing_ = false;
  std::condition_variable changed_;  // any of these, or stopped()
};

void to_json(Json& json, const VirtioBlk::State& state);
/** Throws Error(damaged). */
void from_json(const Json& json, VirtioBlk::State& state);

}  // namespace ckptfs
