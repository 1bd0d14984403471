// Packs memory blocks into one IO block (requirement B8), for SegmentWriter::append().
//
// Belongs to one thread. Bodies that stay as they are, because they are stored raw or came encoded,
// are not copied: they are written from where they lie.
#pragma once

#include <sys/uio.h>

#include <span>
#include <vector>

#include "checkpoint/image/block_codec.h"
#include "checkpoint/image/format.h"

namespace ckptfs {

class IoBlockPacker {
 public:
  /** `codec`: of add(). Throws Error. */
  IoBlockPacker(const Geometry& geometry, format::Codec codec);

  /** Starts the next IO block. */
  void clear() noexcept;
  bool empty() const noexcept { return entries_.empty(); }
  bool full() const noexcept { return entries_.size() == geometry_.blocksPerIoBlock; }

  /** Encodes a block of blockBytes, which stays as it is until the IO block is written. `rawHash`:
   *  checksumOf() it. Not when full. */
  void add(BlockId block, const std::byte* raw, uint64_t rawHash) noexcept;
  /** Takes over a body of entry.stored bytes, which stays as it is until the IO block is written.
   */
  void addBody(const format::IoBlockEntry& entry, const std::byte* body) noexcept;

  std::span<const format::IoBlockEntry> entries() const noexcept { return entries_; }
  /** Length of the whole IO block. */
  uint32_t bytes() const noexcept;

  /** Completes the IO block as number `sequence` of its segment: its pieces, to be written one
   *  after another; valid until the next call. */
  std::span<const iovec> finish(uint64_t sequence) noexcept;
  /** The header's checksum, after finish(). */
  uint64_t checksum() const noexcept { return header_.checksum; }

 private:
  const Geometry geometry_;
  BlockEncoder encoder_;
  format::IoBlockHeader header_ = {};
  std::vector<format::IoBlockEntry> entries_;  // within its reserve, like pieces_
  std::vector<iovec> pieces_;                  // header, entries, bodies; neighbours are joined
  std::vector<std::byte> encoded_;             // bodies that the encoder made
  size_t encodedBytes_ = 0;
  uint64_t bodyBytes_ = 0;
};

}  // namespace ckptfs
