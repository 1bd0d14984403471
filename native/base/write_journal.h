// What was done to files, in order: the record from which the states are made that a power cut may
// leave behind.
//
// While a WriteJournal lives, those who write disks and checkpoints tell it of what they change and
// of what they have made durable. A power cut keeps everything that was durable at its moment; of
// all else it keeps any part: sectors in any order, an older version of a sector that was written
// twice, names and sizes of some moment in between. That is as much as POSIX and a device with a
// volatile cache promise, and more than most file systems lose.
//
// One journal at a time in a process; for tests, on files small enough to be kept in memory. Any
// thread may note; what is noted by one after it was done is in the order in which it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace ckptfs {

class WriteJournal {
 public:
  /** Of the files below `directory`; what is there now is taken as durable. Throws Error: io; busy
   * while there is another one. */
  explicit WriteJournal(std::string directory);
  ~WriteJournal();
  WriteJournal(const WriteJournal&) = delete;
  WriteJournal& operator=(const WriteJournal&) = delete;

  /** How many things have been done: the moment that is now. */
  size_t now() const;
  /** Makes in the existing, empty directory `into` what a power cut at `moment`, not after now(),
   * may leave. The same seed makes the same. Seed 0 is a kill of the process instead: nothing of
   * what was done is lost. Throws Error(io). */
  void cut(size_t moment, uint64_t seed, const std::string& into) const;

  // Called by whoever writes, after it was done; nothing without a journal.
  /** The file behind `fd`, new and empty. */
  static void created(int fd, const std::string& path);
  static void wrote(int fd, uint64_t offset, std::span<const std::byte> bytes);
  static void zeroed(int fd, uint64_t offset, uint64_t bytes);
  static void truncated(int fd, uint64_t bytes);
  static void renamed(const std::string& from, const std::string& to);
  /** To be taken before a sync begins: only what was done until then is durable after it. */
  static size_t syncing() noexcept;
  static void synced(int fd, size_t since);
  static void syncedDirectory(const std::string& directory, size_t since);

 private:
  static constexpr uint64_t kSectorBytes = 512;
  using FileId = std::pair<uint64_t, uint64_t>;  // device and inode
  using Bytes = std::vector<std::byte>;

  enum class What : uint8_t { create, write, truncate, rename, sync, syncDirectory };
  struct Entry {
    What what;
    FileId file = {};
    std::string path = {};  // the new one of a rename
    std::string from = {};
    uint64_t offset = 0;  // or the new size
    std::shared_ptr<const Bytes> bytes = {};
    size_t since = 0;
  };
  class Cut;

  static FileId idOf(int fd);
  bool mine(const std::string& path) const;
  static void note(Entry entry);

  const std::string directory_;
  mutable std::mutex lock_;  // guards the rest
  std::set<FileId> files_;   // those below the directory
  std::vector<Entry> entries_;
  std::map<FileId, Bytes> before_;  // contents at the start
  std::map<std::string, FileId> namesBefore_;
};

}  // namespace ckptfs
