// What a request writes, taken piece by piece wherever the pieces end.
#pragma once

#include <algorithm>
#include <vector>

#include "disk/disk.h"

namespace ckptfs {

inline uint64_t bytesOf(Buffers buffers) noexcept {
  uint64_t bytes = 0;
  for (const auto buffer : buffers) bytes += buffer.size();
  return bytes;
}

class BufferReader {
 public:
  explicit BufferReader(Buffers buffers) noexcept : left_(buffers) {}

  /** The next bytes that lie together, at most `most`; `most` are left. */
  std::span<const std::byte> next(uint64_t most) noexcept {
    while (skip_ == left_.front().size()) {
      left_ = left_.subspan(1);
      skip_ = 0;
    }
    const auto rest = left_.front().subspan(skip_);
    const auto piece = rest.first(std::min<uint64_t>(rest.size(), most));
    skip_ += piece.size();
    return piece;
  }
  /** Fills `into`; so many bytes are left. */
  void copy(std::span<std::byte> into) noexcept {
    while (!into.empty()) {
      const auto piece = next(into.size());
      std::copy(piece.begin(), piece.end(), into.begin());
      into = into.subspan(piece.size());
    }
  }
  /** The next `bytes`, which are left. */
  std::vector<std::span<const std::byte>> take(uint64_t bytes) {
    std::vector<std::span<const std::byte>> taken;
    for (; bytes > 0; bytes -= taken.back().size()) taken.push_back(next(bytes));
    return taken;
  }

 private:
  Buffers left_;
  size_t skip_ = 0;  // of the first
};

}  // namespace ckptfs
