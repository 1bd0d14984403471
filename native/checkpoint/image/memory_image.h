// An opened checkpoint: guest memory as memory.map and its segments describe it.
//
// Immutable after construction and safe from any thread. Every body is checked against the map's
// checksum before it is decoded, so that a reader gets true bytes or a failure (requirement F5).
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/byte_source.h"
#include "base/error.h"
#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/image/memory_map.h"

namespace ckptfs {

/** Why a block could not be had; plain data, because faults must not allocate. */
struct BlockFault {
  const char* what = nullptr;  // a literal; null: `err` says it
  int err = 0;
  BlockId block = 0;
};

class MemoryImage {
 public:
  /** Opens memory.map in `directory` and checks all segments' headers, seals and sizes. Throws
   * Error. The directory may be exchanged for a compacted one meanwhile. */
  explicit MemoryImage(const std::string& directory) : MemoryImage(open(directory)) {}
  ~MemoryImage();

  uint64_t bytes() const noexcept { return map_.memoryBytes; }
  const MemoryMap& map() const noexcept { return map_; }

  /** Reads from `offset`, short at the end of memory; the number of bytes. Throws Error(damaged)
   * naming segment, offset and block, or Error(io). */
  size_t read(uint64_t offset, std::span<std::byte> into) const;

  /** From `offset`, within memory, on: blocks of zeros are holes, all others are stored. */
  ByteRun run(uint64_t offset) const noexcept;

  /** Reads a whole IO block for the sake of `block`. `into` holds maxIoBlockBytes(). For fault
   * paths. */
  bool loadIoBlock(uint32_t ioBlock, BlockId block, std::span<std::byte> into,
                   BlockFault& fault) const noexcept;
  /** The checked contents of a block out of its loaded IO block: where they lie in it, or decoded
   * into `scratch` of blockBytes; null when they are damaged. For fault paths. */
  const std::byte* contents(BlockId block, std::span<const std::byte> ioBlock,
                            std::span<std::byte> scratch, BlockFault& fault) const noexcept;
  Error describe(const BlockFault& fault) const;

  /** Opens the segment files again by name, after they were repaired or replaced; those whose names
   *  are gone stay as they are. Throws Error. */
  void reopen() const;

 private:
  class Cache;
  struct Files {
    MemoryMap map;
    std::vector<CheckpointFile> segments;
  };
  static Files open(const std::string& directory);
  explicit MemoryImage(Files&& files);
  void checkSegments() const;
  bool decode(BlockId block, std::span<const std::byte> body, std::span<std::byte> raw,
              BlockFault& fault) const noexcept;
  void readBlock(BlockId block, std::span<std::byte> raw) const;  // not for codec zero

  const MemoryMap map_;
  std::vector<CheckpointFile> segments_;
  const std::unique_ptr<Cache> cache_;
};

}  // namespace ckptfs
