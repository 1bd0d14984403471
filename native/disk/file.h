// One open file of a disk, locked for as long as it is open, and the calls that move whole buffers.
//
// The lock is an open-file-description lock (fcntl F_OFD_SETLK): it belongs to this object rather
// than to the process, follows the inode through hard links, ends with a kill, and turns from
// exclusive to shared atomically. Any thread may call any member at any time.
//
// A failed fdatasync may have dropped the dirty pages it could not write, so nothing written since
// the last good one can be vouched for, and asking again would report success. After one, write and
// sync fail for good; reads go on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/arrival.h"
#include "disk/disk.h"

namespace ckptfs {

class File {
 public:
  enum class Access : uint8_t {
    read,
    readFirst,  // to read until own(); to read only where it cannot be opened to write
    write,
    create,
  };

  /**
   * Opens and locks a regular file or block device: exclusive to write, else shared. `kind`
   * names it in messages ("disk"). Throws Error: notFound, exists, busy (with the holder's pid
   * where it can be found), usage for another kind of file, io.
   */
  File(const char* kind, std::string path, Access access);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const noexcept { return path_; }
  /** "redo log /some/where": how messages call it. */
  std::string name() const { return std::string(kind_) + " " + path_; }
  int fd() const noexcept { return fd_; }

  /** Bytes in the file, or on the device, now. */
  uint64_t bytes() const;
  /** Of a file that is still arriving; null: all of it is here. */
  const Arrival* arrival() const noexcept { return arrival_.get(); }
  /** Fills `into`; a file that ends before is Error(damaged). Waits for what has not arrived. */
  void read(uint64_t offset, std::span<std::byte> into) const;
  /** Writes all of `from`, or throws (noSpace, io) and may have written a part. */
  void writev(uint64_t offset, Buffers from);
  void write(uint64_t offset, std::span<const std::byte> from) { writev(offset, {&from, 1}); }
  /** Everything written before is durable when it returns. */
  void sync();
  /** The same, and the modification time too. */
  void syncWithTimes();
  void truncate(uint64_t bytes);
  /** Gives the file another name, durably; Error(exists) if it is taken. Only right after creation.
   */
  void rename(const std::string& path);
  /** The same, but a file of that name is replaced; durable once the directory is synced. */
  void replace(const std::string& path);
  /** Turns an exclusive lock into a shared one. */
  void share();
  /** Turns a shared lock into an exclusive one, of a file opened readFirst. Error(busy) while
   * others read it; usage if it cannot be written. */
  void own();
  /** Throws Error(io) after a failed sync. */
  void requireSound() const;

 private:
  void lock(short type);
  void finishSync(int result, size_t since);

  const char* kind_;
  std::string path_;
  int fd_ = -1;
  std::shared_ptr<Arrival> arrival_;
  std::atomic<bool> syncFailed_{false};
};

/** Makes the name of a new file durable: fsync of the directory that holds it. */
void syncDirectoryOf(const std::string& path);

}  // namespace ckptfs
