// Redo logs of any bytes: what a scan accepts can be read and written on; when verification finds
// nothing, every block that the log has can be read.
//
// Input: what is mended and whether the log is written on, then the log.
#include <xxhash.h>

#include <algorithm>

#include "base/error.h"
#include "disk/redo_log.h"
#include "fuzz/fuzz_input.h"

using namespace ckptfs;
using namespace ckptfs::fuzz;

namespace {

template <class T>
T take(const Bytes& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/** Makes checksums those of the bytes, record after record. */
void mend(Bytes& bytes) {
  bytes.resize(std::max<size_t>(bytes.size() / kRedoAlignBytes, 1) * kRedoAlignBytes);
  auto header = take<RedoHeader>(bytes, 0);
  header.checksum = XXH3_64bits(&header, offsetof(RedoHeader, checksum));
  std::memcpy(bytes.data(), &header, sizeof header);
  if (header.blockBytes % kRedoAlignBytes != 0) return;  // no log, and records would not align
  for (size_t at = sizeof header; at < bytes.size();) {
    auto record = take<RecordHeader>(bytes, at);
    const size_t rest = bytes.size() - at;
    uint64_t head = sizeof record, data = 0;
    if (record.count > rest || record.first > rest) {
      // A seal or a range far out: neither adds to the head.
    } else if (record.type == RecordType::data) {
      head += record.count * sizeof(uint64_t);
      data = record.count * header.blockBytes;
    } else if (record.type == RecordType::index) {
      head += record.count * sizeof(IndexEntry) + record.first * sizeof(ZeroExtent);
    }
    head = (head + kRedoAlignBytes - 1) / kRedoAlignBytes * kRedoAlignBytes;
    if (head + data > rest || head + data < head) return;
    for (uint64_t i = 0; data != 0 && i < record.count; ++i) {
      const uint64_t sum =
          XXH3_64bits(bytes.data() + at + head + i * header.blockBytes, header.blockBytes);
      std::memcpy(bytes.data() + at + sizeof record + i * sizeof sum, &sum, sizeof sum);
    }
    record.checksum = 0;
    std::memcpy(bytes.data() + at, &record, sizeof record);
    record.checksum = XXH3_64bits_withSeed(bytes.data() + at, head, header.seed());
    std::memcpy(bytes.data() + at, &record, sizeof record);
    at += head + data;
  }
}

/** Reads the blocks around every one that the log has data of; whether all of it could be read. */
bool readAll(const RedoLog& log, const RedoScan& scan) {
  Bytes into(log.blockBytes() * 3);
  bool readable = true;
  for (const IndexEntry& entry : scan.index.entries()) {
    FUZZ_CHECK(entry.block < log.blocks());
    const uint64_t count = std::min<uint64_t>(3, log.blocks() - entry.block);
    const std::span span(into.data(), count * log.blockBytes());
    try {
      const RedoLog::Run run = log.read(entry.block, span);
      FUZZ_CHECK(run.here && run.count >= 1 && run.count <= count);
    } catch (const Error&) {
      readable = false;
    }
  }
  return readable;
}

void writeOn(const std::string& path) {
  Bytes block;
  {
    const auto log = RedoLog::open(path, RedoLog::Mode::writer);
    if (log->sealed()) return;
    Record record = Record::data(0, 1, log->blockBytes());
    std::fill(record.data().begin(), record.data().end(), std::byte{0x5a});
    block.assign(record.data().begin(), record.data().end());
    log->write(record);
    log->flush();
  }
  const auto log = RedoLog::open(path, RedoLog::Mode::writer);
  Bytes read(block.size());
  FUZZ_CHECK(log->read(0, read).here);
  FUZZ_CHECK(read == block);
  log->seal();
  FUZZ_CHECK(log->sealed());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Scratch scratch;
  Input input(data, size);
  const uint8_t choice = input.byte();
  Bytes bytes = input.copy();
  if (choice & 1) mend(bytes);
  const std::string path = scratch.write("log", bytes);
  const bool whole = verifyRedoLog(path, std::nullopt).empty();
  try {
    RedoScan scan;
    {
      const File file("redo log", path, File::Access::read);
      scan = scanRedoLog(file, RedoHeader::load(file));
    }
    const auto log = RedoLog::open(path, RedoLog::Mode::reader);
    const bool readable = readAll(*log, scan);
    FUZZ_CHECK(readable || !whole);
  } catch (const Error&) {
    FUZZ_CHECK(!whole);
    return 0;
  }
  if ((choice & 2) == 0) writeOn(path);
  return 0;
}
