// Bodies of any bytes are decoded or refused; what the encoder makes is decoded to what it was.
//
// Input: codec, kind of use, then the body or the block.
#include "checkpoint/image/block_codec.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::fuzz;
using format::Codec;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static BlockEncoder encoders[] = {BlockEncoder(Codec::raw), BlockEncoder(Codec::lz4),
                                    BlockEncoder(Codec::zstd)};
  Input input(data, size);
  const uint8_t choice = input.byte();
  const bool encode = input.byte() % 2 != 0;
  const size_t blockBytes = choice % 2 != 0 ? 4096 : 32768;
  if (!encode) {
    Bytes raw(blockBytes);
    const Bytes body = input.copy();  // of its own size, so that a read beyond it is seen
    decodeBlock(static_cast<Codec>(choice / 2 % 5), body, raw);
    return 0;
  }
  Bytes block = input.copy();
  block.resize(blockBytes);
  Bytes into(blockBytes), raw(blockBytes);
  const auto [codec, body] = encoders[choice / 2 % 3].encode(block, into.data());
  FUZZ_CHECK(format::isBodyLength(codec, body.size(), blockBytes));
  FUZZ_CHECK(decodeBlock(codec, Bytes(body.begin(), body.end()), raw));
  FUZZ_CHECK(raw == block);
  return 0;
}
