// An advisory lock (flock) on a file, held by this object and lost with the process.
#pragma once

#include <memory>
#include <string>

namespace ckptfs {

class LockFile {
 public:
  /** Takes the lock, making the file (mode 0600) if there is none, and writes the process id into
   * it as a hint for people. Null when somebody else holds it. Throws Error. */
  static std::unique_ptr<LockFile> take(const std::string& path);
  ~LockFile();
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;

 private:
  explicit LockFile(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace ckptfs
