#include "disk/overlay.h"

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <utility>
#include <vector>

namespace ckptfs {

Overlay::Overlay(std::shared_ptr<Chain> chain, const std::string& path) : chain_(std::move(chain)) {
  std::error_code unknown;
  const bool kept = std::filesystem::exists(path, unknown);
  chain_->push(kept ? RedoLog::open(path, RedoLog::Mode::writer) : chain_->prepare(path));
}

void Overlay::requireRange(uint64_t offset, uint64_t length) const {
  if (offset > bytes() || length > bytes() - offset)
    throw Error(Code::usage, "a write of " + std::to_string(length) + " bytes at " +
                                 std::to_string(offset) + " goes beyond the end of disk " +
                                 chain_->parentPath());
}

void Overlay::write(uint64_t offset, std::span<const std::byte> from) {
  requireRange(offset, from.size());
  if (from.empty()) return;
  if (offset % Disk::kSectorBytes != 0 || from.size() % Disk::kSectorBytes != 0) {
    const std::unique_lock lock(sectors_);
    return writeParts(offset, from);
  }
  const std::shared_lock lock(sectors_);
  chain_->write(offset, from);
}

void Overlay::zero(uint64_t offset, uint64_t length) {
  requireRange(offset, length);
  constexpr uint64_t kSector = Disk::kSectorBytes;
  const uint64_t first = (offset + kSector - 1) / kSector * kSector;
  const uint64_t end = (offset + length) / kSector * kSector;
  const std::vector<std::byte> zeros(2 * kSector);
  const auto writeZeros = [&](uint64_t from, uint64_t to) {
    write(from, std::span(zeros).first(to - from));
  };
  if (first >= end) return writeZeros(offset, offset + length);  // no sector is covered
  writeZeros(offset, first);
  {
    const std::shared_lock lock(sectors_);
    chain_->writeZeroes(first, end - first, true);
  }
  writeZeros(end, offset + length);
}

// As whole sectors: those at its ends are filled up with what the disk has there.
void Overlay::writeParts(uint64_t offset, std::span<const std::byte> from) {
  constexpr uint64_t kSector = Disk::kSectorBytes;
  const uint64_t first = offset / kSector * kSector;
  const uint64_t end = (offset + from.size() + kSector - 1) / kSector * kSector;
  std::vector<std::byte> whole(end - first);
  const std::span<std::byte> sectors(whole);
  chain_->read(first, sectors.first(kSector));
  if (whole.size() > kSector) chain_->read(end - kSector, sectors.last(kSector));
  std::copy(from.begin(), from.end(), whole.begin() + ptrdiff_t(offset - first));
  chain_->write(first, whole);
}

}  // namespace ckptfs
