// Saves guest memory as it was in the pause, while the guest runs (requirements A3, B1-B5, B8).
//
// Life: construct before the pause, arm() inside it, start() once the guest runs again, wait().
//
//   vCPU and device threads ── handle() ──▶ their staging buffer ──full──▶ writer thread ──▶ *.hot
//   background thread ──────── settle() ──▶ its own buffer ──────────────────────────────▶ *.cold
//
// A block counts as saved once its copy is in a buffer. Fault threads only copy. When anything
// fails the checkpoint fails as a whole, blocks are opened without being saved, and the guest goes
// on unharmed; the files of the attempt are the caller's to remove.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoint/memory_map.h"
#include "checkpoint/segment.h"
#include "checkpoint/staging.h"
#include "memory/guest_memory.h"

namespace ckptfs {

struct SaveOptions {
  std::string directory;  // exists; receives memory.map and the two segments
  format::Codec codec = format::Codec::lz4;  // lz4, zstd or raw
  unsigned vcpus = 1;  // threads with indexes below this have a staging buffer of their own
};

/** Numbers of memory blocks, but for the bytes and faults. */
struct SaveResult {
  uint64_t vcpu = 0;         // saved by threads that faulted or prepared a write
  uint64_t background = 0;   // saved by the background thread
  uint64_t zero = 0;         // all zeros: no body stored
  uint64_t storedBytes = 0;  // of memory.map and both segments
  uint64_t faults = 0;       // write traces that vCPUs ran into
};

struct SaveProgress {
  uint64_t blocksTotal = 0;
  uint64_t blocksSaved = 0;
  uint64_t storedBytes = 0;
};

class Saver final : public TraceClient {
 public:
  /** Creates the files, allocates the buffers, starts the writer. Throws Error. */
  Saver(GuestMemory& memory, const SaveOptions& options);
  /** Cancels what is still under way. */
  ~Saver() override;
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  /** In the pause: traces all of memory. Throws Error; then nothing is traced. */
  void arm();
  /** After the resume: starts the background thread. */
  void start();
  /** After start(): waits until everything is durable. Throws Error when the save failed. */
  SaveResult wait();
  /** Asks a save to end early; wait() then throws Error(cancelled) unless it was done already. */
  void cancel() noexcept;
  SaveProgress progress() const noexcept;

  bool handle(BlockId block) noexcept override;

 private:
  /** The buffer that one vCPU thread fills, or that several other threads share. */
  struct alignas(64) Slot {
    std::mutex lock;
    StagingBuffer* buffer = nullptr;
  };
  enum Segment : uint32_t { kHot, kCold };

  void write();       // the writer thread
  void background();  // the background thread
  void walk();
  void publish();
  void endTracing() noexcept;
  void append(Segment segment, const StagingBuffer& buffer) noexcept;
  void fail(const Error& error) noexcept;
  bool stopped() const noexcept { return stopped_.load(std::memory_order_acquire); }

  GuestMemory& memory_;
  const SaveOptions options_;
  SegmentWriter segments_[2];  // indexed by Segment; each used by one thread at a time
  IoBlockPacker packers_[2];    // of the same threads
  StagingPool pool_;
  std::vector<Slot> slots_;
  StagingBuffer cold_;  // the background thread's own
  std::atomic<std::thread::id> backgroundId_{};

  std::mutex
      mapLock_;  // guards map_.ioBlocks; rows of map_.blocks are written once, by whoever saves
  MemoryMap map_;

  std::atomic<uint64_t> vcpu_{0};
  std::atomic<uint64_t> background_{0};
  std::atomic<uint64_t> zero_{0};
  std::atomic<uint64_t> storedBytes_{0};
  uint64_t faultsBefore_ = 0;
  bool armed_ = false;

  std::atomic<bool> stopped_{false};  // failed or cancelled
  std::mutex doneLock_;               // guards error_, result_ and done_
  std::condition_variable doneChanged_;
  std::optional<Error> error_;
  SaveResult result_;
  bool done_ = false;

  std::thread writer_;
  std::thread backgroundThread_;
};

}  // namespace ckptfs
