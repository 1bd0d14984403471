// The state of every memory block, one atomic byte each, and the sweeps over all of them.
//
//   open ──arm──▶ traced ──▶ saving ──by a write──▶ open
//                                   ──by settling──▶ saved ──end of a good save──▶ clean or open
//                                                    saved ──end of a failed save─▶ open
//   clean ──arm, base kept──▶ clean;  clean ──arm, full──▶ traced;  clean, saved ──write──▶ open
//   absent ──▶ loading ──by a write──▶ open;  ──by a read or settling──▶ clean or open
//
// Whoever moves a block to saving or loading holds it until the move is done; others wait. A thread
// that holds a block never waits for another one: that is why there is no deadlock. Sweeps look at
// many states at a time, since one over 8 GiB of RAM (262,144 blocks) is part of a pause.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "base/geometry.h"

namespace ckptfs {

enum class BlockState : uint8_t {
  open,     // no trace; differs from the base checkpoint, or there is none
  clean,    // its contents are those of the base; the first write makes it open
  traced,   // to be saved before the first write; ahead of the pause, a write just makes it open
  saving,   // being saved; readable, who wants to write waits
  saved,    // saved by the save under way and not written since; a write makes it open
  absent,   // to be loaded before the first access
  loading,  // being loaded; others wait
};

/** What guest accesses a protection lets through; the order is that of strictness. */
enum class Rights : uint8_t { none, read, all };

/** The most that the protection of a block in this state may let through. */
constexpr Rights rightsIn(BlockState state) noexcept {
  switch (state) {
    case BlockState::open:
      return Rights::all;
    case BlockState::absent:
    case BlockState::loading:
      return Rights::none;
    default:
      return Rights::read;
  }
}

class BlockStates {
 public:
  /** All open. */
  explicit BlockStates(uint64_t count);

  uint64_t count() const noexcept { return count_; }
  const std::atomic<BlockState>* data() const noexcept { return states_.get(); }
  std::atomic<BlockState>& operator[](BlockId block) noexcept { return states_[block]; }
  BlockState at(BlockId block) const noexcept {
    return states_[block].load(std::memory_order_acquire);
  }
  /** Sleeps, after a short spin, while the block is in this state. */
  void waitWhile(BlockId block, BlockState state) noexcept;
  void set(BlockId block, BlockState state) noexcept {
    states_[block].store(state, std::memory_order_release);
    states_[block].notify_all();
  }

  void fill(BlockState state) noexcept;
  /** Blocks whose state is not among clean, absent and loading. */
  uint64_t countDirty() const noexcept;
  bool anyAbsentOrLoading() const noexcept;
  /** Makes what differs from the base (open, and clean too without `keepBase`) traced; `traced`,
   * one byte a block or, without `keepBase`, none, gets 1 for every block that is traced then, else
   * 0; the less of it changes by that, the faster. Nobody may write to memory, and no block may be
   * saving or saved, meanwhile; loads may go on. */
  void arm(bool keepBase, std::span<uint8_t> traced) noexcept;

 private:
  uint8_t armOne(BlockId block, bool keepBase) noexcept;

  const uint64_t count_;
  std::unique_ptr<std::atomic<BlockState>[]> states_;
};

}  // namespace ckptfs
