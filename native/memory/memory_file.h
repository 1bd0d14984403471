// The file that holds guest RAM.
#pragma once

#include <cstdint>

namespace ckptfs {

/** A nameless file of zero bytes in memory, gone with its last descriptor and mapping.
 *
 * It lies in huge pages where that can be had, which no memfd does unless the host is set up for
 * it: vCPUs then miss their host's TLB less, and memory is filled several times faster (see
 * docs/performance.md). The price is that memory is taken 2 MiB at a time, which is why large files
 * in a host with little memory left are in small pages. */
class MemoryFile {
 public:
  /** Throws Error. */
  explicit MemoryFile(uint64_t bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace ckptfs
