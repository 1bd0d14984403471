// The order file: in which order a guest needed the memory of a checkpoint when it was restored
// last, so that the next restore loads it in that order (requirement F3).
//
// It only helps: one that is missing, damaged, of another version or of another checkpoint counts
// as empty, and nothing is ever wrong because of it. docs/checkpoint-format.md has the bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/geometry.h"

namespace ckptfs {

/** Memory block ids, each at most once, the one needed first at the front. */
using NeedOrder = std::vector<uint32_t>;

/** Reads the order for the checkpoint `id` of `blocks` memory blocks; empty if there is none that
 *  can be used. */
NeedOrder readOrderFile(const std::string& path, const std::string& id, uint64_t blocks);

/** Replaces the file as a whole (written under another name, synced, renamed). `id` has at most 32
 *  bytes. Throws Error; then the file is as before. */
void writeOrderFile(const std::string& path, const std::string& id,
                    std::span<const uint32_t> order);

}  // namespace ckptfs
