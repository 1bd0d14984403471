// A virtual machine: guest memory, vCPUs on threads of their own, and the platform around them.
//
// Verbs may be called from any thread but the vCPUs'; pause, resume and save exclude one another
// where they must. A guest that has ended, or that waits for memory that cannot be read, stays
// until close().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/byte_source.h"
#include "base/clock.h"
#include "checkpoint/restore/restorer.h"
#include "cpu/vcpu.h"
#include "machine/gate.h"
#include "machine/machine_config.h"
#include "machine/platform.h"
#include "machine/timers.h"
#include "memory/guest_memory.h"

namespace ckptfs {

class LiveSave;
class Rendezvous;
class SavedMemory;
enum class SaveStep : uint8_t;

class Machine final : VcpuHost {
 public:
  enum class State : uint8_t { created, running, paused, failed, ended };

  /** Called on vCPU and other threads; must return soon and not call back. */
  struct Events {
    std::function<void(std::span<const uint8_t>)> console;
    std::function<void(const GuestExit&)> exit;
    std::function<void(const std::string&)> error;
  };

  /** Makes memory, vCPUs and devices and opens the disks. Throws Error. */
  Machine(const MachineConfig& config, Events events);
  ~Machine();

  // Before start(): what the guest begins with.
  void loadFile(const std::string& path, uint64_t fileOffset, uint64_t length, uint64_t address);
  void load(uint64_t address, std::span<const std::byte> bytes);
  void boot(uint64_t entry, uint64_t deviceTree);
  /** Device state first; then memory is armed for lazy loading, or loaded whole (C1). */
  void restore(const RestoreRequest& request, std::shared_ptr<const MemoryImage> image);

  void start();
  /** Quiesces the machine; holds nest with those of save(). Throws Error(io) if a vCPU is stuck. */
  void pause();
  void resume();
  /** A live checkpoint; returns when it is complete and durable, or throws with traces lifted. With
   *  a `rendezvous` it waits for other VMs on its way. */
  CheckpointResult save(const CheckpointRequest& request,
                        const std::function<void(uint64_t pauseUs)>& resumed,
                        std::shared_ptr<Rendezvous> rendezvous = nullptr);
  /** Lets a save() that waits at `step` go on. Throws Error(usage) if there is none. */
  void proceedSave(SaveStep step);
  /** Makes a save() under way throw Error(cancelled). */
  void cancelSave();
  /** From now on a disk's writes go to a new log at `path`; the logs below it are sealed. */
  void freezeDisk(const std::string& id, const std::string& path);
  /** Commits sealed logs of a disk while the guest runs; see Chain::commit. Its parent from then
   * on. */
  Json commitDisk(const std::string& id, const Commit& commit, Progress& progress);
  /** How much of each redo log of a disk is of use; see surveyJson(). */
  Json surveyDisk(const std::string& id) const;
  /** Replaces sealed logs of a disk while the guest runs; see Chain::compact. What surveyDisk()
   * says then. */
  Json compactDisk(const std::string& id, const std::vector<LogRun>& runs, Progress& progress);
  /** Lets vCPUs that wait for memory that could not be read try again. */
  void retryRestore();
  /** Stops the guest for ever and joins all threads. */
  void close();

  void consoleInput(std::span<const uint8_t> bytes);

  // Reports, as JSON objects of src/native.ts; "null" where there is nothing to report.
  Json status() const;
  Json saveProgress() const;
  Json restoreProgress() const;

  /** RAM now, and a disk now; `self` keeps the machine alive as long as the source. */
  static ByteSource memorySource(std::shared_ptr<Machine> self);
  static ByteSource diskSource(std::shared_ptr<Machine> self, const std::string& id);
  /** RAM as it was in the pause of the save under way, or of the last one. Error(notFound) if there
   * was no pause yet. */
  static ByteSource savedSource(std::shared_ptr<Machine> self);
  /** RAM as it was inside the pause of the last save that asked for it. */
  const std::vector<std::byte>& oracle() const { return oracle_; }

 private:
  friend class LiveSave;

  // VcpuHost
  bool mmioRead(uint64_t address, unsigned size, uint64_t& value) noexcept override;
  bool mmioWrite(uint64_t address, unsigned size, uint64_t value) noexcept override;
  uint64_t now() noexcept override;
  void setTimer(unsigned vcpu, uint64_t ticks) noexcept override;
  void debugWrite(const uint8_t* bytes, uint64_t length) noexcept override;
  void guestExit(const GuestExit& exit) noexcept override;

  void runVcpu(unsigned index);
  uint64_t instructions() const noexcept;
  /** Adds a hold, waits until all vCPUs are parked, and stops guest time. */
  void quiesce();
  void unquiesce();
  /** Inside a pause: makes it last. False: the guest was paused already, or has ended. */
  bool suspend() noexcept;
  void requestExits() noexcept;
  void onMemoryFailure();
  /** From running to failed, with a hold; false: the machine was not running. */
  bool holdFailed() noexcept;
  /** The guest runs, or would if it were not paused. */
  bool alive() const noexcept {
    const State state = state_;
    return state == State::running || state == State::paused;
  }
  std::string memoryError() const;
  void watchRestore();
  /** From failed back to running. */
  void recover();
  std::span<std::byte> ram(uint64_t address, uint64_t length);
  /** Inside a pause, for tests. */
  void takeOracle();
  std::string tracked() const;
  void setTracked(const std::string& id);
  /** Returns the one before. */
  std::shared_ptr<const SavedMemory> exchangeSavedMemory(std::shared_ptr<const SavedMemory> saved);

  const MachineConfig config_;
  const Events events_;
  GuestClock clock_;
  GuestMemory memory_;
  std::unique_ptr<VcpuSet> vcpus_;
  Platform platform_;
  Gate gate_;
  Timers timers_;
  std::vector<std::thread> threads_;
  std::thread watcher_;

  std::atomic<State> state_{State::created};
  std::atomic<bool> closing_{false};
  std::mutex holdMutex_;     // orders quiesce and unquiesce
  std::mutex failureMutex_;  // failing and retrying: state and gate change as one
  std::mutex inputMutex_;    // console input stays out while state is copied

  // Restore; set before start() and kept for its report.
  std::shared_ptr<const MemoryImage> image_;
  std::unique_ptr<Restorer> restorer_;
  uint64_t restoreBegunNs_ = 0;
  uint64_t instructionsAtRestore_ = 0;
  std::atomic<uint64_t> firstInstructionNs_{0};
  std::atomic<uint32_t> failures_{0};  // the watcher sleeps on it

  std::mutex saveMutex_;          // one save at a time
  mutable std::mutex liveMutex_;  // guards the next three
  LiveSave* live_ = nullptr;      // the save under way
  std::string tracked_;           // the checkpoint that memory is tracked against; empty: none
  std::shared_ptr<const SavedMemory> saved_;
  std::vector<std::byte> oracle_;  // written inside a pause, read after save()
};

}  // namespace ckptfs
