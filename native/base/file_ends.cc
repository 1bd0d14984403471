#include "base/file_ends.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "base/error.h"

namespace ckptfs {

namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

/** Appends the bytes from `offset` on; fewer where the file ends. */
void append(std::string& text, int fd, uint64_t offset, size_t bytes, const std::string& path) {
  size_t done = text.size();
  text.resize(done + bytes);
  while (done < text.size()) {
    const ssize_t count = pread(fd, text.data() + done, text.size() - done, off_t(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throwErrno(errno, "cannot read " + path);
    if (count == 0) break;
    done += size_t(count);
    offset += uint64_t(count);
  }
  text.resize(done);
}

}  // namespace

std::optional<FileEnds> readFileEnds(const std::string& path, size_t head, size_t tail) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  struct stat stats;
  if (file.fd < 0 || fstat(file.fd, &stats) != 0) throwErrno(errno, "cannot read " + path);
  const uint64_t bytes = uint64_t(stats.st_size);
  FileEnds ends;
  ends.modifiedMs = double(stats.st_mtim.tv_sec) * 1e3 + double(stats.st_mtim.tv_nsec) / 1e6;
  if (bytes <= head + tail) {
    append(ends.text, file.fd, 0, bytes, path);
  } else {
    append(ends.text, file.fd, 0, head, path);
    append(ends.text, file.fd, bytes - tail, tail, path);
  }
  return ends;
}

}  // namespace ckptfs
