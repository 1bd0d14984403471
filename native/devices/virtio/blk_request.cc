#include "devices/virtio/blk_request.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace ckptfs {
namespace {

constexpr uint64_t kSector = Disk::kSectorBytes;
constexpr uint32_t kUnmap = 1;  // flag of a write-zeroes range

/** True when [sector, sector + count) is on the disk. */
bool onDisk(const Disk& disk, uint64_t sector, uint64_t count) {
  const uint64_t sectors = disk.bytes() / kSector;
  return sector <= sectors && count <= sectors - sector;
}

/** True when `length` bytes from `sector` make a read or a write. */
bool dataFits(const Disk& disk, uint64_t sector, uint64_t length) {
  return length % kSector == 0 && length <= BlkRequest::kDataLimitBytes &&
         onDisk(disk, sector, length / kSector);
}

}  // namespace

const BlkRequest::Entry BlkRequest::kOperations[] = {
    {0, &BlkRequest::checkRead, &BlkRequest::readDisk, false},
    {1, &BlkRequest::checkWrite, &BlkRequest::writeDisk, true},
    {4, &BlkRequest::checkNothing, &BlkRequest::flush, false},
    {8, &BlkRequest::checkNothing, &BlkRequest::getId, false},
    {11, &BlkRequest::checkDiscard, &BlkRequest::discard, true},
    {13, &BlkRequest::checkWriteZeroes, &BlkRequest::writeZeroes, true},
};

bool BlkRequest::wellFormed() const noexcept {
  return chain_.readableBytes >= sizeof(Header) && chain_.writableBytes >= 1;
}

bool BlkRequest::execute(const BlkTarget& target, bool writeThrough) noexcept {
  Outcome outcome = Outcome::ioError;
  written_ = 0;
  try {
    outcome = run(target, writeThrough);
  } catch (const Error& error) {
    if (target.onFailure) target.onFailure(error);
  } catch (const std::exception& error) {
    if (target.onFailure) target.onFailure(Error(Code::io, error.what()));
  }
  if (outcome == Outcome::noMemory) return false;
  const auto status = std::byte(outcome);
  if (!scatter(target.ram, chain_.writable, writableData(), {&status, 1})) return false;
  // The length tells how much is valid from the start of the writable part: after an error only the
  // status was stored, which counts as one byte.
  if (outcome != Outcome::ok) written_ = 0;
  ++written_;
  return true;
}

bool BlkRequest::accept(const BlkTarget& target) {
  if (!gather(target.ram, chain_.readable, 0, std::as_writable_bytes(std::span(&header_, 1))))
    return false;
  changes_.clear();
  verdict_ = check(target);
  if (verdict_ == Outcome::noMemory) return false;
  if (verdict_ != Outcome::ok) changes_.clear();
  disk_ = target.disk.pin(changes_);
  return true;
}

BlkRequest::Outcome BlkRequest::check(const BlkTarget& target) {
  entry_ = std::find_if(std::begin(kOperations), std::end(kOperations),
                        [this](const Entry& e) { return e.type == header_.type; });
  if (entry_ == std::end(kOperations)) return Outcome::unsupported;
  if (entry_->changesDisk && target.disk.readOnly()) return Outcome::ioError;
  return (this->*entry_->check)(target);
}

BlkRequest::Outcome BlkRequest::checkRead(const BlkTarget& target) {
  return dataFits(target.disk, header_.sector, writableData()) ? Outcome::ok : Outcome::ioError;
}

BlkRequest::Outcome BlkRequest::checkWrite(const BlkTarget& target) {
  const uint64_t length = readableData();
  if (!dataFits(target.disk, header_.sector, length)) return Outcome::ioError;
  if (length > 0) changes_.push_back({header_.sector * kSector, length});
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::checkWriteZeroes(const BlkTarget& target) {
  return checkRanges(target, kUnmap);
}

BlkRequest::Outcome BlkRequest::checkRanges(const BlkTarget& target, uint32_t knownFlags) {
  const uint64_t length = readableData();
  if (length == 0 || length % sizeof(Range) != 0 || length / sizeof(Range) > kRangesMax)
    return Outcome::ioError;
  ranges_.resize(length / sizeof(Range));
  if (!gather(target.ram, chain_.readable, sizeof(Header),
              std::as_writable_bytes(std::span(ranges_))))
    return Outcome::noMemory;
  for (const Range& range : ranges_) {
    if (range.flags & ~knownFlags) return Outcome::unsupported;
    if (range.sectors > kRangeSectorsMax || !onDisk(target.disk, range.sector, range.sectors))
      return Outcome::ioError;
    if (range.sectors != 0) changes_.push_back({range.sector * kSector, range.sectors * kSector});
  }
  return Outcome::ok;
}

Extent BlkRequest::reads() const noexcept {
  const bool reading = verdict_ == Outcome::ok && entry_->operation == &BlkRequest::readDisk;
  return reading ? Extent{header_.sector * kSector, writableData()} : Extent{};
}

bool BlkRequest::prepareMemory(const GuestRam& ram) const noexcept {
  return prepareGather(ram, chain_.readable) &&
         prepareScatter(ram, chain_.writable, 0, chain_.writableBytes);
}

BlkRequest::Outcome BlkRequest::run(const BlkTarget& target, bool writeThrough) {
  if (verdict_ != Outcome::ok) return verdict_;
  const Outcome outcome = (this->*entry_->operation)(target);
  if (outcome == Outcome::ok && entry_->changesDisk && writeThrough) disk_->flush();
  return outcome;
}

BlkRequest::Outcome BlkRequest::readDisk(const BlkTarget& target) {
  const uint64_t total = writableData();
  // Traced memory is saved before the read is issued (requirement A9).
  const auto buffers = writableBuffers(target.ram, chain_.writable, total);
  if (!buffers) return Outcome::noMemory;
  uint64_t offset = header_.sector * kSector;
  for (const auto buffer : *buffers) {
    disk_->read(offset, buffer);
    offset += buffer.size();
  }
  written_ = uint32_t(total);
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::writeDisk(const BlkTarget& target) {
  const auto buffers = readableBuffers(target.ram, chain_.readable, sizeof(Header));
  if (!buffers) return Outcome::noMemory;
  disk_->writev(header_.sector * kSector, *buffers);
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::flush(const BlkTarget&) {
  disk_->flush();
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::getId(const BlkTarget& target) {
  std::byte id[kIdBytes] = {};
  std::transform(target.id.begin(),
                 target.id.begin() + ptrdiff_t(std::min(target.id.size(), kIdBytes)), id,
                 [](char c) { return std::byte(c); });
  const uint64_t length = std::min<uint64_t>(writableData(), kIdBytes);
  if (!scatter(target.ram, chain_.writable, 0, std::span(id).first(length)))
    return Outcome::noMemory;
  written_ = uint32_t(length);
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::discard(const BlkTarget&) {
  for (const Extent& range : changes_) disk_->discard(range.offset, range.length);
  return Outcome::ok;
}

BlkRequest::Outcome BlkRequest::writeZeroes(const BlkTarget&) {
  for (const Range& range : ranges_)
    if (range.sectors != 0)
      disk_->writeZeroes(range.sector * kSector, range.sectors * kSector,
                         (range.flags & kUnmap) != 0);
  return Outcome::ok;
}

}  // namespace ckptfs
