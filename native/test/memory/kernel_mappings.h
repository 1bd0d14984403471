// Counts the kernel's mappings of a range of addresses: the oracle for a trace engine's own count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

namespace ckptfs {

inline uint64_t kernelMappings(const std::byte* base, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(base);
  std::ifstream maps("/proc/self/maps");
  uint64_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    const uintptr_t from = std::stoull(line, nullptr, 16);
    const uintptr_t to = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    count += from >= begin && to <= begin + bytes;
  }
  return count;
}

}  // namespace ckptfs
