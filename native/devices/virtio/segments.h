// The scattered guest memory of one request, and copies between it and host buffers.
//
// Lengths and addresses were checked when the chain was taken from its queue: every segment is RAM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "devices/guest_ram.h"

namespace ckptfs {

/** Guest-physical bytes [address, address + length). */
struct Segment {
  uint64_t address = 0;
  uint32_t length = 0;
  bool operator==(const Segment&) const = default;
};

/** Fills `into` from the bytes at `skip` of the concatenated segments, which must be long enough.
 *  False when the memory cannot be loaded now. */
bool gather(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
            std::span<std::byte> into) noexcept;
/** The inverse; false when the memory cannot be loaded or saved now. */
bool scatter(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
             std::span<const std::byte> from) noexcept;
/** The bytes from `skip` on in the host view, to be read; pieces that adjoin are one. None when the
 *  memory cannot be loaded now. */
std::optional<std::vector<std::span<const std::byte>>> readableBuffers(
    const GuestRam& ram, std::span<const Segment> segments, uint64_t skip);
/** The first `length` bytes, to be written. None when it cannot be loaded or saved now. */
std::optional<std::vector<std::span<std::byte>>> writableBuffers(const GuestRam& ram,
                                                                 std::span<const Segment> segments,
                                                                 uint64_t length);
/** Makes all of the segments ready to be read; false when that cannot be done now. */
bool prepareGather(const GuestRam& ram, std::span<const Segment> segments) noexcept;
/** Makes `length` bytes at `skip` ready to be written, before they are read from a disk (A9). */
bool prepareScatter(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
                    uint64_t length) noexcept;

}  // namespace ckptfs
