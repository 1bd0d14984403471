#include "checkpoint/image/segment.h"

#include <sys/random.h>

#include <cerrno>

#include "base/error.h"

namespace ckptfs {

using namespace format;

namespace {

// Whenever so much has been appended it is sent to the device, which then has little left to do
// when the file is made durable; and it gets no burst that the guest's own requests would wait
// behind.
constexpr uint64_t kWindowBytes = 16 << 20;

void makeSegmentId(SegmentId& id) {
  if (getrandom(&id, sizeof id, 0) != sizeof id) throwErrno(errno, "cannot make a segment id");
}

std::string segmentFileName(const SegmentId& id, SegmentKind kind) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string name;
  for (const std::byte b : id) {
    name += kDigits[std::to_integer<unsigned>(b) >> 4];
    name += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return name + (kind == SegmentKind::hot ? ".hot" : ".cold");
}

CheckpointFile createSegment(const std::string& directory, SegmentId& id, SegmentKind kind) {
  makeSegmentId(id);
  return CheckpointFile::create(directory + "/" + segmentFileName(id, kind));
}

}  // namespace

SegmentWriter::SegmentWriter(const std::string& directory, SegmentKind kind,
                             const Geometry& geometry, uint64_t memoryBytes)
    : kind_(kind), file_(createSegment(directory, id_, kind)) {
  SegmentHeader header = {};
  std::memcpy(header.magic, kSegmentMagic, sizeof header.magic);
  header.version = kVersion;
  header.headerBytes = kAlignment;
  std::memcpy(header.id, id_, sizeof id_);
  header.pageBytes = geometry.pageBytes;
  header.pagesPerBlock = geometry.pagesPerBlock;
  header.blocksPerIoBlock = geometry.blocksPerIoBlock;
  header.kind = kind;
  header.memoryBytes = memoryBytes;
  header.checksum = headerChecksum(header);
  std::vector<std::byte> page(kAlignment);
  put(page, 0, header);
  file_.write(0, page);
  bytes_ = kAlignment;
}

uint64_t SegmentWriter::append(IoBlockPacker& ioBlock) {
  uint64_t offset = 0, sequence = 0;
  {
    const std::lock_guard lock(lock_);
    offset = bytes_;
    sequence = ioBlocks_++;
    bytes_ += ioBlock.bytes();
    blocks_ += ioBlock.entries().size();
  }
  file_.write(offset, ioBlock.finish(sequence));
  const uint64_t window = (offset + ioBlock.bytes()) / kWindowBytes;
  if (window > offset / kWindowBytes)
    file_.startWriteback((window - 1) * kWindowBytes, kWindowBytes);
  return offset;
}

void SegmentWriter::seal() {
  SegmentSeal seal = {};
  std::memcpy(seal.magic, kSealMagic, sizeof seal.magic);
  seal.ioBlocks = ioBlocks_;
  seal.blocks = blocks_;
  seal.bytes = bytes_ + kAlignment;
  seal.checksum = headerChecksum(seal);
  std::vector<std::byte> page(kAlignment);
  put(page, 0, seal);
  file_.write(bytes_, page);
  bytes_ = seal.bytes;
  file_.sync();
}

MapSegment SegmentWriter::description() const {
  MapSegment row = {};
  std::memcpy(row.id, id_, sizeof id_);
  row.kind = kind_;
  row.bytes = bytes_;
  row.ioBlocks = ioBlocks_;
  const std::string name = segmentFileName(id_, kind_);
  std::memcpy(row.name, name.data(), name.size());
  return row;
}

const char* checkIoBlock(std::span<const std::byte> ioBlock, const Geometry& geometry) noexcept {
  if (ioBlock.size() < sizeof(IoBlockHeader)) return "IO block header is cut off";
  const auto header = take<IoBlockHeader>(ioBlock);
  if (std::memcmp(header.magic, kIoBlockMagic, sizeof header.magic) != 0)
    return "not an IO block (magic)";
  if (header.count == 0 || header.count > geometry.blocksPerIoBlock || header.reserved != 0 ||
      header.bytes > ioBlock.size() ||
      header.bytes != aligned(bodiesAt(header.count) + uint64_t{header.bodyBytes}))
    return "IO block header is inconsistent";
  if (header.checksum !=
      checksumOf(ioBlock.first(offsetof(IoBlockHeader, checksum)),
                 ioBlock.subspan(sizeof header, header.count * sizeof(IoBlockEntry))))
    return "IO block header checksum mismatch";
  uint64_t bodyBytes = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    const auto entry = take<IoBlockEntry>(ioBlock, sizeof header + i * sizeof(IoBlockEntry));
    if (!isBodyLength(entry.codec, entry.stored, geometry.blockBytes()) || entry.reserved[0] != 0 ||
        entry.reserved[1] != 0 || entry.reserved[2] != 0)
      return "IO block entry is inconsistent";
    bodyBytes += entry.stored;
  }
  return bodyBytes == header.bodyBytes ? nullptr : "IO block lengths do not add up";
}

SegmentHeader readSegmentHeader(const CheckpointFile& file) {
  const auto damaged = [&](const char* what) {
    throw Error(Code::damaged, file.path() + ": " + what);
  };
  std::vector<std::byte> page(kAlignment);
  file.read(0, page);
  const auto header = take<SegmentHeader>(page);
  if (std::memcmp(header.magic, kSegmentMagic, sizeof header.magic) != 0)
    damaged("not a segment (magic)");
  if (header.version != kVersion)
    throw Error(Code::unsupported, file.path() + ": segment version " +
                                       std::to_string(header.version) +
                                       "; this build reads version " + std::to_string(kVersion));
  if (header.checksum != headerChecksum(header)) damaged("header checksum mismatch");
  if (header.headerBytes != kAlignment ||
      (header.kind != SegmentKind::hot && header.kind != SegmentKind::cold) ||
      !isZero(std::span(page).subspan(sizeof header)))
    damaged("header is inconsistent");
  return header;
}

SegmentSeal readSegmentSeal(const CheckpointFile& file, uint64_t bytes) {
  const auto damaged = [&](const char* what) {
    throw Error(Code::damaged, file.path() + ": " + what);
  };
  if (bytes < 2 * kAlignment || bytes % kAlignment != 0) damaged("size is not that of a segment");
  std::vector<std::byte> page(kAlignment);
  file.read(bytes - kAlignment, page);
  const auto seal = take<SegmentSeal>(page);
  if (std::memcmp(seal.magic, kSealMagic, sizeof seal.magic) != 0)
    damaged("no seal at the end: cut off, or never finished");
  if (seal.checksum != headerChecksum(seal) || seal.bytes != bytes ||
      !isZero(std::span(page).subspan(sizeof seal)))
    damaged("seal is inconsistent");
  return seal;
}

}  // namespace ckptfs
