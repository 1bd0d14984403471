// What differs between the memories of two checkpoints (requirement F4).
//
// Most of it is known without reading: blocks whose bodies are one and the same in a shared
// segment. Everything else is read, checked and compared, so that the answer is about contents: a
// block that was written and then restored to what it was has not changed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"

namespace ckptfs {

struct MemoryDiff {
  /** Bytes [offset, offset + bytes) of RAM, whole blocks. */
  struct Range {
    uint64_t offset;
    uint64_t bytes;
  };

  uint64_t memoryBytes = 0;
  /** What is compared as one: the smaller of the two checkpoints' memory blocks. */
  uint64_t blockBytes = 0;
  uint64_t blocks = 0;
  uint64_t changedBlocks = 0;
  uint64_t changedBytes = 0;       // of whole blocks
  std::vector<Range> ranges = {};  // ascending, apart from one another
  bool truncated = false;          // there are more ranges than were asked for
};

struct DiffOptions {
  size_t maxRanges = 10'000;
  unsigned threads = 2;
};

/** Compares the memory images in two checkpoint directories. Throws Error: usage when the memories
 *  are not of the same size, damaged, io, cancelled. `progress` counts bytes of memory. */
MemoryDiff diffMemoryImages(const std::string& before, const std::string& after, Progress& progress,
                            const DiffOptions& options = {});

}  // namespace ckptfs
