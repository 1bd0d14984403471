#include "disk/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/write_journal.h"
#include "disk/buffers.h"

namespace ckptfs {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiecesMax = 64;  // of one system call

// A process that holds a lock on the file open as `fd`, another one if there is; or 0 where it
// cannot be found out (another user's process, another pid namespace). F_OFD_GETLK tells no pid,
// fdinfo does.
int lockHolder(int fd) {
  struct stat wanted;
  if (fstat(fd, &wanted) != 0) return 0;
  std::error_code none;
  int self = 0;
  for (const auto& process : fs::directory_iterator("/proc", none)) {
    const std::string digits = process.path().filename();
    int pid = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), pid);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) continue;
    for (const auto& entry : fs::directory_iterator(process.path() / "fd", none)) {
      struct stat found;
      if (stat(entry.path().c_str(), &found) != 0 || found.st_ino != wanted.st_ino ||
          found.st_dev != wanted.st_dev)
        continue;
      std::ifstream info(process.path() / "fdinfo" / entry.path().filename());
      for (std::string line; std::getline(info, line);)
        if (line.starts_with("lock:")) {
          if (pid != ::getpid()) return pid;
          self = pid;
        }
    }
  }
  return self;
}

}  // namespace

File::File(const char* kind, std::string path, Access access)
    : kind_(kind), path_(std::move(path)) {
  // O_NONBLOCK: a FIFO given by mistake must not hang the open; files and devices ignore it.
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  const int created = access == Access::create ? O_CREAT | O_EXCL : 0;
  if (access != Access::read) fd_ = ::open(path_.c_str(), kFlags | O_RDWR | created, 0600);
  const bool notToBeWritten = errno == EACCES || errno == EPERM || errno == EROFS;
  if (access == Access::read || (fd_ < 0 && access == Access::readFirst && notToBeWritten))
    fd_ = ::open(path_.c_str(), kFlags | O_RDONLY);
  if (fd_ < 0) throwErrno(errno, "cannot open " + name());
  try {
    struct stat status;
    if (fstat(fd_, &status) != 0) throwErrno(errno, "cannot open " + name());
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
      throw Error(Code::usage, name() + " is neither a regular file nor a block device");
    lock(access == Access::read || access == Access::readFirst ? F_RDLCK : F_WRLCK);
    if (access == Access::create) WriteJournal::created(fd_, path_);
    arrival_ = Arrival::of(fd_);
  } catch (...) {
    if (access == Access::create) ::unlink(path_.c_str());
    ::close(fd_);
    throw;
  }
}

File::~File() {
  ::close(fd_);
}

void File::lock(short type) {
  struct flock whole = {};
  whole.l_type = type;
  whole.l_whence = SEEK_SET;
  if (fcntl(fd_, F_OFD_SETLK, &whole) == 0) return;
  if (errno != EAGAIN && errno != EACCES) throwErrno(errno, "cannot lock " + name());
  const int pid = lockHolder(fd_);
  throw Error(Code::busy, name() + " is in use by another VM" +
                              (pid != 0 ? " (pid " + std::to_string(pid) + ")" : "") +
                              "; stop that VM first, or use another disk");
}

void File::share() {
  lock(F_RDLCK);
}

void File::own() {
  if ((fcntl(fd_, F_GETFL) & O_ACCMODE) != O_RDWR)
    throw Error(Code::usage, name() + " cannot be written; it or its filesystem is read-only");
  lock(F_WRLCK);
}

uint64_t File::bytes() const {
  const off_t end = ::lseek(fd_, 0, SEEK_END);  // stat knows no size of a block device
  if (end < 0) throwErrno(errno, "cannot tell the size of " + name());
  return uint64_t(end);
}

void File::read(uint64_t offset, std::span<std::byte> into) const {
  if (arrival_ != nullptr)
    if (const int err = arrival_->await(offset, into.size()))
      throwErrno(err, "cannot read " + name() + " at byte " + std::to_string(offset));
  while (!into.empty()) {
    const ssize_t got = ::pread(fd_, into.data(), into.size(), off_t(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throwErrno(errno, "cannot read " + name() + " at byte " + std::to_string(offset));
    if (got == 0)
      throw Error(Code::damaged, name() + " ends at byte " + std::to_string(offset) +
                                     ", before data that belongs to it; restore the whole file");
    offset += uint64_t(got);
    into = into.subspan(size_t(got));
  }
}

void File::writev(uint64_t offset, Buffers from) {
  requireSound();
  BufferReader written(from);
  for (uint64_t left = bytesOf(from); left > 0;) {
    std::array<iovec, kPiecesMax> pieces;
    int count = 0;
    BufferReader reader = written;
    for (uint64_t rest = left; rest > 0 && count < int(kPiecesMax); ++count) {
      const auto piece = reader.next(rest);
      pieces[size_t(count)] = {const_cast<std::byte*>(piece.data()), piece.size()};
      rest -= piece.size();
    }
    const ssize_t put = ::pwritev(fd_, pieces.data(), count, off_t(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const int err = put < 0 ? errno : ENOSPC;
      const std::string what = "cannot write " + name();
      // EFBIG is the file size limit of the process or the filesystem: no room here either.
      if (err == ENOSPC || err == EDQUOT || err == EFBIG)
        throw Error(Code::noSpace, what + ": no space left for it; free some and try again");
      throwErrno(err, what + " at byte " + std::to_string(offset));
    }
    left -= uint64_t(put);
    for (uint64_t rest = uint64_t(put); rest > 0;) {
      const auto piece = written.next(rest);
      WriteJournal::wrote(fd_, offset, piece);
      offset += piece.size();
      rest -= piece.size();
    }
  }
}

void File::sync() {
  requireSound();
  const size_t since = WriteJournal::syncing();
  finishSync(::fdatasync(fd_), since);
}

void File::syncWithTimes() {
  requireSound();
  const size_t since = WriteJournal::syncing();
  finishSync(::fsync(fd_), since);
}

void File::finishSync(int result, size_t since) {
  if (result == 0) return WriteJournal::synced(fd_, since);
  const int err = errno;
  syncFailed_ = true;
  throwErrno(err, "cannot make " + name() + " durable");
}

void File::truncate(uint64_t bytes) {
  if (::ftruncate(fd_, off_t(bytes)) != 0) throwErrno(errno, "cannot truncate " + name());
  WriteJournal::truncated(fd_, bytes);
}

void File::requireSound() const {
  if (syncFailed_)
    throw Error(Code::io,
                name() +
                    " takes no more writes: an earlier flush failed, so what it holds is not "
                    "certain; stop the VM and go back to a checkpoint");
}

void File::rename(const std::string& path) {
  // A filesystem without RENAME_NOREPLACE answers EINVAL; the owner's lock keeps others out there.
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0 &&
      (errno != EINVAL || ::rename(path_.c_str(), path.c_str()) != 0))
    throwErrno(errno, "cannot create " + std::string(kind_) + " " + path);
  WriteJournal::renamed(path_, path);
  path_ = path;
  syncDirectoryOf(path);
}

void File::replace(const std::string& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0)
    throwErrno(errno, "cannot replace " + std::string(kind_) + " " + path);
  WriteJournal::renamed(path_, path);
  path_ = path;
}

void syncDirectoryOf(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throwErrno(errno, "cannot open directory " + directory);
  const size_t since = WriteJournal::syncing();
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (failed != 0) throwErrno(failed, "cannot make directory " + directory + " durable");
  WriteJournal::syncedDirectory(directory, since);
}

}  // namespace ckptfs
