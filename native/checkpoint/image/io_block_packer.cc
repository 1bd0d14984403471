#include "checkpoint/image/io_block_packer.h"

namespace ckptfs {

using namespace format;

namespace {
constexpr size_t kHeaderPieces = 2;
alignas(kAlignment) constexpr std::byte kPadding[kAlignment] = {};
}  // namespace

IoBlockPacker::IoBlockPacker(const Geometry& geometry, Codec codec)
    : geometry_(geometry), encoder_(codec), encoded_(geometry.ioBlockBytes()) {
  entries_.reserve(geometry.blocksPerIoBlock);
  pieces_.reserve(kHeaderPieces + geometry.blocksPerIoBlock + 1);
  clear();
}

void IoBlockPacker::clear() noexcept {
  entries_.clear();
  pieces_.resize(kHeaderPieces);
  encodedBytes_ = 0;
  bodyBytes_ = 0;
}

void IoBlockPacker::add(BlockId block, const std::byte* raw, uint64_t rawHash) noexcept {
  const auto [codec, body] =
      encoder_.encode({raw, geometry_.blockBytes()}, encoded_.data() + encodedBytes_);
  const bool encoded = body.data() != raw;
  if (encoded) encodedBytes_ += body.size();
  addBody(
      {block, static_cast<uint32_t>(body.size()), codec, {}, encoded ? checksumOf(body) : rawHash},
      body.data());
}

void IoBlockPacker::addBody(const IoBlockEntry& entry, const std::byte* body) noexcept {
  iovec& last = pieces_.back();
  if (!entries_.empty() && static_cast<std::byte*>(last.iov_base) + last.iov_len == body)
    last.iov_len += entry.stored;
  else
    pieces_.push_back({const_cast<std::byte*>(body), entry.stored});
  entries_.push_back(entry);
  bodyBytes_ += entry.stored;
}

uint32_t IoBlockPacker::bytes() const noexcept {
  return static_cast<uint32_t>(aligned(bodiesAt(entries_.size()) + bodyBytes_));
}

std::span<const iovec> IoBlockPacker::finish(uint64_t sequence) noexcept {
  std::memcpy(header_.magic, kIoBlockMagic, sizeof header_.magic);
  header_.sequence = sequence;
  header_.count = static_cast<uint32_t>(entries_.size());
  header_.bytes = bytes();
  header_.bodyBytes = static_cast<uint32_t>(bodyBytes_);
  const auto entries = std::as_bytes(std::span(entries_));
  header_.checksum = checksumOf(
      std::as_bytes(std::span(&header_, 1)).first(offsetof(IoBlockHeader, checksum)), entries);
  pieces_[0] = {&header_, sizeof header_};
  pieces_[1] = {entries_.data(), entries.size()};
  const uint64_t used = bodiesAt(entries_.size()) + bodyBytes_;
  if (used < header_.bytes)
    pieces_.push_back({const_cast<std::byte*>(kPadding), header_.bytes - used});
  return pieces_;
}

}  // namespace ckptfs
