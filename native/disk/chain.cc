#include "disk/chain.h"

#include <algorithm>
#include <future>

#include "disk/buffers.h"
#include "disk/layers_copy.h"

namespace ckptfs {
namespace {

/** A longer write becomes several records: each is put together in memory first. */
constexpr uint64_t kRecordBytes = 1 << 20;

/** Several at a time: what is read of a sealed log is its index, some MiB for each GiB of data. */
std::vector<std::shared_ptr<RedoLog>> openLogs(const std::vector<Chain::LayerSpec>& specs,
                                               RedoLog::Mode mode) {
  std::vector<std::future<std::unique_ptr<RedoLog>>> opening;
  std::vector<std::shared_ptr<RedoLog>> logs;
  const size_t together = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 8);
  for (size_t i = 0; i < specs.size(); ++i) {
    for (; opening.size() < std::min(i + together, specs.size());)
      opening.push_back(
          std::async(together > 1 && specs.size() > 1 ? std::launch::async : std::launch::deferred,
                     RedoLog::open, specs[opening.size()].path, mode));
    logs.push_back(opening[i].get());
  }
  return logs;
}

}  // namespace

std::unique_ptr<Chain> Chain::open(const std::string& parentPath,
                                   const std::optional<ParentIdentity>& identity,
                                   const std::vector<LayerSpec>& redo, Access access,
                                   const LogId& committed) {
  if (access == Access::direct && !redo.empty())
    throw Error(Code::usage,
                "disk " + parentPath + " has redo logs, so it cannot be written directly");
  auto parent =
      std::make_shared<Parent>(parentPath, access == Access::direct ? Parent::Access::direct
                                           : access == Access::redo ? Parent::Access::commit
                                                                    : Parent::Access::read);
  if (identity) parent->require(*identity);
  Layers layers(std::move(parent), committed);
  const auto logs =
      openLogs(redo, access == Access::redo ? RedoLog::Mode::writer : RedoLog::Mode::reader);
  for (size_t i = 0; i < logs.size(); ++i) {
    const std::shared_ptr<RedoLog>& log = logs[i];
    layers.requireFollows(*log, Code::damaged);
    const auto& sealedBytes = redo[i].sealedBytes;
    if (sealedBytes && (!log->sealed() || log->bytes() != *sealedBytes))
      throw Error(Code::damaged, "redo log " + log->path() +
                                     " is damaged: it is not the sealed log of " +
                                     std::to_string(*sealedBytes) +
                                     " bytes that it was; restore it from a backup");
    if (access == Access::redo && i + 1 < logs.size()) log->seal();
    layers = layers.with(log);
  }
  std::unique_ptr<Chain> chain(new Chain(std::move(layers), access));
  if (logs.size() > 1) chain->merging_ = std::thread([&chain = *chain] { chain.mergeIndex(); });
  return chain;
}

Chain::Chain(Layers layers, Access access)
    : access_(access), bytes_(layers.bytes()), now_(std::move(layers)) {}

Chain::~Chain() {
  if (merging_.joinable()) merging_.join();
}

Layers Chain::now() const {
  const std::lock_guard lock(nowMutex_);
  return now_;
}

void Chain::mergeIndex() {
  if (rewriting_) return;  // ends with a merge
  const std::lock_guard upkeep(upkeep_);
  mergeNow();
}

void Chain::mergeNow() {
  const Layers merged = now().merged();
  const std::lock_guard lock(nowMutex_);
  now_ = now_.withIndexOf(merged);
}

void Chain::requireRange(uint64_t offset, uint64_t length, uint64_t alignment) const {
  if (offset > bytes() || length > bytes() - offset || offset % alignment != 0 ||
      length % alignment != 0)
    throw Error(Code::usage, "a request for " + std::to_string(length) + " bytes at " +
                                 std::to_string(offset) + " does not fit disk " + parentPath() +
                                 " of " + std::to_string(bytes()) + " bytes in 512-byte sectors");
}

RedoLog* Chain::writeTarget(const Layers& layers) const {
  if (readOnly()) throw Error(Code::usage, "disk " + parentPath() + " is read-only");
  if (RedoLog* const newest = layers.newest()) return newest;
  if (access_ == Access::direct) return nullptr;
  throw Error(Code::usage, "disk " + parentPath() + " has no redo log to take its writes yet");
}

// Appends records for the bytes from `offset`, with the blocks held in writing_. The data is copied
// before it is checksummed: it may be guest memory, which the guest is free to change meanwhile.
void Chain::append(const Layers& layers, uint64_t offset, Buffers from) {
  RedoLog& log = *layers.newest();
  const uint32_t blockBytes = log.blockBytes();
  BufferReader reader(from);
  for (uint64_t left = bytesOf(from); left > 0;) {
    const uint64_t first = offset / blockBytes, skip = offset % blockBytes;
    const uint64_t count = std::min((skip + left + blockBytes - 1) / blockBytes,
                                    std::min(kMaxDataBlocks, kRecordBytes / blockBytes));
    const uint64_t length = std::min(left, count * blockBytes - skip);
    Record record = Record::data(first, count, blockBytes);
    const auto fillEdge = [&](uint64_t block) {
      layers.readBlocks(first + block, record.data().subspan(block * blockBytes, blockBytes));
    };
    if (skip != 0) fillEdge(0);
    if ((skip + length) % blockBytes != 0 && (skip == 0 || count > 1)) fillEdge(count - 1);
    reader.copy(record.data().subspan(skip, length));
    log.write(record);
    offset += length;
    left -= length;
  }
}

// The block groups of which a write covers only a part get the rest from the layers below, and so
// wait for writes that are still on their way there (requirement A13). Before the range is locked:
// those writes lock it too.
void Chain::awaitParts(const Layers& layers, uint64_t offset, uint64_t length) {
  const uint64_t blockBytes = layers.newest()->blockBytes(), end = offset + length;
  const auto await = [&](uint64_t block) {
    pending_.awaitOlder(layers.number(), {block * blockBytes, blockBytes});
  };
  if (offset % blockBytes != 0) await(offset / blockBytes);
  if (end % blockBytes != 0) await(end / blockBytes);
}

void Chain::writeTo(const Layers& layers, uint64_t offset, Buffers from) {
  const RedoLog* log = writeTarget(layers);
  if (log == nullptr) return layers.parent().writev(offset, from);
  const uint64_t length = bytesOf(from);
  if (length == 0) return;
  awaitParts(layers, offset, length);
  const RangeLock::Guard guard(writing_, offset / log->blockBytes(),
                               (offset + length - 1) / log->blockBytes() + 1);
  append(layers, offset, from);
}

void Chain::zeroIn(const Layers& layers, uint64_t offset, uint64_t length, bool unmap) {
  RedoLog* log = writeTarget(layers);
  if (log == nullptr) return layers.parent().zero(offset, length, unmap);
  if (length == 0) return;
  awaitParts(layers, offset, length);
  const uint64_t blockBytes = log->blockBytes(), end = offset + length;
  const RangeLock::Guard guard(writing_, offset / blockBytes, (end - 1) / blockBytes + 1);
  // Whole blocks by one record; a part of a block by writing zeros to it. The last block of the
  // disk is whole where the disk ends.
  const uint64_t firstWhole = (offset + blockBytes - 1) / blockBytes;
  const uint64_t endWhole = end == bytes() ? log->blocks() : end / blockBytes;
  const std::vector<std::byte> zeros(2 * blockBytes);  // no whole block: at most two parts of one
  const auto zero = [&](uint64_t from, uint64_t to) {
    const std::span part(zeros.data(), to - from);
    append(layers, from, {&part, 1});
  };
  if (firstWhole >= endWhole) return zero(offset, end);
  zero(offset, firstWhole * blockBytes);
  log->writeZeroes(firstWhole, endWhole - firstWhole);
  if (endWhole * blockBytes < end) zero(endWhole * blockBytes, end);
}

void Chain::flushAll(const Layers& layers) {
  // Oldest first: what is durable at the top may rely on what lies below.
  if (readOnly()) return;
  layers.parent().flush();
  for (const auto& log : layers.oldestFirst()) log->flush();
}

/** The layers of one moment, with the writes that were announced for them. */
class Chain::Pinned final : public Disk {
 public:
  Pinned(Chain& chain, std::span<const Extent> changes)
      : Pinned(chain, changes, std::lock_guard(chain.nowMutex_)) {}

  uint64_t bytes() const noexcept override { return chain_.bytes(); }
  bool readOnly() const noexcept override { return chain_.readOnly(); }
  void read(uint64_t offset, std::span<std::byte> into) override {
    chain_.requireRange(offset, into.size(), 1);
    layers_.read(offset, into);
  }
  void writev(uint64_t offset, Buffers from) override {
    requireAnnounced(offset, bytesOf(from));
    chain_.writeTo(layers_, offset, from);
  }
  void flush() override { chain_.flushAll(layers_); }
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override {
    requireAnnounced(offset, length);
    chain_.zeroIn(layers_, offset, length, unmap);
  }
  void discard(uint64_t offset, uint64_t length) override { writeZeroes(offset, length, true); }

 private:
  // With nowMutex_ held, so that no push comes between: what it seals must not be written later.
  Pinned(Chain& chain, std::span<const Extent> changes, const std::lock_guard<std::mutex>&)
      : chain_(chain),
        layers_(chain.now_),
        pending_(chain.pending_, layers_.number(), chain.readOnly() ? noChanges() : changes) {}

  static std::span<const Extent> noChanges() { return {}; }
  void requireAnnounced(uint64_t offset, uint64_t length) const {
    chain_.requireRange(offset, length, kSectorBytes);
    if (!chain_.readOnly() && !pending_.covers({offset, length}))
      throw Error(Code::usage, "a request writes to disk " + chain_.parentPath() +
                                   " where it did not announce to");
  }

  Chain& chain_;
  const Layers layers_;
  const PendingWrites::Guard pending_;
};

std::shared_ptr<Disk> Chain::pin(std::span<const Extent> changes) {
  return std::make_shared<Pinned>(*this, changes);
}

void Chain::read(uint64_t offset, std::span<std::byte> into) {
  Pinned(*this, {}).read(offset, into);
}

void Chain::writev(uint64_t offset, Buffers from) {
  const Extent change{offset, bytesOf(from)};
  requireRange(offset, change.length, kSectorBytes);
  Pinned(*this, {&change, 1}).writev(offset, from);
}

void Chain::writeZeroes(uint64_t offset, uint64_t length, bool unmap) {
  requireRange(offset, length, kSectorBytes);
  const Extent change{offset, length};
  Pinned(*this, {&change, 1}).writeZeroes(offset, length, unmap);
}

void Chain::discard(uint64_t offset, uint64_t length) {
  writeZeroes(offset, length, true);
}

void Chain::flush() {
  flushAll(now());
}

std::unique_ptr<RedoLog> Chain::prepare(const std::string& path) const {
  const Layers layers = now();
  RedoLog::Options options;
  options.parentId = layers.topId();
  if (!layers.empty()) options.blockBytes = layers.newest()->blockBytes();
  return RedoLog::create(path, bytes(), options);
}

void Chain::push(std::unique_ptr<RedoLog> fresh) {
  if (readOnly()) throw Error(Code::usage, "disk " + parentPath() + " is read-only");
  if ((!fresh->empty() && access_ != Access::overlay) || fresh->sealed())
    throw Error(Code::usage, "redo log " + fresh->path() + " is not a fresh one");
  // Read and replaced under one lock: the end of a commit may replace them too.
  const std::lock_guard lock(nowMutex_);
  now_.requireFollows(*fresh, Code::usage);
  now_ = now_.with(std::move(fresh));
}

bool Chain::waitFrozen(std::chrono::milliseconds timeout) {
  return pending_.awaitOlder(now().number(), timeout);
}

void Chain::sealFrozen() {
  const Layers layers = now();
  if (layers.empty() || readOnly()) return;
  pending_.awaitOlder(layers.number(), {0, bytes()});
  if (!rewriting_) layers.parent().freeze();
  for (const auto& log : layers.below().oldestFirst()) log->seal();
  mergeIndex();
}

std::unique_ptr<Chain> Chain::frozenView() const {
  const Layers layers = now();
  if (layers.empty())
    throw Error(Code::usage, "disk " + parentPath() + " has nothing frozen: push comes first");
  return std::unique_ptr<Chain>(new Chain(layers.below(), Access::readonly));
}

void Chain::seal() {
  for (const auto& log : now().oldestFirst()) log->seal();
}

/** What replaces sealed logs: one at a time. */
class Chain::Rewrite {
 public:
  explicit Rewrite(Chain& chain) : chain_(chain) {
    if (chain.readOnly())
      throw Error(Code::usage, "disk " + chain.parentPath() + " is read-only; its logs stay");
    if (chain.rewriting_.exchange(true))
      throw Error(Code::busy, "disk " + chain.parentPath() +
                                  " is being committed or compacted already; wait for that");
    chain.upkeep_.lock();
  }
  ~Rewrite() {
    chain_.upkeep_.unlock();
    chain_.rewriting_ = false;
  }
  Rewrite(const Rewrite&) = delete;
  Rewrite& operator=(const Rewrite&) = delete;

 private:
  Chain& chain_;
};

void Chain::commit(const Commit& commit, Progress& progress) {
  const Rewrite rewrite(*this);
  const Layers layers = now();
  const Layers oldest = layers.part(0, commit.logs);
  const auto target = commit.into.empty()
                          ? layers.sharedParent()
                          : std::make_shared<Parent>(commit.into, Parent::Access::commit);
  if (target->bytes() != bytes())
    throw Error(Code::usage, "disk " + commit.into + " is not of the size of " + parentPath());
  target->own();
  try {
    commitLayers(oldest.merged(), *target, commit.again, progress);
  } catch (...) {
    target->freeze();
    throw;
  }
  target->freeze();
  {
    const std::lock_guard lock(nowMutex_);
    now_ = now_.committed(commit.logs, target);
  }
  mergeNow();
}

void Chain::compact(const std::vector<LogRun>& runs, Progress& progress) {
  const Rewrite rewrite(*this);
  const Layers layers = now();
  std::vector<Layers> parts;
  for (size_t next = 0; const LogRun& run : runs) {
    if (run.first < next) throw Error(Code::usage, "runs of redo logs to compact overlap");
    parts.push_back(layers.part(run.first, run.logs).merged());
    progress.expect(copiedBytes(parts.back()));
    next = run.first + run.logs;
  }
  std::vector<std::unique_ptr<CompactedLog>> made;
  for (size_t i = 0; i < runs.size(); ++i)
    made.push_back(std::make_unique<CompactedLog>(parts[i], runs[i].path, progress));
  // The newest first, so that the places of the others stay what they are.
  for (size_t i = runs.size(); i-- > 0;) {
    const auto log = made[i]->publish();
    const std::lock_guard lock(nowMutex_);
    now_ = now_.compacted(runs[i].first, runs[i].logs, log);
  }
  for (const LogRun& run : runs) syncDirectoryOf(run.path);
  mergeNow();
}

std::vector<Chain::LayerInfo> Chain::layers() const {
  std::vector<LayerInfo> infos;
  for (const auto& log : now().oldestFirst())
    infos.push_back({log->path(), log->bytes(), log->sealed()});
  return infos;
}

}  // namespace ckptfs
