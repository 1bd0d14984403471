#include "disk/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace ckptfs {
namespace {

namespace fs = std::filesystem;

// The process that holds a lock on the file open as `fd`, or 0 where it cannot be found out
// (another user's process, another pid namespace). F_OFD_GETLK tells no pid, fdinfo does.
int lockHolder(int fd) {
  struct stat wanted;
  if (fstat(fd, &wanted) != 0) return 0;
  std::error_code none;
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
        if (line.starts_with("lock:")) return pid;
    }
  }
  return 0;
}

}  // namespace

File::File(const char* kind, std::string path, Access access)
    : kind_(kind), path_(std::move(path)) {
  // O_NONBLOCK: a FIFO given by mistake must not hang the open; files and devices ignore it.
  int flags = O_CLOEXEC | O_NONBLOCK | (access == Access::read ? O_RDONLY : O_RDWR);
  if (access == Access::create) flags |= O_CREAT | O_EXCL;
  fd_ = ::open(path_.c_str(), flags, 0600);
  if (fd_ < 0) throwErrno(errno, "cannot open " + name());
  try {
    struct stat status;
    if (fstat(fd_, &status) != 0) throwErrno(errno, "cannot open " + name());
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
      throw Error(Code::usage, name() + " is neither a regular file nor a block device");
    lock(access == Access::read ? F_RDLCK : F_WRLCK);
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

uint64_t File::bytes() const {
  const off_t end = ::lseek(fd_, 0, SEEK_END);  // stat knows no size of a block device
  if (end < 0) throwErrno(errno, "cannot tell the size of " + name());
  return uint64_t(end);
}

void File::read(uint64_t offset, std::span<std::byte> into) const {
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

void File::write(uint64_t offset, std::span<const std::byte> from) {
  requireSound();
  while (!from.empty()) {
    const ssize_t put = ::pwrite(fd_, from.data(), from.size(), off_t(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const int err = put < 0 ? errno : ENOSPC;
      const std::string what = "cannot write " + name();
      // EFBIG is the file size limit of the process or the filesystem: no room here either.
      if (err == ENOSPC || err == EDQUOT || err == EFBIG)
        throw Error(Code::noSpace, what + ": no space left for it; free some and try again");
      throwErrno(err, what + " at byte " + std::to_string(offset));
    }
    offset += uint64_t(put);
    from = from.subspan(size_t(put));
  }
}

void File::sync() {
  requireSound();
  finishSync(::fdatasync(fd_));
}

void File::syncWithTimes() {
  requireSound();
  finishSync(::fsync(fd_));
}

void File::finishSync(int result) {
  if (result == 0) return;
  const int err = errno;
  syncFailed_ = true;
  throwErrno(err, "cannot make " + name() + " durable");
}

void File::truncate(uint64_t bytes) {
  if (::ftruncate(fd_, off_t(bytes)) != 0) throwErrno(errno, "cannot truncate " + name());
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
  path_ = path;
  syncDirectoryOf(path);
}

void syncDirectoryOf(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throwErrno(errno, "cannot open directory " + directory);
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (failed != 0) throwErrno(failed, "cannot make directory " + directory + " durable");
}

}  // namespace ckptfs
