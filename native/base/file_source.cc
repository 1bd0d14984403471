#include "base/file_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "base/arrival.h"
#include "base/error.h"

namespace ckptfs {

namespace {

class OpenedFile {
 public:
  OpenedFile(int fd, const std::string& path) : fd_(fcntl(fd, F_DUPFD_CLOEXEC, 0)), path_(path) {
    if (fd_ < 0) throwErrno(errno, path_);
    arrival_ = Arrival::of(fd_);
  }
  ~OpenedFile() { close(fd_); }
  OpenedFile(const OpenedFile&) = delete;
  OpenedFile& operator=(const OpenedFile&) = delete;

  uint64_t bytes() const {
    struct stat now;
    if (fstat(fd_, &now) != 0) throwErrno(errno, path_);
    return uint64_t(now.st_size);
  }

  void read(uint64_t offset, std::span<std::byte> into) const {
    if (arrival_ != nullptr)
      if (const int err = arrival_->await(offset, into.size())) throwErrno(err, path_);
    while (!into.empty()) {
      const ssize_t count = pread(fd_, into.data(), into.size(), off_t(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throwErrno(errno, path_);
      if (count == 0) throw Error(Code::io, path_ + ": has been cut short");
      offset += uint64_t(count);
      into = into.subspan(size_t(count));
    }
  }

  ByteRun run(uint64_t offset) const {
    const uint64_t end = std::max(bytes(), offset + 1);
    // A hole may be what has not arrived.
    if (arrival_ != nullptr && !arrival_->complete()) return {end - offset, false};
    // The descriptor's position is nobody's. Where the filesystem cannot tell, all is data.
    const off_t data = lseek(fd_, off_t(offset), SEEK_DATA);
    if (data < 0) return {end - offset, errno == ENXIO};
    if (uint64_t(data) > offset) return {uint64_t(data) - offset, true};
    const off_t hole = lseek(fd_, off_t(offset), SEEK_HOLE);
    return {hole < 0 ? end - offset : uint64_t(hole) - offset, false};
  }

 private:
  const int fd_;
  const std::string path_;
  std::shared_ptr<Arrival> arrival_;  // null: all of it is here
};

}  // namespace

ByteSource fileSource(int fd, const std::string& path) {
  const auto file = std::make_shared<const OpenedFile>(fd, path);
  return {
      .bytes = file->bytes(),
      .read = [file](uint64_t offset, std::span<std::byte> into) { file->read(offset, into); },
      .run = [file](uint64_t offset) { return file->run(offset); },
      .bytesNow = [file] { return file->bytes(); },
  };
}

}  // namespace ckptfs
