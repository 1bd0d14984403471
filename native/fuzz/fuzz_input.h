// What the fuzz targets share: taking an input apart, and a directory in memory for its files.
//
// The first bytes of an input choose the way it is used; the rest is the file. Checksums would keep
// nearly every mutation from the code behind them, so most targets also mend them.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace ckptfs::fuzz {

using Bytes = std::vector<std::byte>;

/** Stops the run with a report when a property does not hold. */
#define FUZZ_CHECK(condition)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const std::byte*>(data), size) {}

  /** The next byte, 0 when there is none. */
  uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = std::to_integer<uint8_t>(rest_[0]);
    rest_ = rest_.subspan(1);
    return value;
  }
  std::span<const std::byte> rest() const { return rest_; }
  Bytes copy() const { return {rest_.begin(), rest_.end()}; }

 private:
  std::span<const std::byte> rest_;
};

/** A directory in memory for this process. Removed at its end, if that is an orderly one. */
class Scratch {
 public:
  Scratch() {
    std::string pattern = "/dev/shm/ckptfs-fuzz-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }
  /** Replaces a file by a new one. */
  std::string write(const std::string& name, std::span<const std::byte> bytes) const {
    const std::string path = path_ + "/" + name;
    unlink(path.c_str());
    const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_EXCL, 0600);
    if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      std::abort();
    close(fd);
    return path;
  }

 private:
  std::string path_;
};

/** Where the seeds are; native/Makefile sets it. */
inline std::string seedDirectory() {
  const char* const path = std::getenv("CKPTFS_FUZZ_SEEDS");
  if (path == nullptr) {
    std::fprintf(stderr, "run by: make -C native fuzz TARGET=...\n");
    std::exit(2);
  }
  return path;
}

}  // namespace ckptfs::fuzz
