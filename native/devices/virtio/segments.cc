#include "devices/virtio/segments.h"

#include <algorithm>
#include <cstring>

namespace ckptfs {
namespace {

/** Calls visit(address, position, count) for every piece of [skip, skip + length); stops on false.
 */
template <class Visit>
bool forEachPiece(std::span<const Segment> segments, uint64_t skip, uint64_t length, Visit visit) {
  uint64_t position = 0;
  for (const Segment& segment : segments) {
    if (position == length) break;
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    const uint64_t count = std::min(segment.length - skip, length - position);
    if (!visit(segment.address + skip, position, count)) return false;
    position += count;
    skip = 0;
  }
  return true;
}

}  // namespace

bool gather(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
            std::span<std::byte> into) noexcept {
  return forEachPiece(segments, skip, into.size(),
                      [&](uint64_t address, uint64_t position, uint64_t count) {
                        const auto bytes = ram.readable(address, count);
                        if (bytes.empty()) return false;
                        std::memcpy(into.data() + position, bytes.data(), count);
                        return true;
                      });
}

bool scatter(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
             std::span<const std::byte> from) noexcept {
  return forEachPiece(segments, skip, from.size(),
                      [&](uint64_t address, uint64_t position, uint64_t count) {
                        const auto bytes = ram.writable(address, count);
                        if (bytes.empty()) return false;
                        std::memcpy(bytes.data(), from.data() + position, count);
                        return true;
                      });
}

namespace {

template <class Byte>
void add(std::vector<std::span<Byte>>& buffers, std::span<Byte> bytes) {
  if (bytes.empty()) return;
  if (!buffers.empty() && buffers.back().data() + buffers.back().size() == bytes.data())
    buffers.back() = {buffers.back().data(), buffers.back().size() + bytes.size()};
  else
    buffers.push_back(bytes);
}

}  // namespace

std::optional<std::vector<std::span<const std::byte>>> readableBuffers(
    const GuestRam& ram, std::span<const Segment> segments, uint64_t skip) {
  std::vector<std::span<const std::byte>> buffers;
  const auto take = [&](uint64_t address, uint64_t, uint64_t count) {
    const auto bytes = ram.readable(address, count);
    add(buffers, bytes);
    return count == 0 || !bytes.empty();
  };
  if (!forEachPiece(segments, skip, UINT64_MAX, take)) return {};
  return buffers;
}

std::optional<std::vector<std::span<std::byte>>> writableBuffers(const GuestRam& ram,
                                                                 std::span<const Segment> segments,
                                                                 uint64_t length) {
  std::vector<std::span<std::byte>> buffers;
  const auto take = [&](uint64_t address, uint64_t, uint64_t count) {
    const auto bytes = ram.writable(address, count);
    add(buffers, bytes);
    return count == 0 || !bytes.empty();
  };
  if (!forEachPiece(segments, 0, length, take)) return {};
  return buffers;
}

bool prepareGather(const GuestRam& ram, std::span<const Segment> segments) noexcept {
  return std::all_of(segments.begin(), segments.end(), [&](const Segment& segment) {
    return segment.length == 0 || !ram.readable(segment.address, segment.length).empty();
  });
}

bool prepareScatter(const GuestRam& ram, std::span<const Segment> segments, uint64_t skip,
                    uint64_t length) noexcept {
  return forEachPiece(segments, skip, length, [&](uint64_t address, uint64_t, uint64_t count) {
    return !ram.writable(address, count).empty();
  });
}

}  // namespace ckptfs
