#include "disk/chain.h"

#include <algorithm>

namespace ckptfs {

std::unique_ptr<Chain> Chain::open(const std::string& parentPath,
                                   const std::optional<ParentIdentity>& identity,
                                   const std::vector<LayerSpec>& redo, Access access) {
  if (access == Access::direct && !redo.empty())
    throw Error(Code::usage,
                "disk " + parentPath + " has redo logs, so it cannot be written directly");
  auto parent = std::make_shared<Parent>(parentPath, access == Access::direct);
  if (identity) parent->require(*identity);
  std::unique_ptr<Chain> chain(new Chain(std::move(parent), nullptr, access));
  for (const LayerSpec& spec : redo) {
    const bool newest = &spec == &redo.back();
    const auto mode = access == Access::redo ? RedoLog::Mode::writer : RedoLog::Mode::reader;
    std::shared_ptr<RedoLog> log = RedoLog::open(spec.path, mode);
    chain->requireFollows(*log, chain->top_, Code::damaged);
    if (spec.sealedBytes && (!log->sealed() || log->bytes() != *spec.sealedBytes))
      throw Error(Code::damaged, "redo log " + spec.path +
                                     " is damaged: it is not the sealed log of " +
                                     std::to_string(*spec.sealedBytes) +
                                     " bytes that it was; restore it from a backup");
    if (access == Access::redo && !newest) log->seal();
    chain->top_ = std::make_shared<const Layer>(Layer{std::move(log), chain->top_});
  }
  return chain;
}

Chain::Layers Chain::top() const {
  const std::lock_guard lock(topMutex_);
  return top_;
}

std::vector<RedoLog*> Chain::oldestFirst(const Layers& layers) {
  std::vector<RedoLog*> logs;
  for (const Layer* layer = layers.get(); layer != nullptr; layer = layer->below.get())
    logs.push_back(layer->log.get());
  std::reverse(logs.begin(), logs.end());
  return logs;
}

void Chain::requireFollows(const RedoLog& log, const Layers& below, Code code) const {
  const LogId parentId = below ? below->log->header().id : LogId{};
  std::string fault;
  if (log.header().diskBytes != bytes())
    fault = "is for a disk of " + std::to_string(log.header().diskBytes) + " bytes, and " +
            parentPath() + " has " + std::to_string(bytes());
  else if (log.header().parentId != parentId)
    fault =
        "does not follow " + (below ? "redo log " + below->log->path() : "disk " + parentPath());
  else if (below && log.blockBytes() != below->log->blockBytes())
    fault = "has another block size than " + below->log->path();
  if (!fault.empty())
    throw Error(code, "redo log " + log.path() + " " + fault +
                          "; open the files of one checkpoint, in order");
}

void Chain::requireRange(uint64_t offset, uint64_t length, uint64_t alignment) const {
  if (offset > bytes() || length > bytes() - offset || offset % alignment != 0 ||
      length % alignment != 0)
    throw Error(Code::usage, "a request for " + std::to_string(length) + " bytes at " +
                                 std::to_string(offset) + " does not fit disk " + parentPath() +
                                 " of " + std::to_string(bytes()) + " bytes in 512-byte sectors");
}

RedoLog* Chain::writeTarget(const Layers& top) const {
  if (readOnly()) throw Error(Code::usage, "disk " + parentPath() + " is read-only");
  if (top) return top->log.get();
  if (access_ == Access::direct) return nullptr;
  throw Error(Code::usage, "disk " + parentPath() + " has no redo log to take its writes yet");
}

// Whole blocks from `layer` (null: the parent) down. Recursion goes as deep as there are layers.
void Chain::readBlocks(const Layer* layer, uint64_t first, std::span<std::byte> into,
                       uint32_t blockBytes) const {
  if (layer == nullptr) {
    // The last block may reach beyond the end of the disk; there it is zeros.
    const uint64_t offset = first * blockBytes;
    const uint64_t length = std::min<uint64_t>(into.size(), bytes() - offset);
    parent_->read(offset, into.first(length));
    std::fill(into.begin() + ptrdiff_t(length), into.end(), std::byte{0});
    return;
  }
  while (!into.empty()) {
    const RedoLog::Run run = layer->log->read(first, into);
    const uint64_t length = run.count * blockBytes;
    if (!run.here) readBlocks(layer->below.get(), first, into.first(length), blockBytes);
    first += run.count;
    into = into.subspan(length);
  }
}

void Chain::readFrom(const Layers& layers, uint64_t offset, std::span<std::byte> into) const {
  if (!layers) return parent_->read(offset, into);
  const uint32_t blockBytes = layers->log->blockBytes();
  std::vector<std::byte> edge;
  while (!into.empty()) {
    const uint64_t first = offset / blockBytes, skip = offset % blockBytes;
    uint64_t length = into.size() / blockBytes * blockBytes;
    if (skip != 0 || length == 0) {
      // A checksum covers a whole block, so a part of one is cut from the whole.
      edge.resize(blockBytes);
      readBlocks(layers.get(), first, edge, blockBytes);
      length = std::min<uint64_t>(into.size(), blockBytes - skip);
      std::copy_n(edge.begin() + ptrdiff_t(skip), length, into.begin());
    } else {
      readBlocks(layers.get(), first, into.first(length), blockBytes);
    }
    offset += length;
    into = into.subspan(length);
  }
}

// Appends records for the bytes from `offset`, with the blocks held in writing_. The data is copied
// before it is checksummed: it may be guest memory, which the guest is free to change meanwhile.
void Chain::append(const Layers& top, uint64_t offset, std::span<const std::byte> from) {
  const uint32_t blockBytes = top->log->blockBytes();
  while (!from.empty()) {
    const uint64_t first = offset / blockBytes, skip = offset % blockBytes;
    const uint64_t count =
        std::min((skip + from.size() + blockBytes - 1) / blockBytes, kMaxDataBlocks);
    const uint64_t length = std::min<uint64_t>(from.size(), count * blockBytes - skip);
    Record record = Record::data(first, count, blockBytes);
    const auto fillEdge = [&](uint64_t block) {
      readBlocks(top.get(), first + block, record.data().subspan(block * blockBytes, blockBytes),
                 blockBytes);
    };
    if (skip != 0) fillEdge(0);
    if ((skip + length) % blockBytes != 0 && (skip == 0 || count > 1)) fillEdge(count - 1);
    std::copy_n(from.begin(), length, record.data().begin() + ptrdiff_t(skip));
    top->log->write(record);
    offset += length;
    from = from.subspan(length);
  }
}

// The block groups of which a write covers only a part get the rest from the layers below, and so
// wait for writes that are still on their way there (requirement A13). Before the range is locked:
// those writes lock it too.
void Chain::awaitParts(const Layers& layers, uint64_t offset, uint64_t length) {
  const uint64_t blockBytes = layers->log->blockBytes(), end = offset + length;
  const auto await = [&](uint64_t block) {
    pending_.awaitOlder(layers->number, {block * blockBytes, blockBytes});
  };
  if (offset % blockBytes != 0) await(offset / blockBytes);
  if (end % blockBytes != 0) await(end / blockBytes);
}

void Chain::writeTo(const Layers& layers, uint64_t offset, std::span<const std::byte> from) {
  const RedoLog* log = writeTarget(layers);
  if (log == nullptr) return parent_->write(offset, from);
  if (from.empty()) return;
  awaitParts(layers, offset, from.size());
  const RangeLock::Guard guard(writing_, offset / log->blockBytes(),
                               (offset + from.size() - 1) / log->blockBytes() + 1);
  append(layers, offset, from);
}

void Chain::zeroIn(const Layers& layers, uint64_t offset, uint64_t length, bool unmap) {
  RedoLog* log = writeTarget(layers);
  if (log == nullptr) return parent_->zero(offset, length, unmap);
  if (length == 0) return;
  awaitParts(layers, offset, length);
  const uint64_t blockBytes = log->blockBytes(), end = offset + length;
  const RangeLock::Guard guard(writing_, offset / blockBytes, (end - 1) / blockBytes + 1);
  // Whole blocks by one record; a part of a block by writing zeros to it. The last block of the
  // disk is whole where the disk ends.
  const uint64_t firstWhole = (offset + blockBytes - 1) / blockBytes;
  const uint64_t endWhole = end == bytes() ? log->blocks() : end / blockBytes;
  const std::vector<std::byte> zeros(2 * blockBytes);  // no whole block: at most two parts of one
  if (firstWhole >= endWhole) return append(layers, offset, std::span(zeros).first(length));
  append(layers, offset, std::span(zeros).first(firstWhole * blockBytes - offset));
  log->writeZeroes(firstWhole, endWhole - firstWhole);
  if (endWhole * blockBytes < end)
    append(layers, endWhole * blockBytes, std::span(zeros).first(end - endWhole * blockBytes));
}

void Chain::flushAll(const Layers& layers) {
  // Oldest first: what is durable at the top may rely on what lies below.
  if (readOnly()) return;
  parent_->flush();
  for (RedoLog* log : oldestFirst(layers)) log->flush();
}

/** The layers of one moment, with the writes that were announced for them. */
class Chain::Pinned final : public Disk {
 public:
  Pinned(Chain& chain, std::span<const Extent> changes)
      : Pinned(chain, changes, std::lock_guard(chain.topMutex_)) {}

  uint64_t bytes() const noexcept override { return chain_.bytes(); }
  bool readOnly() const noexcept override { return chain_.readOnly(); }
  void read(uint64_t offset, std::span<std::byte> into) override {
    chain_.requireRange(offset, into.size(), 1);
    chain_.readFrom(layers_, offset, into);
  }
  void write(uint64_t offset, std::span<const std::byte> from) override {
    requireAnnounced(offset, from.size());
    chain_.writeTo(layers_, offset, from);
  }
  void flush() override { chain_.flushAll(layers_); }
  void writeZeroes(uint64_t offset, uint64_t length, bool unmap) override {
    requireAnnounced(offset, length);
    chain_.zeroIn(layers_, offset, length, unmap);
  }
  void discard(uint64_t offset, uint64_t length) override { writeZeroes(offset, length, true); }

 private:
  // With topMutex_ held, so that no push comes between: what it seals must not be written later.
  Pinned(Chain& chain, std::span<const Extent> changes, const std::lock_guard<std::mutex>&)
      : chain_(chain),
        layers_(chain.top_),
        pending_(chain.pending_, numberOf(layers_), chain.readOnly() ? noChanges() : changes) {}

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

void Chain::write(uint64_t offset, std::span<const std::byte> from) {
  requireRange(offset, from.size(), kSectorBytes);
  const Extent change{offset, from.size()};
  Pinned(*this, {&change, 1}).write(offset, from);
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
  flushAll(top());
}

std::unique_ptr<RedoLog> Chain::prepare(const std::string& path) const {
  const Layers layers = top();
  RedoLog::Options options;
  if (layers) {
    options.blockBytes = layers->log->blockBytes();
    options.parentId = layers->log->header().id;
  }
  return RedoLog::create(path, bytes(), options);
}

void Chain::push(std::unique_ptr<RedoLog> fresh) {
  if (readOnly()) throw Error(Code::usage, "disk " + parentPath() + " is read-only");
  Layers below = top();
  requireFollows(*fresh, below, Code::usage);
  if (!fresh->empty() || fresh->sealed())
    throw Error(Code::usage, "redo log " + fresh->path() + " is not a fresh one");
  Layers layers = std::make_shared<const Layer>(Layer{std::move(fresh), std::move(below)});
  const std::lock_guard lock(topMutex_);
  top_.swap(layers);
}

bool Chain::waitFrozen(std::chrono::milliseconds timeout) {
  return pending_.awaitOlder(numberOf(top()), timeout);
}

void Chain::sealFrozen() {
  const Layers layers = top();
  if (!layers || readOnly()) return;
  pending_.awaitOlder(layers->number, {0, bytes()});
  parent_->freeze();
  for (RedoLog* log : oldestFirst(layers->below)) log->seal();
}

std::unique_ptr<Chain> Chain::frozenView() const {
  const Layers layers = top();
  if (!layers)
    throw Error(Code::usage, "disk " + parentPath() + " has nothing frozen: push comes first");
  return std::unique_ptr<Chain>(new Chain(parent_, layers->below, Access::readonly));
}

std::vector<Chain::LayerInfo> Chain::layers() const {
  std::vector<LayerInfo> infos;
  for (const RedoLog* log : oldestFirst(top()))
    infos.push_back({log->path(), log->bytes(), log->sealed()});
  return infos;
}

}  // namespace ckptfs
