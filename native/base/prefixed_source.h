// Bytes in memory in front of a source, as one source: the header of a file whose rest is RAM.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/byte_source.h"

namespace ckptfs {

/** `front`, then all of `source`; to be read only. */
inline ByteSource prefixed(std::vector<std::byte> front, ByteSource source) {
  const uint64_t bytes = front.size() + source.bytes;
  const auto header = std::make_shared<const std::vector<std::byte>>(std::move(front));
  ByteSource all{.bytes = bytes, .read = {}};
  if (source.run) {
    all.run = [header, run = source.run](uint64_t offset) {
      return offset < header->size() ? ByteRun{header->size() - offset, false}
                                     : run(offset - header->size());
    };
  }
  all.read = [header, source = std::move(source)](uint64_t offset, std::span<std::byte> into) {
    if (offset < header->size()) {
      const size_t length = std::min<size_t>(header->size() - offset, into.size());
      std::memcpy(into.data(), header->data() + offset, length);
      into = into.subspan(length);
      offset += length;
    }
    if (!into.empty()) source.read(offset - header->size(), into);
  };
  return all;
}

}  // namespace ckptfs
