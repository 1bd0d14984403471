#include "checkpoint/image/block_codec.h"

#include <lz4.h>
#define ZSTD_STATIC_LINKING_ONLY  // for contexts in memory of our own
#include <zstd.h>

#include <atomic>
#include <thread>

#include "base/error.h"

namespace ckptfs {

using format::Codec;

namespace {

constexpr int kZstdLevel = 1;

// Work space of zstd's decoder, which is too large for the stack of a fault: some static ones, each
// used by one thread at a time. Their pages exist once they have been used.
constexpr size_t kDecoders = 16;
constexpr size_t kDecoderBytes = 256 << 10;  // zstd 1.5 asks for less than 100 KiB
alignas(64) std::byte decoderMemory[kDecoders][kDecoderBytes];
std::atomic_flag decoderTaken[kDecoders];

size_t claimDecoder() noexcept {
  // A holder never waits for anything, so that one is free soon.
  for (;;) {
    for (size_t i = 0; i < kDecoders; ++i)
      if (!decoderTaken[i].test_and_set(std::memory_order_acquire)) return i;
    std::this_thread::yield();
  }
}

bool decodeZstd(std::span<const std::byte> body, std::span<std::byte> raw) noexcept {
  const size_t i = claimDecoder();
  ZSTD_DCtx* const context = ZSTD_initStaticDCtx(decoderMemory[i], kDecoderBytes);
  const bool decoded =
      context != nullptr &&
      ZSTD_decompressDCtx(context, raw.data(), raw.size(), body.data(), body.size()) == raw.size();
  decoderTaken[i].clear(std::memory_order_release);
  return decoded;
}

}  // namespace

void BlockEncoder::FreeZstd::operator()(ZSTD_CCtx_s* context) const noexcept {
  ZSTD_freeCCtx(context);
}

BlockEncoder::BlockEncoder(Codec codec)
    : lz4_(codec == Codec::lz4
               ? std::make_unique<std::byte[]>(static_cast<size_t>(LZ4_sizeofState()))
               : nullptr),
      zstd_(codec == Codec::zstd ? ZSTD_createCCtx() : nullptr) {
  if (codec == Codec::zstd && zstd_ == nullptr)
    throw Error(Code::io, "not enough host memory to compress with zstd");
}

BlockEncoder::Encoded BlockEncoder::encode(std::span<const std::byte> raw,
                                           std::byte* into) noexcept {
  // One byte less than raw: what is not shorter does not fit.
  if (lz4_ != nullptr) {
    const auto size = static_cast<int>(raw.size());
    const int stored =
        LZ4_compress_fast_extState(lz4_.get(), reinterpret_cast<const char*>(raw.data()),
                                   reinterpret_cast<char*>(into), size, size - 1, 1);
    if (stored > 0) return {Codec::lz4, {into, static_cast<size_t>(stored)}};
  } else if (zstd_ != nullptr) {
    const size_t stored =
        ZSTD_compressCCtx(zstd_.get(), into, raw.size() - 1, raw.data(), raw.size(), kZstdLevel);
    if (!ZSTD_isError(stored)) return {Codec::zstd, {into, stored}};
  }
  return {Codec::raw, raw};
}

bool decodeBlock(Codec codec, std::span<const std::byte> body, std::span<std::byte> raw) noexcept {
  switch (codec) {
    case Codec::zero:
      std::memset(raw.data(), 0, raw.size());
      return body.empty();
    case Codec::raw:
      if (body.size() != raw.size()) return false;
      std::memcpy(raw.data(), body.data(), raw.size());
      return true;
    case Codec::lz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(body.data()),
                                 reinterpret_cast<char*>(raw.data()), static_cast<int>(body.size()),
                                 static_cast<int>(raw.size())) == static_cast<int>(raw.size());
    case Codec::zstd:
      return decodeZstd(body, raw);
  }
  return false;
}

}  // namespace ckptfs
