// A file that is still arriving from elsewhere while it is read: of full size, with holes where
// nothing has come yet.
//
// One side puts pieces into the file and says so by arrived(). The other side is whoever reads it:
// whatever opens a file asks of() once, and where it gets an Arrival awaits each range before it
// reads that. A reader that has to wait notes what it misses and rings the bell; the first side
// then takes the notes and sees to these pieces before all others.
//
// Found by the inode: so a file is known under each of its names, and who does not know that it is
// arriving reads it right all the same. Readers may be on any thread, fault paths included: they
// neither allocate nor throw. The thread that serves them must never wait, and is refused.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace ckptfs {

class Arrival {
 public:
  /** What is told to be here or not, as a whole; the last one ends with the file. */
  static constexpr uint64_t kPieceBytes = 128 << 10;

  /** Some pieces that a reader waits for. */
  struct Wanted {
    uint64_t offset;
    uint64_t bytes;
    bool urgent;  // a guest waits for them, and not what reads ahead for it
    bool operator==(const Wanted&) const = default;
  };

  /**
   * From now on the file that `fd` has open is arriving: it has its size, and none of its pieces.
   * `modifiedNs` is the modification time that it will have. `bell` is called by a reader that
   * begins to wait, under a lock and maybe inside a fault: it must not allocate, throw nor call
   * back. The thread that calls this is the one that serves it. Throws Error: io; exists if it is
   * known.
   */
  static std::shared_ptr<Arrival> begin(int fd, uint64_t modifiedNs, std::function<void()> bell);
  /** The arrival of the file that is open; null: all of it is here, as of nearly every file. */
  static std::shared_ptr<Arrival> of(int fd);
  /** Fails all that there are: nobody serves them any more. */
  static void failAll();
  ~Arrival();
  Arrival(const Arrival&) = delete;
  Arrival& operator=(const Arrival&) = delete;

  uint64_t modifiedNs() const noexcept { return modifiedNs_; }
  bool complete() const noexcept { return missing_.load(std::memory_order_acquire) == 0; }
  /** Waits until the range, as far as it lies in the file, is here. 0; or an errno: ECANCELED after
   * fail(), EDEADLK on the thread that serves. */
  int await(uint64_t offset, uint64_t bytes) noexcept;

  /** These bytes are in the file. Whole pieces, of which some may have been here. */
  void arrived(uint64_t offset, uint64_t bytes);
  /** What readers have begun to wait for since the last call, each piece once, or once more when it
   * has become urgent. */
  std::vector<Wanted> takeWanted();
  /** Everybody who waits, or comes to wait, is told that the rest will not come. */
  void fail() noexcept;
  /** Is not found any more, nor rings; a file of which all is here goes on to be read. */
  void end() noexcept;

  /** While one lives, what its thread waits for is not urgent. */
  class Patience {
   public:
    Patience() noexcept { ++depth_; }
    ~Patience() { --depth_; }
    Patience(const Patience&) = delete;
    Patience& operator=(const Patience&) = delete;
    static bool here() noexcept { return depth_ > 0; }

   private:
    static thread_local unsigned depth_;
  };

 private:
  using FileId = std::pair<uint64_t, uint64_t>;  // device and inode
  /** A bit for each piece. */
  using Bits = std::vector<std::atomic<uint64_t>>;
  struct Run {
    uint64_t first;
    uint64_t count;
    bool urgent;
  };

  Arrival(const FileId& id, uint64_t bytes, uint64_t modifiedNs, std::function<void()> bell);
  bool allHere(uint64_t first, uint64_t end) const noexcept;
  /** Notes what is missing and not noted; true if it noted anything. */
  bool note(uint64_t first, uint64_t end, bool urgent) noexcept;

  const FileId id_;
  const uint64_t bytes_;
  const uint64_t pieces_;
  const uint64_t modifiedNs_;
  const std::thread::id server_;
  Bits here_;                      // set under mutex_
  std::atomic<uint64_t> missing_;  // pieces

  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::function<void()> bell_;
  bool failed_ = false;
  std::vector<uint64_t> noted_;
  std::vector<uint64_t> notedUrgent_;
  std::array<Run, 64> runs_;  // noted and not taken; who finds no room tries again
  size_t runCount_ = 0;
};

}  // namespace ckptfs
