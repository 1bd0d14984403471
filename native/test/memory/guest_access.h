// Accesses of a vCPU to guest memory, whatever the trace engine, and of a device.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "memory/guest_memory.h"
#include "memory/trace_engine.h"

namespace ckptfs {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kSlowdown = 10;  // sanitized: fewer rounds
#else
inline constexpr int kSlowdown = 1;
#endif

inline uint64_t loadFrom(const std::byte* view, uint64_t offset) {
  return __atomic_load_n(reinterpret_cast<const uint64_t*>(view + offset), __ATOMIC_RELAXED);
}
inline void storeTo(std::byte* view, uint64_t offset, uint64_t value) {
  __atomic_store_n(reinterpret_cast<uint64_t*>(view + offset), value, __ATOMIC_RELAXED);
}

/** The trace engines that this host offers; userfaultfd may need a privilege or a newer kernel. */
inline std::vector<std::string> usableEngines() {
  std::vector<std::string> names;
  for (const std::string& name : traceEngineNames()) {
    try {
      GuestMemory(Geometry{}.blockBytes(), Geometry{}, name);
      names.push_back(name);
    } catch (const Error& error) {
      REQUIRE(error.code() == Code::unsupported);
      MESSAGE("skipped: " << error.what());
    }
  }
  return names;
}

/** What a vCPU does without a translation of the page; not across a pause. */
inline uint64_t guestLoad(GuestMemory& memory, uint64_t offset) {
  if (memory.softTraced()) memory.access(offset, false);
  return loadFrom(memory.guestView(), offset);
}
inline void guestStore(GuestMemory& memory, uint64_t offset, uint64_t value) {
  if (memory.softTraced()) memory.access(offset, true);
  storeTo(memory.guestView(), offset, value);
}

/** Runs body(0) to body(count - 1) on threads that may touch the guest view. */
template <class Body>
void onThreads(unsigned count, Body body) {
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < count; ++i)
    threads.emplace_back([&body, i] {
      GuestMemory::attachThread();
      body(i);
    });
}

}  // namespace ckptfs
