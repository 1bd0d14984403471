// The interpreter: one handler for every Op, each ending in a jump to the next one's handler.
//
// Runs on the hart's thread. Between blocks `pc` is the guest's pc; inside one it is `base` plus
// the lengths of the operations before `op`. state_.pc is up to date only where a comment says
// "synced". The handlers are in the .inc files of this directory, one for every group of opcodes.h.
//
// Reading guide: BINARY and the like define a whole handler; NEXT goes to the next operation, GO
// ends the block at a direct successor, and the labels at the end serve all handlers.

// Cross-jumping and global common subexpressions would merge the handlers' dispatch jumps into one,
// which the host's branch predictor then gets wrong.
#pragma GCC optimize("no-gcse", "no-crossjumping")

#include <immintrin.h>
#include <sched.h>

#include <limits>
#include <type_traits>

#include "cpu/rv64/csr.h"
#include "cpu/rv64/fpu.h"
#include "cpu/rv64/hart.h"
#include "cpu/rv64/sbi.h"

namespace ckptfs::rv64 {
namespace {

uint64_t sext32(uint32_t value) noexcept {
  return uint64_t(int64_t(int32_t(value)));
}

/** Byte offset of an operation in its block. */
unsigned byteOffset(Block* block, const DecodedOp* op) noexcept {
  unsigned offset = 0;
  for (const DecodedOp* before = block->ops(); before != op; ++before) offset += before->length;
  return offset;
}

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <class T>
constexpr BitsOf<T> kSignBit = BitsOf<T>{1} << (8 * sizeof(T) - 1);
template <class T>
bool signOf(T value) noexcept {
  return (std::bit_cast<BitsOf<T>>(value) & kSignBit<T>) != 0;
}
template <class T>
T withSign(T value, bool negative) noexcept {
  const BitsOf<T> magnitude = std::bit_cast<BitsOf<T>>(value) & ~kSignBit<T>;
  return std::bit_cast<T>(negative ? magnitude | kSignBit<T> : magnitude);
}
template <class T>
T negated(T value) noexcept {
  return withSign(value, !signOf(value));
}

// Division as the M extension defines it: no traps.
template <class T>
T quotient(T a, T b) noexcept {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == T(-1)) return a;
  return a / b;
}
template <class T>
T remainder(T a, T b) noexcept {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return a % b;
}

/** Atomic minimum or maximum: the host has none, so compare-exchange. */
template <class T, class Better>
T amoSelect(T* at, T operand, Better better) noexcept {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, better(operand, old) ? operand : old, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return old;
}

/** The only order that x86 does not keep by itself: an older store before a younger load. */
void fullFence() noexcept {
  _mm_mfence();
}

}  // namespace

#define HANDLER(name) do_##name:
#define NEXT            \
  do {                  \
    ++op;               \
    goto * op->handler; \
  } while (0)
#define RETIRE(n) __atomic_store_n(&state.retired, state.retired + (n), __ATOMIC_RELAXED)
#define PC_OF_OP (base + byteOffset(block, op))
// Ends the block; `slot` of the block remembers the successor if it is in the same page.
#define GO(target, slot)                                                            \
  do {                                                                              \
    pc = (target);                                                                  \
    RETIRE(block->count);                                                           \
    Block* successor = block->slot;                                                 \
    if (__builtin_expect(successor != nullptr && successor->epoch == cache.epoch && \
                             hart->attention_.load(std::memory_order_relaxed) == 0, \
                         1)) {                                                      \
      block = successor;                                                            \
      base = pc;                                                                    \
      op = block->ops();                                                            \
      goto * op->handler;                                                           \
    }                                                                               \
    link = ((pc ^ base) & ~kPageMask) == 0 ? &block->slot : nullptr;                \
    goto find;                                                                      \
  } while (0)

const void* const* Hart::interpret(Hart* hart) noexcept {
  static const void* const kHandlers[] = {
#define OP(name) &&do_##name,
      RV64_OPS(OP)
#undef OP
  };
  if (hart == nullptr) return kHandlers;

  HartState& state = hart->state_;
  Mmu& mmu = hart->mmu_;
  BlockCache& cache = hart->cache_;
  uint64_t* const x = state.x.data();
  uint64_t* const f = state.f.data();

  uint64_t pc = 0;
  uint64_t base = 0;  // guest-virtual address of `block`
  Block* block = nullptr;
  const DecodedOp* op = nullptr;
  Block** link = nullptr;  // where to remember the block found next
  goto attend;

#include "cpu/rv64/ops/atomic.inc"
#include "cpu/rv64/ops/branch.inc"
#include "cpu/rv64/ops/float.inc"
#include "cpu/rv64/ops/integer.inc"
#include "cpu/rv64/ops/memory.inc"
#include "cpu/rv64/ops/system.inc"

illegal:
  mmu.fault = {cause::kIllegal, block->rawAt(byteOffset(block, op))};
fault:  // of the operation `op`, described by mmu.fault
  state.pc = PC_OF_OP;
  RETIRE(uint64_t(op - block->ops()));
  hart->trap(mmu.fault.cause, mmu.fault.value);
  pc = state.pc;
unlinked:
  link = nullptr;
find:  // the block at `pc`
  if (__builtin_expect(hart->attention_.load(std::memory_order_relaxed) != 0, 0)) {
    state.pc = pc;
  attend:  // synced
    if (!hart->attend()) return kHandlers;
    pc = state.pc;
    link = nullptr;
  }
  {
    const Mmu::FetchEntry& entry = mmu.fetchEntry(pc);
    const uint64_t generation = cache.generation;
    Block* found = nullptr;
    if (__builtin_expect(entry.tag == (pc & ~kPageMask) + mmu.context, 1))
      found = cache.at(entry.page | (pc & kPageMask));
    if (found == nullptr) {
      found = hart->fetch(pc);
      if (found == nullptr) {
        state.pc = pc;
        hart->trap(mmu.fault.cause, mmu.fault.value);
        pc = state.pc;
        goto unlinked;
      }
    }
    if (link != nullptr && generation == cache.generation) *link = found;
    block = found;
    base = pc;
    op = block->ops();
    goto * op->handler;
  }
}

}  // namespace ckptfs::rv64
