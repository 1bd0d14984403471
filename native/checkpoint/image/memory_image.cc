#include "checkpoint/image/memory_image.h"

#include <algorithm>
#include <array>
#include <system_error>

#include "checkpoint/image/segment.h"

namespace ckptfs {

using namespace format;

/** The blocks that were read in part last, decoded: small reads would decode them again and again.
 */
class MemoryImage::Cache {
 public:
  using Contents = std::shared_ptr<const std::vector<std::byte>>;

  Contents find(BlockId block) {
    const std::lock_guard lock(lock_);
    for (Entry& entry : entries_) {
      if (entry.contents == nullptr || entry.block != block) continue;
      entry.used = ++clock_;
      return entry.contents;
    }
    return nullptr;
  }
  void add(BlockId block, Contents contents) {
    const std::lock_guard lock(lock_);
    Entry& oldest = *std::min_element(entries_.begin(), entries_.end(),
                                      [](auto& a, auto& b) { return a.used < b.used; });
    oldest = {block, ++clock_, std::move(contents)};
  }

 private:
  static constexpr size_t kEntries = 64;  // 2 MiB with 32 KiB blocks
  struct Entry {
    BlockId block = 0;
    uint64_t used = 0;
    Contents contents;
  };
  std::mutex lock_;
  uint64_t clock_ = 0;
  std::array<Entry, kEntries> entries_;
};

MemoryImage::Files MemoryImage::open(const std::string& directory) {
  const std::string mapPath = directory + "/" + MemoryMap::kFileName;
  for (;;) {
    const FileIdentity before = CheckpointFile::open(mapPath).identity();
    Files files{MemoryMap::read(mapPath), {}};
    files.segments.reserve(files.map.segments.size());
    try {
      for (uint32_t i = 0; i < files.map.segments.size(); ++i)
        files.segments.push_back(CheckpointFile::open(directory + "/" + files.map.segmentName(i)));
      return files;
    } catch (const Error& error) {
      // Another map has come between, with segments of its own: start again.
      const bool same = CheckpointFile::open(mapPath).identity() == before;
      if (error.code() != Code::notFound || same) throw;
    }
  }
}

MemoryImage::MemoryImage(Files&& files)
    : map_(std::move(files.map)),
      segments_(std::move(files.segments)),
      cache_(std::make_unique<Cache>()) {
  checkSegments();
}

MemoryImage::~MemoryImage() = default;

void MemoryImage::checkSegments() const {
  for (size_t i = 0; i < segments_.size(); ++i) {
    const CheckpointFile& file = segments_[i];
    const MapSegment& row = map_.segments[i];
    const uint64_t bytes = file.bytes();
    if (bytes != row.bytes)
      throw Error(Code::damaged, file.path() + ": is " + std::to_string(bytes) +
                                     " bytes long, not " + std::to_string(row.bytes));
    const SegmentHeader header = readSegmentHeader(file);
    const Geometry geometry{header.pageBytes, header.pagesPerBlock, header.blocksPerIoBlock};
    if (std::memcmp(header.id, row.id, sizeof row.id) != 0 || header.kind != row.kind ||
        geometry != map_.geometry || header.memoryBytes != map_.memoryBytes ||
        readSegmentSeal(file, bytes).ioBlocks != row.ioBlocks)
      throw Error(Code::damaged, file.path() + ": not the segment that memory.map names");
  }
}

void MemoryImage::reopen() const {
  for (const CheckpointFile& file : segments_) file.reopen();
  checkSegments();
}

bool MemoryImage::loadIoBlock(uint32_t ioBlock, BlockId block, std::span<std::byte> into,
                              BlockFault& fault) const noexcept {
  const MapIoBlock& row = map_.ioBlocks[ioBlock];
  const auto bytes = into.first(row.bytes);
  fault = {nullptr, segments_[row.segment].tryRead(row.offset, bytes), block};
  if (fault.err == CheckpointFile::kShort) fault.what = "the file ends before it";
  if (fault.err != 0) return false;
  fault.what = checkIoBlock(bytes, map_.geometry);
  if (fault.what != nullptr) return false;
  const auto header = take<IoBlockHeader>(bytes);
  if (header.checksum == row.checksum && header.count == row.count && header.bytes == row.bytes)
    return true;
  fault.what = "not the IO block that memory.map names";
  return false;
}

bool MemoryImage::decode(BlockId block, std::span<const std::byte> body, std::span<std::byte> raw,
                         BlockFault& fault) const noexcept {
  const MapBlock& row = map_.blocks[block];
  fault = {nullptr, 0, block};
  if (checksumOf(body) != row.checksum)
    fault.what = "checksum mismatch";
  else if (!decodeBlock(row.codec, body, raw))
    fault.what = "cannot be decompressed";
  return fault.what == nullptr;
}

const std::byte* MemoryImage::contents(BlockId block, std::span<const std::byte> ioBlock,
                                       std::span<std::byte> scratch,
                                       BlockFault& fault) const noexcept {
  const MapBlock& row = map_.blocks[block];
  const auto body = ioBlock.subspan(row.offset, row.stored);
  if (row.codec != Codec::raw)
    return decode(block, body, scratch, fault) ? scratch.data() : nullptr;
  fault = {checksumOf(body) == row.checksum ? nullptr : "checksum mismatch", 0, block};
  return fault.what == nullptr ? body.data() : nullptr;
}

Error MemoryImage::describe(const BlockFault& fault) const {
  const MapBlock& row = map_.blocks[fault.block];
  const MapIoBlock& io = map_.ioBlocks[row.ioBlock];
  const std::string where = segments_[io.segment].path() + ": block " +
                            std::to_string(fault.block) + " at byte " +
                            std::to_string(io.offset + row.offset) + ": ";
  if (fault.what != nullptr) return {Code::damaged, where + fault.what};
  return {Code::io, where + std::generic_category().message(fault.err)};
}

void MemoryImage::readBlock(BlockId block, std::span<std::byte> raw) const {
  const MapBlock& row = map_.blocks[block];
  const MapIoBlock& io = map_.ioBlocks[row.ioBlock];
  std::vector<std::byte> body(row.stored);
  BlockFault fault{nullptr, segments_[io.segment].tryRead(io.offset + row.offset, body), block};
  if (fault.err == CheckpointFile::kShort) fault.what = "the file ends before it";
  if (fault.err != 0 || !decode(block, body, raw, fault)) throw describe(fault);
}

size_t MemoryImage::read(uint64_t offset, std::span<std::byte> into) const {
  if (offset >= bytes()) return 0;
  into = into.first(std::min<uint64_t>(into.size(), bytes() - offset));
  const uint64_t blockBytes = map_.geometry.blockBytes();
  for (size_t done = 0; done < into.size();) {
    const BlockId block = map_.geometry.blockOf(offset + done);
    const uint64_t within = offset + done - map_.geometry.offsetOf(block);
    const auto part =
        into.subspan(done, std::min<uint64_t>(blockBytes - within, into.size() - done));
    done += part.size();
    if (map_.blocks[block].codec == Codec::zero) {
      std::fill(part.begin(), part.end(), std::byte{0});
      continue;
    }
    if (part.size() == blockBytes) {
      readBlock(block, part);
      continue;
    }
    Cache::Contents contents = cache_->find(block);
    if (contents == nullptr) {
      auto fresh = std::make_shared<std::vector<std::byte>>(blockBytes);
      readBlock(block, *fresh);
      contents = std::move(fresh);
      cache_->add(block, contents);
    }
    std::copy_n(contents->begin() + static_cast<ptrdiff_t>(within), part.size(), part.begin());
  }
  return into.size();
}

ByteRun MemoryImage::run(uint64_t offset) const noexcept {
  const BlockId first = map_.geometry.blockOf(offset);
  const auto isHole = [this](BlockId block) { return map_.blocks[block].codec == Codec::zero; };
  BlockId end = first + 1;
  while (end < map_.blocks.size() && isHole(end) == isHole(first)) ++end;
  return {std::min(map_.geometry.offsetOf(end), bytes()) - offset, isHole(first)};
}

}  // namespace ckptfs
