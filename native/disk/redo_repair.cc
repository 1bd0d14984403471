#include "disk/redo_repair.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/page_buffer.h"
#include "disk/file.h"
#include "disk/redo_record.h"

namespace ckptfs {

RedoRepair repairRedoLog(const std::string& path, const std::string& into) {
  const File log("redo log", path, File::Access::read);
  const RedoHeader header = RedoHeader::load(log);
  RedoRepair repair{.keptBytes = sizeof header};
  uint64_t end = log.bytes(), sequence = 1;
  RecordReader reader(log, header, end);
  while (reader.load(repair.keptBytes) && reader.header().sequence == sequence &&
         reader.dataValid()) {
    if (reader.header().type == RecordType::index) {
      // What it says is what the records say; sealing writes it again.
      end = repair.keptBytes;
      break;
    }
    repair.keptBytes = reader.end();
    ++sequence;
  }
  repair.lostBytes = end - repair.keptBytes;

  File copy("redo log", into, File::Access::create);
  try {
    const PageBuffer buffer(1 << 20);
    for (uint64_t at = 0; at < repair.keptBytes; at += buffer.size()) {
      const auto piece = buffer.first(std::min<uint64_t>(buffer.size(), repair.keptBytes - at));
      log.read(at, piece);
      copy.write(at, piece);
    }
    copy.sync();
  } catch (...) {
    ::unlink(into.c_str());
    throw;
  }
  return repair;
}

}  // namespace ckptfs
