// The file that holds guest RAM, and mappings of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckptfs {

/** A memfd of zero bytes. */
class MemoryFile {
 public:
  explicit MemoryFile(uint64_t bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

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
