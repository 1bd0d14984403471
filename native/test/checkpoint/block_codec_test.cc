#include "checkpoint/image/block_codec.h"

#include <doctest/doctest.h>

#include <random>
#include <thread>
#include <vector>

using namespace ckptfs;
using format::Codec;

namespace {

using Bytes = std::vector<std::byte>;

Bytes block(size_t size, unsigned kind) {
  std::mt19937_64 random(kind);
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>(kind == 0 ? 0 : kind == 1 ? i / 64 : random());
  return bytes;
}

}  // namespace

TEST_CASE("block codec: what was encoded is decoded, and never longer") {
  for (const Codec codec : {Codec::raw, Codec::lz4, Codec::zstd}) {
    BlockEncoder encoder(codec);
    for (const size_t size : {4096, 32768, 131072})
      for (unsigned kind = 0; kind < 3; ++kind) {
        CAPTURE(size);
        CAPTURE(kind);
        const Bytes raw = block(size, kind);
        Bytes room(size), again(size, std::byte{1});
        const auto [used, body] = encoder.encode(raw, room.data());
        CHECK(used == (kind == 2 ? Codec::raw : codec));
        CHECK(format::isBodyLength(used, body.size(), size));
        REQUIRE(decodeBlock(used, body, again));
        CHECK(again == raw);
      }
  }
}

TEST_CASE("block codec: bodies that are cut off, too long or damaged") {
  for (const Codec codec : {Codec::lz4, Codec::zstd}) {
    BlockEncoder encoder(codec);
    const Bytes raw = block(32768, 1);
    Bytes room(32768), out(32768);
    const auto body = encoder.encode(raw, room.data()).body;
    for (size_t length = 0; length < body.size(); ++length)
      REQUIRE_FALSE(decodeBlock(codec, body.first(length), out));
    Bytes half(16384);
    CHECK_FALSE(decodeBlock(codec, body, half));
    Bytes twice(65536);
    CHECK_FALSE(decodeBlock(codec, body, twice));
    std::mt19937_64 random(1);
    for (int i = 0; i < 2000; ++i) {  // any outcome but a crash
      Bytes damaged(body.begin(), body.end());
      damaged[random() % damaged.size()] = static_cast<std::byte>(random());
      decodeBlock(codec, damaged, out);
    }
  }
  Bytes out(4096);
  CHECK_FALSE(decodeBlock(Codec::raw, Bytes(4095), out));
  CHECK_FALSE(decodeBlock(Codec::zero, Bytes(1), out));
  CHECK_FALSE(decodeBlock(static_cast<Codec>(4), Bytes(4096), out));
}

TEST_CASE("block codec: more threads than decoders") {
  BlockEncoder encoder(Codec::zstd);
  const Bytes raw = block(32768, 1);
  Bytes room(32768);
  const auto body = encoder.encode(raw, room.data()).body;
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 24; ++i)
      threads.emplace_back([&] {
        Bytes out(32768);
        for (int n = 0; n < 50; ++n)
          if (!decodeBlock(Codec::zstd, body, out) || out != raw) ++wrong;
      });
  }
  CHECK(wrong == 0);
}
