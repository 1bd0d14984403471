// A vector for tables of megabytes that stand in the way of a first instruction: it asks the kernel
// for huge pages, because 4 KiB at a time costs more in page faults than all else that is done with
// such a table.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <vector>

namespace ckptfs {

template <class T>
struct HugePageAllocator {
  using value_type = T;
  static constexpr size_t kHugePageBytes = 2 << 20;

  HugePageAllocator() = default;
  template <class U>
  HugePageAllocator(const HugePageAllocator<U>&) noexcept {}  // NOLINT: a conversion

  T* allocate(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes < kHugePageBytes) return static_cast<T*>(::operator new(bytes));
    void* const memory = ::operator new (bytes, std::align_val_t{kHugePageBytes});
    madvise(memory, bytes, MADV_HUGEPAGE);  // a hint: the host may know none
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t count) noexcept {
    if (count * sizeof(T) < kHugePageBytes)
      ::operator delete(memory);
    else
      ::operator delete (memory, std::align_val_t{kHugePageBytes});
  }
  bool operator==(const HugePageAllocator&) const = default;
};

template <class T>
using LargeTable = std::vector<T, HugePageAllocator<T>>;

}  // namespace ckptfs
