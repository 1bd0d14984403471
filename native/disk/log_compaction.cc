#include "disk/log_compaction.h"

#include <unistd.h>

#include <algorithm>

#include "disk/layers_copy.h"

namespace ckptfs {
namespace {

class LogTarget final : public CopyTarget {
 public:
  explicit LogTarget(RedoLog& log) : log_(log) {}

  // One record, data within it or not: later records win.
  void zero(const ZeroExtent& extent) override { log_.writeZeroes(extent.first, extent.count); }
  void write(uint64_t first, std::span<const std::byte> data) override {
    Record record = Record::data(first, data.size() / log_.blockBytes(), log_.blockBytes());
    std::ranges::copy(data, record.data().begin());
    log_.write(record);
  }

 private:
  RedoLog& log_;
};

std::unique_ptr<RedoLog> createFor(const Layers& layers, const std::string& path) {
  const std::string temporary = path + ".compacted";
  ::unlink(temporary.c_str());  // of an earlier attempt
  RedoLog::Options options;
  options.blockBytes = layers.newest()->blockBytes();
  options.parentId = layers.committedId();
  options.id = layers.topId();
  return RedoLog::create(temporary, layers.bytes(), options);
}

}  // namespace

uint64_t compactBytes(const SealedIndex& index, uint64_t blockBytes) {
  const auto head = [](RecordType type, uint64_t first, uint64_t count) {
    return recordHeadBytes(type, first, count);
  };
  const auto extents = index.extents();
  uint64_t bytes = sizeof(RedoHeader) + extents.size() * head(RecordType::zeroes, 0, 1);
  for (auto entries = index.entries(); !entries.empty();) {
    const uint64_t blocks = pieceBlocks(entries, blockBytes);
    bytes += head(RecordType::data, 0, blocks) + blocks * blockBytes;
    entries = entries.subspan(blocks);
  }
  return bytes + head(RecordType::index, extents.size(), index.entries().size()) +
         head(RecordType::seal, 0, 0);
}

CompactedLog::CompactedLog(const Layers& layers, const std::string& path, Progress& progress)
    : path_(path), log_(createFor(layers, path)) {
  try {
    LogTarget target(*log_);
    copyLayers(layers, target, progress);
    log_->seal();
    progress.advance(0);
  } catch (...) {
    ::unlink(log_->path().c_str());
    throw;
  }
}

CompactedLog::~CompactedLog() {
  if (log_->path() != path_) ::unlink(log_->path().c_str());
}

std::shared_ptr<RedoLog> CompactedLog::publish() {
  log_->moveTo(path_);
  return log_;
}

}  // namespace ckptfs
