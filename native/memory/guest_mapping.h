// Mappings of the file that holds guest RAM.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckptfs {

/** One mapping of a memory file, with inaccessible addresses around it. */
class GuestMapping {
 public:
  GuestMapping(int fd, uint64_t bytes);
  ~GuestMapping();
  GuestMapping(const GuestMapping&) = delete;
  GuestMapping& operator=(const GuestMapping&) = delete;
  std::byte* base() const noexcept { return base_; }

 private:
  const uint64_t reservedBytes_;
  void* reserved_;
  std::byte* base_;
};

}  // namespace ckptfs
