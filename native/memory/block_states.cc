#include "memory/block_states.h"

#include <cstring>

namespace ckptfs {
namespace {

// Moving a block takes some 5 to 50 µs: spin for about 2 µs, then sleep.
constexpr int kSpins = 64;

constexpr uint64_t kLanes = 8;
constexpr uint64_t kOnes = 0x0101010101010101;
constexpr uint64_t eight(BlockState state) {
  return kOnes * static_cast<uint64_t>(state);
}

using Word [[gnu::may_alias]] = uint64_t;
static_assert(sizeof(std::atomic<BlockState>) == 1);

uint64_t loadEight(const std::atomic<BlockState>* at) noexcept {
  return __atomic_load_n(reinterpret_cast<const Word*>(at), __ATOMIC_ACQUIRE);
}
void storeEight(std::atomic<BlockState>* at, uint64_t states) noexcept {
  __atomic_store_n(reinterpret_cast<Word*>(at), states, __ATOMIC_RELEASE);
}

/** 1 in the lowest bit of every lane that equals `state`. States are below 0x80. */
uint64_t lanesEqual(uint64_t states, BlockState state) noexcept {
  return (~((states ^ eight(state)) + 0x7f * kOnes) & 0x80 * kOnes) >> 7;
}

bool allBelow(uint64_t states, BlockState limit) noexcept {
  return ((states + kOnes * (0x80 - static_cast<uint64_t>(limit))) & 0x80 * kOnes) == 0;
}
static_assert(BlockState::open < BlockState::clean && BlockState::clean < BlockState::traced &&
              static_cast<int>(BlockState::traced) == static_cast<int>(BlockState::clean) + 1 &&
              static_cast<int>(BlockState::saving) == static_cast<int>(BlockState::traced) + 1);

void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// `new` aligns for any scalar, so that eight states make an aligned word.
BlockStates::BlockStates(uint64_t count)
    : count_(count), states_(std::make_unique<std::atomic<BlockState>[]>(count)) {}

void BlockStates::waitWhile(BlockId block, BlockState state) noexcept {
  for (int i = 0; i < kSpins; ++i) {
    if (at(block) != state) return;
    relax();
  }
  states_[block].wait(state, std::memory_order_acquire);
}

void BlockStates::fill(BlockState state) noexcept {
  for (BlockId block = 0; block < count_; ++block)
    states_[block].store(state, std::memory_order_release);
}

uint64_t BlockStates::countDirty() const noexcept {
  uint64_t kept = 0;
  BlockId block = 0;
  for (; block + kLanes <= count_; block += kLanes) {
    const uint64_t states = loadEight(&states_[block]);
    if (states == eight(BlockState::open)) continue;
    const uint64_t lanes = lanesEqual(states, BlockState::clean) |
                           lanesEqual(states, BlockState::absent) |
                           lanesEqual(states, BlockState::loading);
    kept += lanes * kOnes >> 56;
  }
  for (; block < count_; ++block) {
    const BlockState state = at(block);
    kept += state == BlockState::clean || rightsIn(state) == Rights::none;
  }
  return count_ - kept;
}

bool BlockStates::anyAbsentOrLoading() const noexcept {
  for (BlockId block = 0; block < count_; ++block)
    if (rightsIn(at(block)) == Rights::none) return true;
  return false;
}

uint8_t BlockStates::armOne(BlockId block, bool keepBase) noexcept {
  for (;;) {
    BlockState now = at(block);
    if (now == BlockState::traced) return 1;
    if (now == BlockState::saving) continue;  // by a mistake that is undone at once: no save is on
    if (now != BlockState::open && (now != BlockState::clean || keepBase)) return 0;
    if (states_[block].compare_exchange_strong(now, BlockState::traced, std::memory_order_acq_rel))
      return 1;
  }
}

// Open, clean and traced blocks are changed by nobody but writers, of whom there are none, so plain
// stores do for eight of them; a locked instruction for each word would take most of the time
// allowed.
void BlockStates::arm(bool keepBase, std::span<uint8_t> traced) noexcept {
  BlockId block = 0;
  for (; block + kLanes <= count_; block += kLanes) {
    const uint64_t states = loadEight(&states_[block]);
    uint64_t result = 0;
    if (allBelow(states, BlockState::saving)) {
      const uint64_t kept = keepBase ? lanesEqual(states, BlockState::clean) : 0;
      result = kOnes - kept;
      const uint64_t armed = eight(BlockState::traced) - kept;  // clean is one less than traced
      if (armed != states) storeEight(&states_[block], armed);
    } else if (states != eight(BlockState::absent)) {
      for (uint64_t lane = 0; lane < kLanes; ++lane)
        result |= uint64_t{armOne(block + lane, keepBase)} << 8 * lane;
    }
    std::memcpy(&traced[block], &result, kLanes);
  }
  for (; block < count_; ++block) traced[block] = armOne(block, keepBase);
}

}  // namespace ckptfs
