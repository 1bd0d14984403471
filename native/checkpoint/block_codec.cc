#include "checkpoint/block_codec.h"

#include <lz4.h>

namespace ckptfs {

BlockEncoder::BlockEncoder(bool compress)
    : state_(compress ? std::make_unique<std::byte[]>(static_cast<size_t>(LZ4_sizeofState()))
                      : nullptr) {}

BlockEncoder::Encoded BlockEncoder::encode(std::span<const std::byte> raw,
                                           std::byte* into) noexcept {
  const auto size = static_cast<int>(raw.size());
  if (state_ != nullptr) {
    // One byte less than raw: what is not shorter does not fit, and 0 comes back.
    const int stored =
        LZ4_compress_fast_extState(state_.get(), reinterpret_cast<const char*>(raw.data()),
                                   reinterpret_cast<char*>(into), size, size - 1, 1);
    if (stored > 0) return {format::Codec::lz4, static_cast<uint32_t>(stored)};
  }
  std::memcpy(into, raw.data(), raw.size());
  return {format::Codec::raw, static_cast<uint32_t>(size)};
}

bool decodeBlock(format::Codec codec, std::span<const std::byte> body,
                 std::span<std::byte> raw) noexcept {
  switch (codec) {
    case format::Codec::zero:
      std::memset(raw.data(), 0, raw.size());
      return body.empty();
    case format::Codec::raw:
      if (body.size() != raw.size()) return false;
      std::memcpy(raw.data(), body.data(), raw.size());
      return true;
    case format::Codec::lz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(body.data()),
                                 reinterpret_cast<char*>(raw.data()), static_cast<int>(body.size()),
                                 static_cast<int>(raw.size())) == static_cast<int>(raw.size());
  }
  return false;
}

}  // namespace ckptfs
