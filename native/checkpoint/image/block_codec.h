// Compression of one memory block (requirement B8): LZ4 or zstd, raw when neither makes it shorter.
//
// One encoder belongs to one thread. Decoding allocates nothing, may run inside a fault, and on as
// many threads as like.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "checkpoint/image/format.h"

struct ZSTD_CCtx_s;

namespace ckptfs {

class BlockEncoder {
 public:
  /** `codec`: lz4, zstd or raw. Throws Error. */
  explicit BlockEncoder(format::Codec codec);

  struct Encoded {
    format::Codec codec;
    std::span<const std::byte> body;  // in `into`, or `raw` itself
  };
  /** The body of `raw`; `into` has room for raw.size() bytes. */
  Encoded encode(std::span<const std::byte> raw, std::byte* into) noexcept;

 private:
  struct FreeZstd {
    void operator()(ZSTD_CCtx_s* context) const noexcept;
  };
  std::unique_ptr<std::byte[]> lz4_;             // work space
  std::unique_ptr<ZSTD_CCtx_s, FreeZstd> zstd_;  // neither: store raw
};

/** Restores a block of `raw.size()` bytes from its body. False: the body is not one of this codec.
 */
bool decodeBlock(format::Codec codec, std::span<const std::byte> body,
                 std::span<std::byte> raw) noexcept;

}  // namespace ckptfs
