#include "checkpoint/image/checkpoint_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/error.h"
#include "base/write_journal.h"

namespace ckptfs {
namespace {

std::span<const std::byte> bytesOf(const iovec& piece, size_t from) {
  return {static_cast<const std::byte*>(piece.iov_base) + from, piece.iov_len - from};
}

}  // namespace

CheckpointFile CheckpointFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throwErrno(errno, "cannot open " + path);
  CheckpointFile file(path, fd);
  file.arrival_ = Arrival::of(fd);
  return file;
}

CheckpointFile CheckpointFile::create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) throwErrno(errno, "cannot create " + path);
  WriteJournal::created(fd, path);
  return {path, fd};
}

CheckpointFile::CheckpointFile(CheckpointFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(other.fd_), arrival_(std::move(other.arrival_)) {
  other.fd_ = -1;
}

CheckpointFile::~CheckpointFile() {
  if (fd_ >= 0) close(fd_);
}

FileIdentity CheckpointFile::identity() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) throwErrno(errno, "cannot stat " + path_);
  if (!S_ISREG(info.st_mode)) throw Error(Code::damaged, path_ + ": not a regular file");
  return {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size),
          info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

int CheckpointFile::tryRead(uint64_t offset, std::span<std::byte> into) const noexcept {
  if (arrival_ != nullptr)
    if (const int err = arrival_->await(offset, into.size())) return err;
  while (!into.empty()) {
    const ssize_t n = pread(fd_, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return kShort;
    into = into.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return 0;
}

int CheckpointFile::tryWrite(uint64_t offset, std::span<const std::byte> from) const noexcept {
  while (!from.empty()) {
    const ssize_t n = pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    WriteJournal::wrote(fd_, offset, from.first(static_cast<size_t>(n)));
    from = from.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return 0;
}

void CheckpointFile::read(uint64_t offset, std::span<std::byte> into) const {
  const int err = tryRead(offset, into);
  if (err == kShort)
    throw Error(Code::damaged,
                path_ + ": ends before byte " + std::to_string(offset + into.size()));
  if (err != 0) throwErrno(err, "cannot read " + path_);
}

void CheckpointFile::write(uint64_t offset, std::span<const std::byte> from) const {
  const int err = tryWrite(offset, from);
  if (err != 0) throwErrno(err, "cannot write " + path_);
}

void CheckpointFile::write(uint64_t offset, std::span<const iovec> pieces) const {
  while (!pieces.empty()) {
    const ssize_t n =
        pwritev(fd_, pieces.data(), static_cast<int>(std::min<size_t>(pieces.size(), IOV_MAX)),
                static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throwErrno(n < 0 ? errno : EIO, "cannot write " + path_);
    auto written = static_cast<size_t>(n);
    while (!pieces.empty() && written >= pieces[0].iov_len) {
      WriteJournal::wrote(fd_, offset, bytesOf(pieces[0], 0));
      offset += pieces[0].iov_len;
      written -= pieces[0].iov_len;
      pieces = pieces.subspan(1);
    }
    if (written == 0) continue;
    // Cut off within a piece: its rest goes by itself.
    WriteJournal::wrote(fd_, offset, bytesOf(pieces[0], 0).first(written));
    offset += written;
    const std::span rest = bytesOf(pieces[0], written);
    write(offset, rest);
    offset += rest.size();
    pieces = pieces.subspan(1);
  }
}

void CheckpointFile::startWriteback(uint64_t offset, uint64_t bytes) const noexcept {
  sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  SYNC_FILE_RANGE_WRITE);
}

void CheckpointFile::sync() const {
  const size_t since = WriteJournal::syncing();
  if (fsync(fd_) != 0) throwErrno(errno, "cannot write " + path_ + " to its device");
  WriteJournal::synced(fd_, since);
}

void CheckpointFile::reopen() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0) throwErrno(errno, "cannot open " + path_);
  const int moved = dup3(fd, fd_, O_CLOEXEC);
  const int err = errno;
  close(fd);
  if (moved < 0) throwErrno(err, "cannot open " + path_);
}

}  // namespace ckptfs
