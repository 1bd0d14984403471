// Saves guest memory as it was in the pause, while the guest runs (requirements A3, B1-B6, B8, F4).
//
// Life: construct before the pause, arm() inside it, start() once the guest runs again, wait().
//
//   vCPU and device threads ── handle() ──▶ their staging buffer ──full──▶ workers ──▶ *.hot
//   workers ────────────────── walk ──────▶ their own buffers ──────────────────────▶ *.cold
//
// A block counts as saved once its copy is in a buffer; vCPU threads only copy. Workers encode and
// write: full buffers first, else what nobody has saved yet, at the pace that is allowed. One more
// thread, the coordinator, starts them, waits for the end and publishes. Traces stay until all is
// durable, so that blocks not written since are known to equal the new checkpoint.
//
// When anything fails the checkpoint fails as a whole, blocks are opened without being saved, and
// the guest goes on unharmed; the files of the attempt are the caller's to remove.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoint/image/memory_image.h"
#include "checkpoint/pace.h"
#include "checkpoint/save/late_contents.h"
#include "checkpoint/save/save_image.h"
#include "checkpoint/save/save_output.h"
#include "checkpoint/save/save_walk.h"
#include "checkpoint/save/staging.h"
#include "memory/guest_memory.h"

namespace ckptfs {

struct SaveOptions {
  std::string directory;                     // exists; receives memory.map and the new segments
  format::Codec codec = format::Codec::lz4;  // lz4, zstd or raw
  unsigned vcpus = 1;    // threads with indexes below this have a staging buffer of their own
  unsigned workers = 2;  // at least 1
  /** Staging memory that exists before the pause; it grows to a quarter of RAM, at most 128 MiB.
   *  0: an eighth of what is to be saved, between 8 and 32 MiB. */
  uint64_t stagingBytes = 0;
  /** What blocks the guest used of late, as GuestMemory::harvestAccessed() tells it; may be empty.
   */
  std::vector<uint8_t> accessed = {};
  /** The guest stays stopped until the save is done: it is ordered for the restore alone (B9). */
  bool suspend = false;
  /** The checkpoint that memory is tracked against: unchanged blocks refer to its segments, which
   *  the caller links into `directory`. Null: everything is saved. */
  std::shared_ptr<const MemoryImage> base = nullptr;
  uint64_t limitBytesPerSecond = 0;        // for background threads; 0: none
  std::function<bool()> guestIoBusy = {};  // see Pace
  LateContents* late = nullptr;            // outlives the saver
};

/** Numbers of memory blocks, but for the bytes and faults. */
struct SaveResult {
  uint64_t vcpu = 0;                  // saved by threads that faulted or prepared a write
  uint64_t background = 0;            // saved by workers
  uint64_t zero = 0;                  // all zeros: no body stored
  uint64_t duplicate = 0;             // share the body of another block
  uint64_t parent = 0;                // refer to the base
  uint64_t storedBytes = 0;           // of memory.map and the new segments
  uint64_t faults = 0;                // write traces that vCPUs ran into
  std::vector<std::string> segments;  // file names that memory.map refers to
};

struct SaveProgress {
  uint64_t blocksTotal = 0;
  uint64_t blocksSaved = 0;
  uint64_t storedBytes = 0;
};

class Saver final : public TraceClient {
 public:
  /** Creates the files, allocates the buffers, arms memory ahead. Throws Error. */
  Saver(GuestMemory& memory, const SaveOptions& options);
  /** Cancels what is still under way. */
  ~Saver() override;
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  /** In the pause: traces what is to be saved. Throws Error; then nothing is traced. */
  void arm();
  /** After the resume (or with the guest stopped, for a suspend): starts the workers. */
  void start();
  /** After start(): waits until everything is durable. Throws Error when the save failed. */
  SaveResult wait();
  /** Asks a save to end early; wait() then throws Error(cancelled) unless it was done already. */
  void cancel() noexcept;
  SaveProgress progress() const noexcept;

  /** From arm() on: reads RAM as it was in the pause, before and after it is saved (requirement
   *  F1). Stays within RAM. Any thread. Throws Error once the save has failed. */
  void read(uint64_t offset, std::span<std::byte> into) const { image_.read(offset, into); }

  /** Contents that LateContents::keep() kept, now complete (requirement A10). Any thread. */
  void late(BlockId block, const std::byte* raw) noexcept;

  bool handle(BlockId block, Cause cause) noexcept override;

 private:
  /** The buffer that one vCPU thread fills, or that several other threads share. */
  struct alignas(64) Slot {
    std::mutex lock;
    StagingBuffer* buffer = nullptr;
  };
  struct Worker;

  void forecast() noexcept;
  // Worker threads.
  void startWorkers();
  void work(Worker& worker) noexcept;
  void walk(Worker& worker) noexcept;
  bool serve(Worker& worker, StagingBuffer* full) noexcept;
  void flush(Worker& worker) noexcept;
  void write(format::SegmentKind kind, const StagingBuffer& buffer, IoBlockPacker& packer,
             bool background) noexcept;
  // The coordinator thread.
  void coordinate() noexcept;
  void settleLate() noexcept;
  bool publish() noexcept;
  void endTracing(bool ok) noexcept;
  void endWorkers() noexcept;
  void freeBuffers() noexcept;
  // Any thread.
  void stage(BlockId block, const std::byte* contents) noexcept;
  void submitSlots() noexcept;
  void flushAll() noexcept;
  void fail(const Error& error) noexcept;
  bool stopped() const noexcept { return stopped_.load(std::memory_order_acquire); }

  static thread_local Worker* currentWorker;

  GuestMemory& memory_;
  const SaveOptions options_;
  const MemoryMap* base_ = nullptr;
  SaveOutput output_;
  StagingPool pool_;
  SaveWalk walk_;
  Pace pace_;
  SaveImage image_;
  std::vector<Slot> slots_;  // the last one is shared by devices and other threads
  bool armed_ = false;
  uint64_t faultsBefore_ = 0;
  std::atomic<bool> started_{false};
  std::atomic<uint64_t> total_{0};  // blocks to be saved, counted by start()

  std::atomic<uint64_t> handled_{0};  // blocks: copied to a buffer, or zero
  std::atomic<uint64_t> vcpu_{0}, background_{0}, zero_{0}, duplicate_{0};
  std::atomic<uint64_t> storedBytes_{0};
  std::atomic<uint64_t> kept_{0};  // blocks that late() has still to bring

  std::atomic<bool> stopped_{false};  // failed or cancelled
  std::mutex doneLock_;               // guards what is below
  std::condition_variable doneChanged_;
  std::optional<Error> error_;
  SaveResult result_;
  size_t walking_ = 0;  // workers that may still save blocks
  bool published_ = false;
  bool done_ = false;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::thread coordinator_;
};

}  // namespace ckptfs
