#include "disk/redo_record.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/page_buffer.h"
#include "base/xxh3.h"

namespace ckptfs {
namespace {

uint64_t headerChecksum(const RedoHeader& header) {
  return XXH3_64bits(&header, offsetof(RedoHeader, checksum));
}

}  // namespace

// Both counts are bounded by the caller to what fits a file, so nothing here can overflow.
uint64_t recordHeadBytes(RecordType type, uint64_t first, uint64_t count) {
  uint64_t bytes = sizeof(RecordHeader);
  if (type == RecordType::data) bytes += count * sizeof(uint64_t);
  if (type == RecordType::index) bytes += count * sizeof(IndexEntry) + first * sizeof(ZeroExtent);
  return (bytes + kRedoAlignBytes - 1) / kRedoAlignBytes * kRedoAlignBytes;
}

uint64_t blockChecksum(std::span<const std::byte> block) noexcept {
  return XXH3_64bits(block.data(), block.size());
}

RedoHeader RedoHeader::make(uint64_t diskBytes, uint32_t blockBytes, const LogId& id,
                            const LogId& parentId) {
  RedoHeader header = {};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.headerBytes = sizeof header;
  header.diskBytes = diskBytes;
  header.blockBytes = blockBytes;
  header.id = id;
  header.parentId = parentId;
  header.checksum = headerChecksum(header);
  return header;
}

RedoHeader RedoHeader::load(const File& file) {
  const auto damaged = [&](const char* what) {
    return Error(Code::damaged,
                 file.name() + " is damaged: " + what + "; restore it from a backup");
  };
  RedoHeader header;
  if (file.bytes() < sizeof header) throw damaged("it is shorter than its header");
  file.read(0, std::as_writable_bytes(std::span(&header, 1)));
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    throw damaged("it has no redo log header");
  // These 512 bytes keep their form in every version, so a flipped version is damage, not news.
  if (header.checksum != headerChecksum(header))
    throw damaged("its header does not match its checksum");
  if (header.version != kVersion)
    throw Error(Code::unsupported, file.name() + " has format version " +
                                       std::to_string(header.version) +
                                       "; this build reads version " + std::to_string(kVersion));
  if (header.headerBytes != sizeof header || header.reserved != 0 ||
      std::any_of(std::begin(header.zero), std::end(header.zero),
                  [](uint8_t b) { return b != 0; }) ||
      !std::has_single_bit(header.blockBytes) || header.blockBytes < kMinBlockBytes ||
      header.blockBytes > kMaxBlockBytes || header.diskBytes == 0 || header.diskBytes % 512 != 0 ||
      header.diskBytes >> 62 != 0)
    throw damaged("its header holds impossible values");
  return header;
}

Record::Record(RecordType type, uint64_t first, uint64_t count, uint64_t dataBytes)
    : header_{},
      headBytes_(recordHeadBytes(type, first, count)),
      dataBytes_(dataBytes),
      bytes_(std::make_unique_for_overwrite<std::byte[]>(headBytes_ + dataBytes)) {
  std::memcpy(header_.magic, RecordHeader::kMagic, sizeof header_.magic);
  header_.type = type;
  header_.first = first;
  header_.count = count;
  std::memset(bytes_.get(), 0, headBytes_);
}

Record Record::data(uint64_t first, uint64_t count, uint32_t blockBytes) {
  Record record(RecordType::data, first, count, count * blockBytes);
  record.checksums_.resize(count);
  return record;
}

Record Record::zeroes(uint64_t first, uint64_t count) {
  return Record(RecordType::zeroes, first, count, 0);
}

Record Record::mark() {
  return Record(RecordType::mark, 0, 0, 0);
}

Record Record::index(const SealedIndex& index) {
  const auto entries = std::as_bytes(index.entries()), extents = std::as_bytes(index.extents());
  Record record(RecordType::index, index.extents().size(), index.entries().size(), 0);
  std::byte* const at = record.bytes_.get() + sizeof(RecordHeader);
  std::copy(extents.begin(), extents.end(), std::copy(entries.begin(), entries.end(), at));
  return record;
}

Record Record::seal(uint64_t indexOffset, uint64_t fileBytes) {
  return Record(RecordType::seal, indexOffset, fileBytes, 0);
}

void Record::sum() {
  const uint64_t blockBytes = dataBytes_ / checksums_.size();
  for (size_t i = 0; i < checksums_.size(); i++)
    checksums_[i] = blockChecksum(data().subspan(i * blockBytes, blockBytes));
  std::memcpy(bytes_.get() + sizeof(RecordHeader), checksums_.data(),
              checksums_.size() * sizeof(uint64_t));
}

void Record::finish(uint64_t sequence, uint64_t durable, uint64_t seed) {
  header_.sequence = sequence;
  header_.durable = durable;
  header_.checksum = 0;
  std::memcpy(bytes_.get(), &header_, sizeof header_);
  header_.checksum = XXH3_64bits_withSeed(bytes_.get(), headBytes_, seed);
  std::memcpy(bytes_.get(), &header_, sizeof header_);
}

bool RecordReader::refuse(const std::string& why) {
  why_ = "record at byte " + std::to_string(offset_) + ": " + why;
  return false;
}

// What is impossible about header_, or null. Bounds counts before sizes are made of them.
const char* RecordReader::fault() const {
  const RecordHeader& h = header_;
  const uint64_t blocks = log_.blocks();
  if (std::memcmp(h.magic, RecordHeader::kMagic, sizeof h.magic) != 0)
    return "no record begins here";
  if (h.reserved != 0 || h.reserved2 != 0) return "reserved bytes are not zero";
  if (h.durable > offset_) return "it vouches for bytes after itself";
  switch (h.type) {
    case RecordType::data:
      if (h.count > kMaxDataBlocks) return "it holds too many blocks";
      [[fallthrough]];
    case RecordType::zeroes:
      return h.count == 0 || h.first >= blocks || h.count > blocks - h.first
                 ? "its blocks lie outside the disk"
                 : nullptr;
    case RecordType::mark:
      return h.first != 0 || h.count != 0 ? "a mark names blocks" : nullptr;
    case RecordType::index:
      return h.first > fileBytes_ / sizeof(ZeroExtent) || h.count > fileBytes_ / sizeof(IndexEntry)
                 ? "the index is larger than the file"
                 : nullptr;
    case RecordType::seal:
      return h.count != offset_ + kRedoAlignBytes || h.first >= offset_
                 ? "the seal gives another size"
                 : nullptr;
  }
  return "its type is unknown";
}

bool RecordReader::load(uint64_t offset) {
  offset_ = offset;
  if (offset % kRedoAlignBytes != 0 || offset > fileBytes_ || fileBytes_ - offset < kRedoAlignBytes)
    return refuse("the file ends within it");
  head_ = std::make_shared_for_overwrite<std::byte[]>(kRedoAlignBytes);
  file_.read(offset, {head_.get(), kRedoAlignBytes});
  std::memcpy(&header_, head_.get(), sizeof header_);
  if (const char* what = fault()) return refuse(what);

  const uint64_t headBytes = recordHeadBytes(header_.type, header_.first, header_.count);
  dataOffset_ = offset + headBytes;
  dataBytes_ = header_.type == RecordType::data ? header_.count * log_.blockBytes : 0;
  if (headBytes + dataBytes_ > fileBytes_ - offset) return refuse("the file ends within it");
  if (headBytes > kRedoAlignBytes) {
    head_ = std::make_shared_for_overwrite<std::byte[]>(headBytes);
    file_.read(offset, {head_.get(), headBytes});
  }
  std::memset(head_.get() + offsetof(RecordHeader, checksum), 0, sizeof header_.checksum);
  if (XXH3_64bits_withSeed(head_.get(), headBytes, log_.seed()) != header_.checksum)
    return refuse("its head does not match its checksum");
  return true;
}

std::span<const uint64_t> RecordReader::checksums() const {
  return {reinterpret_cast<const uint64_t*>(head_.get() + sizeof(RecordHeader)), header_.count};
}

bool RecordReader::dataValid() {
  if (header_.type != RecordType::data) return true;
  const PageBuffer data(dataBytes_);
  file_.read(dataOffset_, data.span());
  for (uint64_t i = 0; i < header_.count; i++)
    if (blockChecksum(data.span().subspan(i * log_.blockBytes, log_.blockBytes)) != checksums()[i])
      return refuse("the data of block " + std::to_string(header_.first + i) + " (byte " +
                    std::to_string(dataOffset_ + i * log_.blockBytes) +
                    ") does not match its checksum");
  return true;
}

void RecordReader::applyTo(RedoIndex& index) const {
  if (header_.type == RecordType::data)
    index.put(header_.first, dataOffset_, log_.blockBytes, checksums());
  if (header_.type == RecordType::zeroes) index.zero(header_.first, header_.count);
}

SealedIndex RecordReader::index() const {
  const auto require = [&](bool good) {
    if (!good)
      throw Error(Code::damaged, file_.name() +
                                     " is damaged: its index holds impossible values; "
                                     "restore it from a backup");
  };
  // What was read has the layout of both arrays; they consist of 64-bit words alone.
  const std::byte* const at = head_.get() + sizeof(RecordHeader);
  const std::span entries(reinterpret_cast<const IndexEntry*>(at), header_.count);
  const std::span extents(reinterpret_cast<const ZeroExtent*>(entries.data() + entries.size()),
                          header_.first);
  const uint64_t blocks = log_.blocks();
  require(offset_ >> SealedIndex::kOffsetBits == 0);
  for (uint64_t i = 0, end = 0; i < extents.size(); i++) {
    const auto& [first, count] = extents[i];
    require(count > 0 && first < blocks && count <= blocks - first && (i == 0 || first > end));
    end = first + count;
  }
  uint64_t least = 0;
  for (const auto& [block, offset, checksum] : entries) {
    require(block >= least && block < blocks && offset % kRedoAlignBytes == 0 && offset > 0 &&
            offset <= offset_ && log_.blockBytes <= offset_ - offset);
    least = block + 1;
  }
  return {head_, entries, extents};
}

}  // namespace ckptfs
