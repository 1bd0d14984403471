#include "base/copy_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/page_buffer.h"

namespace ckptfs {
namespace {

/** Between two looks at whether it is to end. */
constexpr uint64_t kPieceBytes = 16 << 20;
/** What is read and written at once where the kernel does not copy. */
constexpr size_t kBufferBytes = 1 << 20;

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : path_(path) {
    fd_ = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd_ < 0) throwErrno(errno, "cannot open " + path);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  [[noreturn]] void fail(const char* what) const { throwErrno(errno, what + path_); }

 private:
  const std::string path_;
  int fd_;
};

class Copy {
 public:
  Copy(const std::string& source, const std::string& target, Progress& progress)
      : source_(source, O_RDONLY), target_(target, O_WRONLY | O_CREAT), progress_(progress) {}

  void run(uint64_t from, uint64_t bytes) {
    progress_.expect(bytes - from);
    for (uint64_t at = from; at < bytes;) {
      const uint64_t data = std::min(nextData(at), bytes);
      progress_.advance(data - at);
      at = data;
      const uint64_t hole = std::min(nextHole(at), bytes);
      while (at < hole) {
        const uint64_t copied = piece(at, std::min(hole - at, kPieceBytes));
        progress_.advance(copied);
        at += copied;
      }
    }
    if (ftruncate(target_.get(), off_t(bytes)) != 0) target_.fail("cannot write ");
  }

 private:
  /** Where data begins; a filesystem that knows no holes has data everywhere. */
  uint64_t nextData(uint64_t at) const {
    const off_t found = lseek(source_.get(), off_t(at), SEEK_DATA);
    if (found >= 0) return uint64_t(found);
    return errno == ENXIO ? UINT64_MAX : at;
  }
  uint64_t nextHole(uint64_t at) const {
    const off_t found = lseek(source_.get(), off_t(at), SEEK_HOLE);
    return found >= 0 ? uint64_t(found) : UINT64_MAX;
  }

  /** Copies some of it, at least one byte. */
  uint64_t piece(uint64_t at, uint64_t bytes) {
    if (inKernel_) {
      off_t in = off_t(at), out = off_t(at);
      const ssize_t copied =
          copy_file_range(source_.get(), &in, target_.get(), &out, size_t(bytes), 0);
      if (copied > 0) return uint64_t(copied);
      const bool cannot = copied == 0 || errno == EXDEV || errno == EINVAL || errno == ENOSYS ||
                          errno == EOPNOTSUPP;
      if (!cannot) target_.fail("cannot write ");
      inKernel_ = false;
    }
    const ssize_t length =
        pread(source_.get(), buffer_.data(), std::min(bytes, uint64_t(kBufferBytes)), off_t(at));
    if (length < 0) source_.fail("cannot read ");
    if (length == 0) throw Error(Code::io, "a file became shorter while it was copied");
    for (ssize_t done = 0; done < length;) {
      const ssize_t written =
          pwrite(target_.get(), buffer_.data() + done, size_t(length - done), off_t(at) + done);
      if (written < 0) target_.fail("cannot write ");
      done += written;
    }
    return uint64_t(length);
  }

  const Descriptor source_;
  const Descriptor target_;
  Progress& progress_;
  PageBuffer buffer_{kBufferBytes};
  bool inKernel_ = true;
};

}  // namespace

void copyFile(const std::string& source, const std::string& target, uint64_t from, uint64_t bytes,
              Progress& progress) {
  Copy(source, target, progress).run(from, bytes);
}

}  // namespace ckptfs
