// The first and the last bytes of small files, for listings of thousands of them: one call for each
// file, where JavaScript needs five trips to another thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace ckptfs {

struct FileEnds {
  /** All of the file if it is no longer than both ends. */
  std::string text;
  /** Modification time, in milliseconds since 1970. */
  double modifiedMs = 0;
};

/** The first `head` bytes and the last `tail`; nothing where there is no such file. Throws Error:
 *  io. */
std::optional<FileEnds> readFileEnds(const std::string& path, size_t head, size_t tail);

}  // namespace ckptfs
