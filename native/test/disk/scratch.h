// What the disk tests share: a directory that goes away, files as byte vectors, repeatable
// randomness.
#pragma once

#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace ckptfs {

using Bytes = std::vector<std::byte>;

class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& where = std::filesystem::temp_directory_path()) {
    std::string name = (where / "ckptfs-disk-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    directory_ = name;
  }
  ~Scratch() { std::filesystem::remove_all(directory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  /** In memory if there is such a place: for thousands of little files, where a sync costs nothing.
   */
  static std::filesystem::path memory() {
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path();
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  /** A file of these bytes; its path. */
  std::string file(const std::string& name, const Bytes& bytes) const {
    std::ofstream out(path(name), std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    REQUIRE(out.good());
    return path(name);
  }

 private:
  std::string directory_;
};

inline Bytes contents(const std::string& path) {
  Bytes bytes(std::filesystem::file_size(path));
  std::ifstream in(path, std::ios::binary);
  in.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
  REQUIRE(in.good());
  return bytes;
}

using Random = std::mt19937_64;

inline Bytes randomBytes(Random& random, size_t count) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; i += 8) {
    const uint64_t word = random();
    std::memcpy(&bytes[i], &word, std::min<size_t>(8, count - i));
  }
  return bytes;
}

/** The code of the Error that `action` throws; fails the test if it throws none. */
template <class Action>
Code codeOf(Action action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  FAIL("no Error was thrown");
  return Code::usage;
}

}  // namespace ckptfs
