#include "disk/redo_scan.h"

#include <algorithm>

#include "base/error.h"
#include "base/page_buffer.h"

namespace ckptfs {
namespace {

[[noreturn]] void throwDamaged(const File& file, const std::string& what) {
  throw Error(Code::damaged, file.name() + " is damaged: " + what + "; restore it from a backup");
}

// Goes from the start through records that are whole and in sequence, calling `visit` with the
// reader on each until it returns false. Returns where that ended.
template <class Visit>
uint64_t walk(RecordReader& reader, Visit visit) {
  uint64_t at = sizeof(RedoHeader), sequence = 1;
  while (reader.load(at) && reader.header().sequence == sequence && visit()) {
    sequence++;
    at = reader.end();
  }
  return at;
}

// Throws if a valid record after the broken one at `stop` vouches that it was durable (as a seal
// does for all before it). Whatever else follows a tear was never flushed.
void requireTorn(const File& file, RecordReader& reader, uint64_t stop, uint64_t fileBytes) {
  const uint64_t from = stop + kRedoAlignBytes;
  if (from >= fileBytes) return;
  const PageBuffer window(std::min<uint64_t>(1 << 20, fileBytes - from));
  for (uint64_t at = from; at < fileBytes; at += window.size()) {
    const uint64_t length = std::min<uint64_t>(window.size(), fileBytes - at);
    file.read(at, window.first(length));
    for (uint64_t i = 0; i + kRedoAlignBytes <= length; i += kRedoAlignBytes) {
      if (std::memcmp(window.data() + i, RecordHeader::kMagic, sizeof RecordHeader::kMagic) != 0)
        continue;
      if (!reader.load(at + i)) continue;
      if (reader.header().durable > stop)
        throwDamaged(file, "the record at byte " + std::to_string(stop) +
                               " is not valid, though a later one shows that it was written whole");
    }
  }
}

bool saysTheSame(const SealedIndex& one, const SealedIndex& other) {
  return std::ranges::equal(one.entries(), other.entries()) &&
         std::ranges::equal(one.extents(), other.extents());
}

RedoScan scanSealed(const File& file, RecordReader& reader) {
  RedoScan scan;
  scan.end = scan.durableBytes = reader.end();
  scan.nextSequence = reader.header().sequence + 1;
  const uint64_t seal = reader.offset();
  if (!reader.load(reader.header().first)) throwDamaged(file, reader.why());
  if (reader.header().type != RecordType::index || reader.end() != seal ||
      reader.header().sequence + 2 != scan.nextSequence)
    throwDamaged(file, "its seal names no index");
  scan.sealedIndex = std::make_shared<const SealedIndex>(reader.index());
  return scan;
}

RedoScan scanUnsealed(const File& file, RecordReader& reader, uint64_t fileBytes) {
  RedoScan scan;
  uint64_t durable = sizeof(RedoHeader);
  const uint64_t stop = walk(reader, [&] {
    if (reader.header().type == RecordType::seal)
      throwDamaged(file, "there are bytes after its seal");
    durable = std::max(durable, reader.header().durable);
    return true;
  });
  requireTorn(file, reader, stop, fileBytes);
  // Heads persist apart from their data, so what is not known to be durable is read in full. What
  // is durable is checked when it is read, block by block.
  scan.end = walk(reader, [&] {
    if (reader.offset() >= durable && !reader.dataValid()) return false;
    reader.applyTo(scan.index);
    scan.nextSequence = reader.header().sequence + 1;
    return true;
  });
  scan.durableBytes = durable;
  return scan;
}

/** Loads the seal, if there is one. */
bool loadSeal(RecordReader& reader, uint64_t fileBytes) {
  return fileBytes >= sizeof(RedoHeader) + 2 * kRedoAlignBytes &&
         reader.load(fileBytes - kRedoAlignBytes) && reader.header().type == RecordType::seal;
}

}  // namespace

bool hasSeal(const std::string& path) {
  const File file("redo log", path, File::Access::read);
  const RedoHeader header = RedoHeader::load(file);
  const uint64_t fileBytes = file.bytes();
  RecordReader reader(file, header, fileBytes);
  return loadSeal(reader, fileBytes);
}

RedoScan scanRedoLog(const File& file, const RedoHeader& header) {
  const uint64_t fileBytes = file.bytes();
  RecordReader reader(file, header, fileBytes);
  if (loadSeal(reader, fileBytes)) return scanSealed(file, reader);
  return scanUnsealed(file, reader, fileBytes);
}

std::vector<DiskProblem> verifyRedoLog(const std::string& path,
                                       std::optional<uint64_t> sealedBytes) {
  std::vector<DiskProblem> problems;
  const auto report = [&](const std::string& what) { problems.push_back({path, what}); };
  try {
    const File file("redo log", path, File::Access::read);
    const RedoHeader header = RedoHeader::load(file);
    const uint64_t fileBytes = file.bytes();
    const RedoScan scan = scanRedoLog(file, header);
    if (sealedBytes && *sealedBytes != fileBytes)
      report("it has " + std::to_string(fileBytes) + " bytes instead of " +
             std::to_string(*sealedBytes));
    if (sealedBytes && !scan.sealedIndex) report("it is not sealed");

    RecordReader reader(file, header, fileBytes);
    RedoIndex rebuilt;
    const uint64_t stop = walk(reader, [&] {
      if (reader.offset() >= scan.end) return false;
      if (!reader.dataValid()) report(reader.why());
      reader.applyTo(rebuilt);
      return true;
    });
    if (stop != scan.end)
      report(reader.offset() == stop && !reader.why().empty()
                 ? reader.why()
                 : "record at byte " + std::to_string(stop) + ": it is out of sequence");
    else if (scan.sealedIndex && !saysTheSame(SealedIndex(rebuilt), *scan.sealedIndex))
      report("its index does not agree with its records");
  } catch (const Error& error) {
    if (error.code() == Code::busy) throw;
    report(error.what());
  }
  return problems;
}

}  // namespace ckptfs
