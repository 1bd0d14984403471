#include "machine/pending_reads.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace ckptfs {
namespace {

/** Where a read just stores the copy may have anything, as it is read once more: a race by design,
 *  of which ThreadSanitizer is not told. Whole words. */
__attribute__((no_sanitize("thread"))) void copyTorn(std::byte* to, const std::byte* from,
                                                     size_t bytes) noexcept {
  for (size_t at = 0; at < bytes; at += sizeof(uint64_t))
    *reinterpret_cast<uint64_t*>(to + at) =
        __atomic_load_n(reinterpret_cast<const uint64_t*>(from + at), __ATOMIC_RELAXED);
}

}  // namespace

/** Ends a read when the device drops it. */
class PendingReads::Token {
 public:
  Token(std::shared_ptr<PendingReads> owner, size_t read) : owner_(std::move(owner)), read_(read) {}
  ~Token() { owner_->complete(read_); }
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;

 private:
  const std::shared_ptr<PendingReads> owner_;
  const size_t read_;
};

// ---- Before the pause ----

VirtioBlk::ReadWatcher PendingReads::watcher() {
  return [this](VirtioBlk::PendingRead read) { return add(std::move(read)); };
}

std::shared_ptr<void> PendingReads::add(VirtioBlk::PendingRead read) {
  const std::lock_guard lock(mutex_);
  reads_.push_back({std::move(read), false, {}});
  return std::make_shared<Token>(shared_from_this(), reads_.size() - 1);
}

bool PendingReads::prepare(Deliver deliver, uint64_t limitBytes) {
  const std::lock_guard lock(mutex_);
  std::map<BlockId, std::vector<Piece>> blocks;
  for (size_t i = 0; i < reads_.size(); ++i) {
    if (reads_[i].over) continue;
    uint64_t diskOffset = reads_[i].read.offset;
    for (const Segment& segment : reads_[i].read.memory) {
      uint64_t offset = segment.address - ramBase_;
      for (uint64_t left = segment.length; left > 0;) {
        const BlockId block = geometry_.blockOf(offset);
        const uint64_t within = offset - geometry_.offsetOf(block);
        const uint64_t length = std::min(left, geometry_.blockBytes() - within);
        blocks[block].push_back({i, diskOffset, within, length});
        offset += length;
        diskOffset += length;
        left -= length;
      }
    }
  }
  if (blocks.size() * geometry_.blockBytes() > limitBytes) return false;
  deliver_ = std::move(deliver);
  for (auto& [block, pieces] : blocks) {
    for (const Piece& piece : pieces) reads_[piece.read].entries.push_back(entries_.size());
    const size_t pending = pieces.size();
    entries_.push_back({block, std::move(pieces), pending});
  }
  // Not touched yet: what is not needed takes no memory.
  copies_ = std::make_unique_for_overwrite<std::byte[]>(entries_.size() * geometry_.blockBytes());
  return true;
}

// ---- The saver's questions ----

PendingReads::Entry* PendingReads::find(BlockId block) noexcept {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), block,
                                   [](const Entry& e, BlockId b) { return e.block < b; });
  return at != entries_.end() && at->block == block ? &*at : nullptr;
}

const PendingReads::Entry* PendingReads::find(BlockId block) const noexcept {
  return const_cast<PendingReads*>(this)->find(block);
}

std::byte* PendingReads::copyOf(const Entry& entry) const noexcept {
  return copies_.get() + size_t(&entry - entries_.data()) * geometry_.blockBytes();
}

bool PendingReads::awaits(BlockId block) const noexcept {
  const Entry* const entry = find(block);
  if (entry == nullptr) return false;
  const std::lock_guard lock(mutex_);
  return entry->pending > 0 && !abandoned_;
}

bool PendingReads::keep(BlockId block, const std::byte* raw) noexcept {
  Entry* const entry = find(block);
  if (entry == nullptr) return false;
  const std::lock_guard lock(mutex_);
  if (entry->pending == 0 || abandoned_) return false;
  copyTorn(copyOf(*entry), raw, geometry_.blockBytes());
  entry->copy = Copy::kept;
  return true;
}

void PendingReads::wait(BlockId block) noexcept {
  const Entry* const entry = find(block);
  if (entry == nullptr) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return entry->pending == 0 || abandoned_; });
}

// ---- The end of a read ----

void PendingReads::complete(size_t index) noexcept {
  std::vector<Entry*> complete;
  {
    const std::lock_guard lock(mutex_);
    Read& read = reads_[index];
    read.over = true;
    for (const size_t at : read.entries) {
      Entry& entry = entries_[at];
      if (--entry.pending > 0 || entry.copy != Copy::kept) continue;
      entry.copy = Copy::leaving;
      ++leaving_;
      complete.push_back(&entry);
    }
  }
  changed_.notify_all();
  for (Entry* const entry : complete) {
    reissue(*entry);
    hand(*entry);
  }
}

void PendingReads::reissue(const Entry& entry) noexcept {
  for (const Piece& piece : entry.pieces) {
    try {
      reads_[piece.read].read.disk->read(piece.diskOffset,
                                         {copyOf(entry) + piece.within, piece.length});
    } catch (const Error&) {
      // The driver may rely on nothing here before the request is completed, and a restored VM
      // carries it out again: it then meets the error itself, or gets the data.
    }
  }
}

/** Gives a copy to the saver, with the mutex open: it may have to wait for room. */
void PendingReads::hand(Entry& entry) noexcept {
  deliver_(entry.block, copyOf(entry));
  const std::lock_guard lock(mutex_);
  --leaving_;
  changed_.notify_all();
}

void PendingReads::abandon() noexcept {
  std::vector<Entry*> kept;
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
    for (Entry& entry : entries_) {
      if (entry.copy != Copy::kept) continue;
      entry.copy = Copy::leaving;
      ++leaving_;
      kept.push_back(&entry);
    }
  }
  changed_.notify_all();
  for (Entry* const entry : kept) hand(*entry);
}

void PendingReads::end() noexcept {
  abandon();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return leaving_ == 0; });
}

}  // namespace ckptfs
