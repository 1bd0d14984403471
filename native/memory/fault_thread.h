// What a thread needs to take faults on guest memory: a signal stack, a small index, a way out.
//
// All of it is thread-local. attachFaultThread() touches it first, outside any handler, because the
// first use of a thread-local variable of a loaded addon may allocate.
#pragma once

#include <functional>

namespace ckptfs {

/** Gives the calling thread an alternate signal stack and an index; a second call does nothing.
 *  Both are given back when the thread ends. Throws Error when there is no memory. */
void attachFaultThread();

inline constexpr unsigned kNoThreadIndex = ~0u;
/** The lowest index no other attached thread had at attach time; kNoThreadIndex if not attached. */
unsigned faultThreadIndex() noexcept;

/** Runs `function`; false when escapeGuarded() left it from inside a fault. The frames between the
 *  two are dropped without destructors: a function that touches guest memory must hold nothing
 * there that needs one. */
bool runGuarded(const std::function<void()>& function) noexcept;
/** Leaves the innermost runGuarded() of this thread; returns if there is none. */
void escapeGuarded() noexcept;

/** Notes that the handler with this stack frame passes a fault on to an earlier handler. False: it
 * is called by that very handler, so the chain is a ring. (A frame that was left by longjmp is not
 *  below the next one, so no reset is needed.) */
bool enterChain(const void* siginfo, const void* frame) noexcept;

}  // namespace ckptfs
