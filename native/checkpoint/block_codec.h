// Compression of one memory block (requirement B8): LZ4, or raw when LZ4 does not make it shorter.
//
// One encoder belongs to one thread. Decoding needs no state, allocates nothing and may run inside
// a fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "checkpoint/format.h"

namespace ckptfs {

class BlockEncoder {
 public:
  explicit BlockEncoder(bool compress);

  struct Encoded {
    format::Codec codec;
    uint32_t stored;
  };
  /** Writes the body of `raw` to `into`, which has room for raw.size() bytes. */
  Encoded encode(std::span<const std::byte> raw, std::byte* into) noexcept;

 private:
  std::unique_ptr<std::byte[]> state_;  // LZ4's work space, null: store raw
};

/** Restores a block of `raw.size()` bytes from its body. False: the body is not one of this codec.
 */
bool decodeBlock(format::Codec codec, std::span<const std::byte> body,
                 std::span<std::byte> raw) noexcept;

}  // namespace ckptfs
