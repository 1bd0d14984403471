// One checkpoint of a machine, in the order of requirement A.
//
//   running  A1  redo logs and segment files are made and traces armed ahead (by the Saver); disk
//                requests are drained, or got ready to go on across the pause (A14), while new ones
//                wait in their queues: so that no IO is left for the pause
//   paused   A2  vCPUs parked, devices stopped, traces armed on what was written meanwhile, device
//                state copied, disks switched; nothing else
//   running  A3  faulted blocks and the rest are saved by the Saver's threads; old redo logs are
//                sealed, once the writes in flight have reached them
//
// A checkpoint with `suspend` stays in the second line until the guest is resumed (B9). One of
// several VMs waits for the others in between (D1); see Rendezvous.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/stateful.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/save/saver.h"
#include "disk/chain.h"
#include "machine/machine_config.h"
#include "machine/pending_reads.h"
#include "machine/rendezvous.h"
#include "machine/saved_memory.h"

namespace ckptfs {

class Machine;

class LiveSave {
 public:
  /** `rendezvous` is null for a VM by itself. */
  LiveSave(Machine& machine, const CheckpointRequest& request,
           std::shared_ptr<Rendezvous> rendezvous)
      : machine_(machine), request_(request), rendezvous_(std::move(rendezvous)) {}
  ~LiveSave();

  /** Runs it all on the calling thread. Throws Error with traces lifted and the guest as before. */
  CheckpointResult run(const std::function<void(uint64_t pauseUs)>& resumed);

  // From any thread.
  void cancel();
  /** Throws Error(usage) unless it waits there. */
  void proceed(SaveStep step);
  Json progress() const;

 private:
  struct Switch {
    std::shared_ptr<Chain> chain;
    std::unique_ptr<RedoLog> fresh;
  };
  struct FrozenMachine {
    uint64_t ticks = 0;
    std::unique_ptr<Frozen> vcpus;
    std::vector<std::pair<std::string, std::unique_ptr<Frozen>>> devices;
    std::string toJson() const;
  };

  void openBase();
  void awaitRestore() const;
  void refuseCancelled() const;
  void reach(SaveStep step) const;
  void prepare();
  void quietenDisks();
  void pause();
  void save();
  void seal(Chain& chain) const;
  std::vector<DiskConfig> frozenDisks() const;

  Machine& machine_;
  const CheckpointRequest& request_;
  const std::shared_ptr<Rendezvous> rendezvous_;
  std::atomic<bool> cancelled_{false};
  std::atomic<Saver*> running_{nullptr};  // for progress and cancel
  std::shared_ptr<const MemoryImage> base_;
  std::shared_ptr<PendingReads> reads_;  // made with the saver; empty if disks are drained
  std::shared_ptr<Saver> saver_;
  std::shared_ptr<const SavedMemory> earlier_;  // of the save before
  std::vector<Switch> switches_;
  FrozenMachine frozen_;
  bool suspended_ = false;
  CheckpointResult result_;
};

}  // namespace ckptfs
