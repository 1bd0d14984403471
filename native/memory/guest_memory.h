// Guest RAM: one memfd mapped twice, and the trace state of every memory block.
//
// The guest view is what vCPUs read and write, and the only mapping that is ever protected. The
// host view is always readable and writable; savers, restorers, devices and the mount use it, after
// prepareRead or prepareWrite (the kernel answers EFAULT, not SIGSEGV, for a system call into a
// protected page: requirement A9).
//
// Block states, one atomic byte each:
//
//   open ──armWrite──▶ traced ──first write──▶ moving ──saved──▶ ready ──lift──▶ open
//   open ──armAccess─▶ absent ──first access─▶ moving ──loaded─▶ ready ──lift──▶ open
//
// Whoever moves a block from traced or absent to moving saves or loads it; others wait until it is
// ready. Ready means handled but perhaps still protected, so that a lift may cover a whole run of
// blocks. No thread holding a block in moving waits for another block: that is why there is no
// deadlock. Offsets are bytes from the start of RAM, not guest-physical addresses.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/geometry.h"

namespace ckptfs {

class TraceEngine;

/** What a trace reports to: the saver for write traces, the restorer for access traces. */
class TraceClient {
 public:
  virtual ~TraceClient() = default;
  /** Saves (write trace) or loads (access trace) the contents of one block through the host view.
   *  The caller holds the block in `moving`. Runs inside a SIGSEGV handler on a vCPU thread, on a
   *  device thread or on a background thread. False: it could not be done and the error was
   *  recorded; the block goes back to its traced state. */
  virtual bool handle(BlockId block) noexcept = 0;
};

enum class BlockState : uint8_t { open, traced, absent, moving, ready };

class GuestMemory {
 public:
  /** RAM of `bytes` zero bytes. `traceEngine` is a name from traceEngineNames(). `mappingLimit`
   * bounds the kernel mappings of the guest view (at least 3); 0: what vm.max_map_count leaves.
   * Throws Error. */
  GuestMemory(uint64_t bytes, const Geometry& geometry, const std::string& traceEngine = "mprotect",
              uint64_t mappingLimit = 0);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  uint64_t bytes() const noexcept;
  const Geometry& geometry() const noexcept;
  uint64_t blockCount() const noexcept;
  std::byte* guestView() const noexcept;
  std::byte* hostView() const noexcept;
  int fd() const noexcept;

  /** Call once on every thread that touches the guest view: alternate signal stack, thread index.
   */
  static void attachThread();
  /** The lowest index that no other attached thread had when this one attached, so that vCPU
   * threads number from 0; UINT_MAX for a thread that is not attached. */
  static unsigned threadIndex() noexcept;
  /** Runs `function`, which touches the guest view and does not throw. False: abandon() ended it
   * inside a fault. Its frames are then dropped without destructors, so they hold nothing that
   * needs one. */
  static bool runGuarded(const std::function<void()>& function) noexcept;

  /** Makes [offset, offset+length) readable through the host view: loads absent blocks.
   *  False when a block could not be loaded or the range is not inside RAM; then nothing may be
   * read. */
  bool prepareRead(uint64_t offset, uint64_t length) noexcept;
  /** Makes the range writable through the host view: loads absent blocks, saves traced ones. */
  bool prepareWrite(uint64_t offset, uint64_t length) noexcept;

  /** Makes the next arming short, at the cost of minor faults later. Any time; guests may run. */
  void prepareArm() noexcept;
  /** Arms a trace on every block that is open. Only while quiesced, and with no client before. */
  void armWrite(TraceClient* client);
  /** RAM must be fresh (never written): absent blocks that the client leaves alone read as zeros.
   */
  void armAccess(TraceClient* client);
  /** Handles a run of blocks on the calling (background) thread; skips open ones and waits for
   * those that others move. With `lift`, opens what the mapping budget allows, and everything when
   * the range is all of RAM. False when the client failed for one of the blocks (the others are
   * done). */
  bool settle(BlockRange range, bool lift) noexcept;
  /** Opens every block that is left without telling the client, and waits for calls of handle()
   * that are under way: a save that failed or was cancelled. Not for access traces: absent blocks
   * have no contents to show. */
  void disarm() noexcept;
  /** Detaches the client; every block must be open. */
  void finish() noexcept;

  BlockState state(BlockId block) const noexcept;
  /** True when the memfd has no page in this block, so that it reads as zeros and reading it
   * through the host view would allocate (lseek SEEK_DATA). */
  bool isHole(BlockId block) const noexcept;

  /** A vCPU whose block cannot be loaded waits inside the fault until retryFailed() or abandon().
   * It never sees other contents. The callback is told once per failed handle(), on the thread that
   *  made the call (perhaps inside a fault); it must not call back into this object or throw. */
  void onFailure(std::function<void()> callback);
  void retryFailed() noexcept;
  /** The machine is being torn down: threads that wait in a fault leave runGuarded(). For good. */
  void abandon() noexcept;

  struct Counters {
    uint64_t faults = 0;    // SIGSEGVs handled
    uint64_t waits = 0;     // faults that waited for another thread
    uint64_t mappings = 0;  // kernel mappings of the guest view now
    uint64_t widened = 0;   // lifts widened to stay within the mapping budget
  };
  Counters counters() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ckptfs
