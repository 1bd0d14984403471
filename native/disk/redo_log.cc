#include "disk/redo_log.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <tuple>
#include <vector>

#include "base/error.h"

namespace ckptfs {
namespace {

LogId randomId() {
  LogId id;
  if (getrandom(id.data(), id.size(), 0) != ssize_t(id.size()))
    throwErrno(errno, "cannot get random bytes");
  return id;
}

}  // namespace

std::unique_ptr<RedoLog> RedoLog::create(const std::string& path, uint64_t diskBytes,
                                         const Options& options) {
  if (!std::has_single_bit(options.blockBytes) || options.blockBytes < kMinBlockBytes ||
      options.blockBytes > kMaxBlockBytes)
    throw Error(Code::usage, "a redo log's block size is a power of two from 512 to 65536, not " +
                                 std::to_string(options.blockBytes));
  if (diskBytes == 0 || diskBytes % 512 != 0 || diskBytes >> 62 != 0)
    throw Error(Code::usage, "a disk of " + std::to_string(diskBytes) +
                                 " bytes is not a whole number of 512-byte sectors");
  const RedoHeader header = RedoHeader::make(diskBytes, options.blockBytes,
                                             options.id.value_or(randomId()), options.parentId);
  return std::unique_ptr<RedoLog>(new RedoLog(path, header));
}

/** Where a log is made, until it has a header: a kill leaves no log without one under its name. */
static std::string unnamed(const std::string& path) {
  const std::string temporary = path + ".new";
  ::unlink(temporary.c_str());  // of an earlier attempt
  return temporary;
}

RedoLog::RedoLog(const std::string& path, const RedoHeader& header)
    : file_("redo log", unnamed(path), File::Access::create),
      header_(header),
      writable_(true),
      end_(sizeof header_),
      nextSequence_(1),
      durable_(end_),
      unflushed_(end_) {
  try {
    file_.write(0, std::as_bytes(std::span(&header_, 1)));
    file_.sync();
    file_.rename(path);
  } catch (...) {
    ::unlink(file_.path().c_str());
    throw;
  }
}

std::unique_ptr<RedoLog> RedoLog::open(const std::string& path, Mode mode) {
  // As a reader first: a sealed log is shared with others, and may lie on a read-only filesystem.
  std::unique_ptr<RedoLog> log(new RedoLog(path, Mode::reader));
  if (mode == Mode::reader || log->sealed_) return log;
  log.reset();  // its lock would be in the way of ours
  return std::unique_ptr<RedoLog>(new RedoLog(path, mode));
}

RedoLog::RedoLog(const std::string& path, Mode mode)
    : file_("redo log", path, mode == Mode::writer ? File::Access::write : File::Access::read),
      header_(RedoHeader::load(file_)),
      writable_(mode == Mode::writer) {
  RedoScan scan = scanRedoLog(file_, header_);
  index_ = std::move(scan.index);
  sealedIndex_ = std::move(scan.sealedIndex);
  sealed_ = sealedIndex_ != nullptr;
  end_ = scan.end;
  nextSequence_ = scan.nextSequence;
  durable_ = scan.durableBytes;
  unflushed_ = end_;
  if (!writable_) return;
  if (sealed_) {
    file_.share();
    return;
  }
  // Cut durably: after a power loss a piece of the old tail must not follow the records to come.
  if (file_.bytes() != end_) {
    file_.truncate(end_);
    file_.sync();
  }
}

uint64_t RedoLog::bytes() const {
  const std::lock_guard lock(append_);
  return end_;
}

bool RedoLog::sealed() const {
  const std::lock_guard lock(append_);
  return sealed_;
}

void RedoLog::requireWritable() const {
  if (sealed_) throw Error(Code::usage, file_.name() + " is sealed and never changes");
  if (!writable_) throw Error(Code::usage, file_.name() + " was opened to read");
  file_.requireSound();
}

void RedoLog::checkBlock(uint64_t block, const BlockLocation& at, std::span<std::byte> into) const {
  if (blockChecksum(into) == at.checksum) return;
  // `into` may be memory of a running guest, that writes to it during the read. So a mismatch
  // counts only in a buffer of our own.
  std::vector<std::byte> own(into.size());
  file_.read(at.offset, own);
  if (blockChecksum(own) != at.checksum)
    throw Error(Code::damaged, file_.name() + " is damaged: the data of block " +
                                   std::to_string(block) + " (byte " + std::to_string(at.offset) +
                                   ") does not match its checksum; restore it from a backup");
  std::copy(own.begin(), own.end(), into.begin());
}

RedoLog::Run RedoLog::read(uint64_t first, std::span<std::byte> into) const {
  RedoIndex::Locations at;
  const auto [kind, count] = find(first, into.size() / blockBytes(), at);
  if (kind == RedoIndex::Kind::absent) return {false, count};
  into = into.first(count * blockBytes());
  if (kind == RedoIndex::Kind::zeroes)
    std::fill(into.begin(), into.end(), std::byte{0});
  else
    readAt(first, std::span(at).first(count), into);
  return {true, count};
}

RedoIndex::Run RedoLog::find(uint64_t first, uint64_t count,
                             RedoIndex::Locations& locations) const {
  const std::shared_lock lock(indexLock_);
  return sealedIndex_ ? sealedIndex_->find(first, count, locations)
                      : index_.find(first, count, locations);
}

std::shared_ptr<const SealedIndex> RedoLog::sealedIndex() const {
  const std::shared_lock lock(indexLock_);
  return sealedIndex_;
}

SealedIndex RedoLog::indexNow() const {
  const std::shared_lock lock(indexLock_);
  return sealedIndex_ ? *sealedIndex_ : SealedIndex(index_);
}

void RedoLog::readAt(uint64_t first, std::span<const BlockLocation> at,
                     std::span<std::byte> into) const {
  for (uint64_t done = 0; done < at.size();) {
    uint64_t together = 1;  // blocks that one read can fetch
    while (done + together < at.size() &&
           at[done + together].offset == at[done].offset + together * blockBytes())
      together++;
    file_.read(at[done].offset, into.subspan(done * blockBytes(), together * blockBytes()));
    for (; together > 0; together--, done++)
      checkBlock(first + done, at[done], into.subspan(done * blockBytes(), blockBytes()));
  }
}

// Called with append_ held.
void RedoLog::append(Record& record) {
  record.finish(nextSequence_, durable_, header_.seed());
  try {
    file_.write(end_, record.bytes());
  } catch (...) {
    // The part that was written is no record, and the next one goes over it; but free its space.
    std::ignore = ::ftruncate(file_.fd(), off_t(end_));
    throw;
  }
  const uint64_t data = end_ + record.headBytes();
  const RecordHeader& header = record.header();
  if (header.type == RecordType::data || header.type == RecordType::zeroes) {
    const std::unique_lock lock(indexLock_);
    if (header.type == RecordType::data)
      index_.put(header.first, data, blockBytes(), record.checksums());
    else
      index_.zero(header.first, header.count);
    unflushed_ = end_ + record.bytes().size();
  }
  end_ += record.bytes().size();
  nextSequence_++;
  if (!writeback_) writeback_ = std::make_unique<Writeback>(file_.fd(), end_);
  writeback_->advance(end_);
}

void RedoLog::write(Record& record) {
  record.sum();
  const std::lock_guard lock(append_);
  requireWritable();
  append(record);
}

void RedoLog::writeZeroes(uint64_t first, uint64_t count) {
  Record record = Record::zeroes(first, count);
  const std::lock_guard lock(append_);
  requireWritable();
  append(record);
}

void RedoLog::flush() {
  uint64_t target;
  {
    const std::lock_guard lock(append_);
    if (sealed_ || !writable_) return;
    file_.requireSound();
    if (unflushed_ <= durable_) return;
    target = end_;
  }
  file_.sync();
  const std::lock_guard lock(append_);
  durable_ = std::max(durable_, target);
  if (sealed_) return;
  Record mark = Record::mark();
  try {
    append(mark);
  } catch (const Error&) {
    // The data is durable all the same; the next record that fits will say so.
  }
}

void RedoLog::seal() {
  const std::lock_guard lock(append_);
  if (sealed_) return;
  requireWritable();
  // In three steps, so that a valid seal proves that all before it was durable, the index included.
  file_.sync();
  durable_ = end_;
  const auto sealedIndex = std::make_shared<const SealedIndex>(index_);
  Record index = Record::index(*sealedIndex);
  const uint64_t indexOffset = end_;
  append(index);
  file_.sync();
  durable_ = end_;
  Record seal = Record::seal(indexOffset, end_ + kRedoAlignBytes);
  append(seal);
  file_.sync();
  durable_ = end_;
  sealed_ = true;
  writeback_.reset();
  file_.share();
  const std::unique_lock indexLock(indexLock_);
  sealedIndex_ = sealedIndex;
  index_ = {};
}

}  // namespace ckptfs
