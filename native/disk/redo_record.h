// The bytes of a redo log: its header, its records, and what makes either valid.
//
// docs/disk-format.md describes them; the structs below are that layout in memory (little-endian).
// Everything begins at a multiple of 512 bytes. A Record is one record being built, owned by one
// thread. A RecordReader looks at one record after another of an open file, owned by one thread.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "disk/file.h"
#include "disk/redo_index.h"
#include "disk/sealed_index.h"

namespace ckptfs {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

using LogId = std::array<uint8_t, 16>;

constexpr uint64_t kRedoAlignBytes = 512;
constexpr uint64_t kMaxDataBlocks = 1024;  // in one data record
constexpr uint32_t kMinBlockBytes = 512, kMaxBlockBytes = 65536;

/** The first 512 bytes of a redo log. */
struct RedoHeader {
  static constexpr char kMagic[8] = {'C', 'K', 'P', 'T', 'R', 'E', 'D', 'O'};
  static constexpr uint32_t kVersion = 1;

  char magic[8];
  uint32_t version;
  uint32_t headerBytes;
  uint64_t diskBytes;
  uint32_t blockBytes;
  uint32_t reserved;
  LogId id;
  LogId parentId;
  uint8_t zero[440];
  uint64_t checksum;

  static RedoHeader make(uint64_t diskBytes, uint32_t blockBytes, const LogId& id,
                         const LogId& parentId);
  /** Reads and checks it; throws Error(damaged), or unsupported for a later version. */
  static RedoHeader load(const File& file);

  uint64_t blocks() const noexcept { return (diskBytes + blockBytes - 1) / blockBytes; }
  /** Binds checksums of records to this log, so that no other log's (nor a guest's) bytes pass for
   * one. */
  uint64_t seed() const noexcept {
    uint64_t seed;
    std::memcpy(&seed, id.data(), sizeof seed);
    return seed;
  }
};
static_assert(sizeof(RedoHeader) == 512 && offsetof(RedoHeader, id) == 32 &&
              offsetof(RedoHeader, checksum) == 504);

enum class RecordType : uint32_t { data = 1, zeroes = 2, mark = 3, index = 4, seal = 5 };

/** The first 64 bytes of a record. */
struct RecordHeader {
  static constexpr char kMagic[8] = {'c', 'k', 'p', 't', 'R', 'E', 'C', '1'};

  char magic[8];
  RecordType type;
  uint32_t reserved;
  uint64_t sequence;  // 1, 2, 3, ... without a gap
  uint64_t first;  // data, zeroes: block. index: number of zero extents. seal: offset of the index
  uint64_t count;  // data, zeroes: blocks. index: number of entries. seal: bytes of the file
  uint64_t durable;  // this many bytes of the log were durable when the record was written
  uint64_t reserved2;
  uint64_t checksum;  // of the whole head, seeded, with this field 0
};
static_assert(sizeof(RecordHeader) == 64 && offsetof(RecordHeader, checksum) == 56);
static_assert(sizeof(IndexEntry) == 24 && sizeof(ZeroExtent) == 16);

/** Bytes of a record without its data; `first` and `count` as in its header. */
uint64_t recordHeadBytes(RecordType type, uint64_t first, uint64_t count);

class Record {
 public:
  /** Room for `count` (1..kMaxDataBlocks) blocks, to be filled through data(). */
  static Record data(uint64_t first, uint64_t count, uint32_t blockBytes);
  static Record zeroes(uint64_t first, uint64_t count);
  static Record mark();
  static Record index(const SealedIndex& index);
  static Record seal(uint64_t indexOffset, uint64_t fileBytes);

  const RecordHeader& header() const noexcept { return header_; }
  std::span<std::byte> data() noexcept { return {bytes_.get() + headBytes_, dataBytes_}; }
  uint64_t headBytes() const noexcept { return headBytes_; }
  std::span<const uint64_t> checksums() const noexcept { return checksums_; }
  /** The whole record; finish() comes first. */
  std::span<const std::byte> bytes() const noexcept {
    return {bytes_.get(), headBytes_ + dataBytes_};
  }

  /** Computes the checksums of the blocks. */
  void sum();
  void finish(uint64_t sequence, uint64_t durable, uint64_t seed);

 private:
  Record(RecordType type, uint64_t first, uint64_t count, uint64_t dataBytes);

  RecordHeader header_;
  uint64_t headBytes_;
  uint64_t dataBytes_;
  std::unique_ptr<std::byte[]> bytes_;
  std::vector<uint64_t> checksums_;
};

class RecordReader {
 public:
  /** Looks at the first `fileBytes` bytes of the log. */
  RecordReader(const File& file, const RedoHeader& log, uint64_t fileBytes)
      : file_(file), log_(log), fileBytes_(fileBytes) {}

  /** Whether a valid head stands at `offset`, of a record that lies within the file; else see
   * why(). */
  bool load(uint64_t offset);
  /** What was wrong with the record that load() or dataValid() refused. */
  const std::string& why() const noexcept { return why_; }

  /** Of the record loaded last: */
  const RecordHeader& header() const noexcept { return header_; }
  uint64_t offset() const noexcept { return offset_; }
  uint64_t end() const noexcept { return dataOffset_ + dataBytes_; }
  /** Whether every block of a data record has its checksum. */
  bool dataValid();
  /** Lets a record of data or zeroes act on `index`; others say nothing new. */
  void applyTo(RedoIndex& index) const;
  /** What an index record says, in the memory it was read to. Throws Error(damaged) if it
   * contradicts itself. */
  SealedIndex index() const;

 private:
  bool refuse(const std::string& why);
  const char* fault() const;
  std::span<const uint64_t> checksums() const;

  const File& file_;
  const RedoHeader& log_;
  uint64_t fileBytes_;
  uint64_t offset_ = 0, dataOffset_ = 0, dataBytes_ = 0;
  RecordHeader header_ = {};
  std::shared_ptr<std::byte[]> head_;  // aligned, so that entries can be used in place
  std::string why_;
};

/** xxh3-64 of a block's data, unseeded. */
uint64_t blockChecksum(std::span<const std::byte> block) noexcept;

}  // namespace ckptfs
