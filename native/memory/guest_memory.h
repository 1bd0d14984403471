// Guest RAM: one memory file mapped twice, and the trace state of every memory block.
//
// The guest view is what vCPUs read and write, and the only mapping that is ever protected. The
// host view is always readable and writable; savers, restorers, devices and the mount use it, after
// prepareRead or prepareWrite (the kernel answers EFAULT, not SIGSEGV, for a system call into a
// protected page: requirement A9). With the soft engine both are one mapping, nothing is protected,
// and vCPUs call access() before they let accesses through.
//
// The states of a block are in block_states.h. A block that is clean, absent or loading has the
// contents of the base: the checkpoint that was restored, or the last one that was saved. A save
// that keeps the base refers to it for those blocks (requirements F2, F4). Offsets are bytes from
// the start of RAM, not guest-physical addresses.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/geometry.h"
#include "memory/block_states.h"
#include "memory/trace_client.h"

namespace ckptfs {

class GuestMemory {
 public:
  /** RAM of `bytes` zero bytes, every block open. `traceEngine` is a name from traceEngineNames().
   * `mappingLimit` bounds the kernel mappings of the guest view (at least 3); 0: what
   * vm.max_map_count leaves. Throws Error. */
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
   * inside a fault or access(). Its frames are then dropped without destructors, so they hold
   * nothing that needs one. */
  static bool runGuarded(const std::function<void()>& function) noexcept;

  /** True: the engine is soft, and nobody touches the guest view without access(). */
  bool softTraced() const noexcept { return soft_; }
  /** A vCPU is about to let accesses to the page at `offset` (reads; with `write` writes too)
   *  through without asking again, until the next armWrite(): loads, saves or notes the write as a
   *  fault would. Cheap when there is nothing to do. Waits like a fault, and like it may leave by
   * abandon(). */
  void access(uint64_t offset, bool write) noexcept {
    const BlockId block = blockOf(offset);
    if (rightsIn(states_[block].load(std::memory_order_acquire)) <
        (write ? Rights::all : Rights::read)) [[unlikely]]
      admit(block, write);
  }
  /** Notes that a vCPU uses the block of `offset`. Any thread, any engine. */
  void noteAccess(uint64_t offset) noexcept {
    std::atomic<uint8_t>& note = accessed_[blockOf(offset)];
    // Looking first keeps the cache line with all vCPUs that use the block.
    if (note.load(std::memory_order_relaxed) == 0) note.store(1, std::memory_order_relaxed);
  }
  /** Moves the notes into `into`, one byte for every block: sets 1 where a block was used since the
   *  last harvest and leaves the others. Guests may run (requirement B4). */
  void harvestAccessed(std::span<uint8_t> into) noexcept;

  /** Makes [offset, offset+length) readable through the host view: loads absent blocks.
   *  False when a block could not be loaded or the range is not inside RAM; then nothing may be
   * read. */
  bool prepareRead(uint64_t offset, uint64_t length) noexcept;
  /** Makes the range writable through the host view: every block is open then. */
  bool prepareWrite(uint64_t offset, uint64_t length) noexcept;

  /** Whether blocks are clean (tracked against what was saved or loaded) or open after a save or
   *  load; false at first. Set while nothing is traced. */
  void track(bool on) noexcept;
  /** Blocks that are not known to equal the base: neither clean, absent nor loading. */
  uint64_t dirtyBlocks() const noexcept;

  /** Makes the next armWrite() short: protects open blocks of the run and makes them traced. Guests
   * run; their writes before the pause just make blocks open again. Nothing for the soft engine. */
  void armAhead(BlockRange run) noexcept;
  /** In the pause: every block that differs from the base becomes traced; without `keepBase` the
   * clean ones too, and then no block may be absent or loading (Error(busy)). `traced`, one byte
   * for every block, gets 1 for those that this save has to save, 0 for those it may refer to (it
   * may be empty without `keepBase`, when that is all of them); the less of it changes by that, the
   * shorter the pause. A load may be under way. With the soft engine the vCPUs have to forget their
   * translations before they run. Throws Error; then nothing is traced for this client. */
  void armWrite(TraceClient* saver, bool keepBase, std::span<uint8_t> traced);
  /** On a background thread: brings the traced blocks of the run to saved, and waits for those that
   *  others are saving. False: the client failed for one (the others are done). */
  bool settleSave(BlockRange run) noexcept;
  /** Ends the write traces, and waits for calls of handle() that are under way. `ok`: what was
   * saved and not written since becomes clean, or open when not tracking; else all that was traced
   *  becomes open, saved or not. */
  void endSave(bool ok) noexcept;

  /** RAM must be fresh (never written): absent blocks that the client leaves alone read as zeros.
   *  Before vCPUs run. Throws Error. */
  void armAccess(TraceClient* loader);
  /** On a background thread: loads the absent blocks of the run, waits for those that others load,
   *  and lets accesses through as the mapping budget allows. False: the client failed for one. */
  bool settleLoad(BlockRange run) noexcept;
  /** Detaches the loader; no block may be absent or loading. */
  void endLoad() noexcept;

  BlockState state(BlockId block) const noexcept;
  /** True when the memory file has no page in this block, so that it reads as zeros and reading it
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
    uint64_t faults = 0;    // traces that vCPUs ran into
    uint64_t waits = 0;     // waits for a block that another thread was moving
    uint64_t mappings = 0;  // kernel mappings of the guest view now
    uint64_t widened = 0;   // permits widened to stay within the mapping budget
  };
  Counters counters() const noexcept;

 private:
  struct Impl;
  void admit(BlockId block, bool write) noexcept;
  BlockId blockOf(uint64_t offset) const noexcept {
    return blockShift_ != 0 ? offset >> blockShift_ : offset / blockBytes_;
  }

  const std::unique_ptr<Impl> impl_;
  // What vCPUs need at each fill of their TLBs, without a detour.
  const bool soft_;
  const unsigned blockShift_;  // 0: blocks are not a power of two
  const uint64_t blockBytes_;
  const std::atomic<BlockState>* const states_;             // those of impl_
  const std::unique_ptr<std::atomic<uint8_t>[]> accessed_;  // 1: used since the last harvest
};

}  // namespace ckptfs
