// The bytes of segments and of memory.map, as docs/checkpoint-format.md describes them.
//
// Little-endian structs without padding, copied in and out with memcpy; never pointed at inside a
// file. Checksums are xxh3-64. Nothing here allocates or throws.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <type_traits>

#include "base/geometry.h"

namespace ckptfs::format {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

inline constexpr uint32_t kVersion = 2;
inline constexpr char kSegmentMagic[8] = {'C', 'K', 'P', 'T', 'S', 'E', 'G', '\0'};
inline constexpr char kIoBlockMagic[8] = {'C', 'K', 'P', 'T', 'I', 'O', 'B', '\0'};
inline constexpr char kSealMagic[8] = {'C', 'K', 'P', 'T', 'E', 'N', 'D', '\0'};
inline constexpr char kMapMagic[8] = {'C', 'K', 'P', 'T', 'M', 'A', 'P', '\0'};

/** Segment header, IO blocks and seal each start at a multiple of this; zeros fill the gaps. */
inline constexpr uint64_t kAlignment = 4096;

// Limits on what a file may claim (and a saver may write).
inline constexpr uint64_t kMaxIoBlockBytes = 64 << 20;  // raw; so u32 holds every length and offset
inline constexpr uint64_t kMaxBlocks = 1 << 26;         // 2 TiB of RAM in 32 KiB blocks
inline constexpr uint32_t kMaxSegments = 65536;

using SegmentId = std::byte[16];

enum class SegmentKind : uint32_t { hot = 0, cold = 1 };
enum class Codec : uint8_t { raw = 0, lz4 = 1, zero = 2, zstd = 3 };

/** Whether a body of `stored` bytes may hold a block of `blockBytes` in this codec. */
constexpr bool isBodyLength(Codec codec, uint64_t stored, uint64_t blockBytes) noexcept {
  switch (codec) {
    case Codec::raw:
      return stored == blockBytes;
    case Codec::lz4:
    case Codec::zstd:
      return stored > 0 && stored < blockBytes;
    case Codec::zero:
      break;  // has no body
  }
  return false;
}

struct SegmentHeader {
  char magic[8];
  uint32_t version;
  uint32_t headerBytes;  // kAlignment
  SegmentId id;
  uint32_t pageBytes;
  uint32_t pagesPerBlock;
  uint32_t blocksPerIoBlock;
  SegmentKind kind;
  uint64_t memoryBytes;
  uint64_t checksum;  // of the bytes before it
};
static_assert(sizeof(SegmentHeader) == 64);

struct IoBlockHeader {
  char magic[8];
  uint64_t sequence;   // 0, 1, 2... within the segment
  uint32_t count;      // entries, at least 1
  uint32_t bytes;      // from this header to the next one, a multiple of kAlignment
  uint32_t bodyBytes;  // sum of the entries' stored lengths
  uint32_t reserved;
  uint64_t checksum;  // of the bytes before it and of the entries
};
static_assert(sizeof(IoBlockHeader) == 40);

struct IoBlockEntry {
  uint64_t block;
  uint32_t stored;  // body length in bytes
  Codec codec;      // not zero
  uint8_t reserved[3];
  uint64_t checksum;  // of the body as stored
};
static_assert(sizeof(IoBlockEntry) == 24);

struct SegmentSeal {
  char magic[8];
  uint64_t ioBlocks;
  uint64_t blocks;
  uint64_t bytes;     // of the whole file, with the seal's own kAlignment bytes
  uint64_t checksum;  // of the bytes before it
};
static_assert(sizeof(SegmentSeal) == 40);

struct MapHeader {
  char magic[8];
  uint32_t version;
  uint32_t headerBytes;  // sizeof(MapHeader)
  uint64_t fileBytes;
  uint64_t memoryBytes;
  uint32_t pageBytes;
  uint32_t pagesPerBlock;
  uint32_t blocksPerIoBlock;
  uint32_t segments;
  uint64_t ioBlocks;
  uint64_t blocks;
};
static_assert(sizeof(MapHeader) == 64);

struct MapSegment {
  SegmentId id;
  SegmentKind kind;
  uint32_t reserved;
  uint64_t bytes;
  uint64_t ioBlocks;
  char name[56];  // file name in the same directory, zero-filled
};
static_assert(sizeof(MapSegment) == 96);

struct MapIoBlock {
  uint32_t segment;  // index in the segment table
  uint32_t count;
  uint64_t offset;  // in the segment
  uint32_t bytes;
  uint32_t reserved;
  uint64_t checksum;  // the IO block header's
};
static_assert(sizeof(MapIoBlock) == 32);

inline constexpr uint32_t kNoIoBlock = UINT32_MAX;
/** Flag of a MapBlock: the body was written for another block with the same contents. */
inline constexpr uint8_t kAlias = 1;

struct MapBlock {
  uint32_t ioBlock;  // index in the IO block table; kNoIoBlock for codec zero
  uint32_t offset;   // of the body, in the IO block
  uint32_t stored;
  Codec codec;
  uint8_t flags;  // kAlias or 0
  uint8_t reserved[2];
  uint64_t checksum;  // of the body as stored; 0 for codec zero
};
static_assert(sizeof(MapBlock) == 24);

/** xxh3-64 of `bytes`, and of several pieces as if they were one. */
uint64_t checksumOf(std::span<const std::byte> bytes) noexcept;
uint64_t checksumOf(std::initializer_list<std::span<const std::byte>> pieces) noexcept;
inline uint64_t checksumOf(std::span<const std::byte> first,
                           std::span<const std::byte> second) noexcept {
  return checksumOf({first, second});
}

/** Checksum of a struct whose last member is `checksum`. */
template <class T>
uint64_t headerChecksum(const T& value) noexcept {
  return checksumOf(std::as_bytes(std::span(&value, 1)).first(offsetof(T, checksum)));
}

/** `from` must hold a T at `at`. */
template <class T>
T take(std::span<const std::byte> from, uint64_t at = 0) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from.data() + at, sizeof value);  // cppcheck-suppress memsetClass
  return value;
}
template <class T>
void put(std::span<std::byte> into, uint64_t at, const T& value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(into.data() + at, &value, sizeof value);
}

bool isZero(std::span<const std::byte> bytes) noexcept;

inline uint64_t aligned(uint64_t bytes) noexcept {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}
/** Where the first body of an IO block of `count` entries starts. */
inline uint64_t bodiesAt(uint64_t count) noexcept {
  return sizeof(IoBlockHeader) + count * sizeof(IoBlockEntry);
}
/** The longest IO block that this geometry allows, header and padding included. */
inline uint64_t maxIoBlockBytes(const Geometry& g) noexcept {
  return aligned(bodiesAt(g.blocksPerIoBlock) + g.ioBlockBytes());
}

}  // namespace ckptfs::format
