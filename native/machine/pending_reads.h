// Disk reads in flight across a checkpoint, and what they still bring to the memory that is saved
// (requirements A8, A10, A11).
//
// A read that was taken before the pause belongs to the checkpoint, so its data has to reach both
// memories. The read itself stores into ongoing memory as ever: announced (requirement A9), so that
// a block which is not saved yet goes to the saver first. For the blocks of such reads the saver
// turns to this object:
//
//   - background threads leave them until the reads are over (A11); then memory is right as it is;
//   - if somebody has to write to such a block before, be it a vCPU or the read itself, keep()
//     takes a copy. Once the last read into the block is over, all of them are read once more, from
//     the disk as the requests saw it, into the copy (A10), which goes to the saver.
//
// Life: add() through watcher() for each read, and prepare(), both with the devices held and before
// the pause; reads that end meanwhile are simply over. Then the saver asks. A read ends when its
// token goes. The table is made by prepare() and never changes, so that faults look up without
// allocating; mutex_ guards the states of its entries. Copies are allocated beforehand, one for
// each block, and so keep() takes every block that is awaited: nobody ever holds a block while it
// waits for a read, which may itself be waiting to write to that block.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/geometry.h"
#include "checkpoint/save/late_contents.h"
#include "devices/virtio/blk.h"

namespace ckptfs {

class PendingReads final : public LateContents, public std::enable_shared_from_this<PendingReads> {
 public:
  /** Saver::late. */
  using Deliver = std::function<void(BlockId, const std::byte*)>;

  /** Copies of more blocks than this are too much to keep ready. */
  static constexpr uint64_t kCopiesLimitBytes = uint64_t{64} << 20;

  /** RAM stands at guest-physical address `ramBase`. To be made with std::make_shared: reads in
   *  flight hold it. */
  PendingReads(const Geometry& geometry, uint64_t ramBase)
      : geometry_(geometry), ramBase_(ramBase) {}

  /** For VirtioBlk::watchReads(); adds the reads that it is given. Before prepare(). */
  VirtioBlk::ReadWatcher watcher();
  /** Makes the table and the copies. False: there are too many blocks; once some of the reads are
   *  over it may be called again. */
  bool prepare(Deliver deliver, uint64_t limitBytes = kCopiesLimitBytes);

  bool awaits(BlockId block) const noexcept override;
  bool keep(BlockId block, const std::byte* raw) noexcept override;
  void wait(BlockId block) noexcept override;

  /** The save has failed or was cancelled: copies go back as they are, and nothing is awaited any
   *  more. Any thread. */
  void abandon() noexcept;
  /** The same; when it returns nothing is delivered any more. Before the saver goes. */
  void end() noexcept;

 private:
  /** A part of a read that lies within one block. */
  struct Piece {
    size_t read;
    uint64_t diskOffset;
    uint64_t within;  // bytes from the start of the block
    uint64_t length;
  };
  enum class Copy : uint8_t { none, kept, leaving };
  struct Entry {
    BlockId block;
    std::vector<Piece> pieces;
    size_t pending = 0;  // pieces whose reads are under way
    Copy copy = Copy::none;
  };
  struct Read {
    VirtioBlk::PendingRead read;
    bool over = false;
    std::vector<size_t> entries;  // one index for each piece
  };
  class Token;

  std::shared_ptr<void> add(VirtioBlk::PendingRead read);
  void complete(size_t read) noexcept;
  void reissue(const Entry& entry) noexcept;
  void hand(Entry& entry) noexcept;
  const Entry* find(BlockId block) const noexcept;
  Entry* find(BlockId block) noexcept;
  std::byte* copyOf(const Entry& entry) const noexcept;

  const Geometry geometry_;
  const uint64_t ramBase_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // entries_, leaving_ or abandoned_
  std::vector<Read> reads_;
  std::vector<Entry> entries_;  // ascending by block
  std::unique_ptr<std::byte[]> copies_;
  Deliver deliver_;
  size_t leaving_ = 0;  // entries that are on their way back
  bool abandoned_ = false;
};

}  // namespace ckptfs
