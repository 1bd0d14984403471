// The bytes of a file as they are, whoever writes to it meanwhile.
#pragma once

#include <string>

#include "base/byte_source.h"

namespace ckptfs {

/** Keeps a descriptor of its own for the file that `fd` has open; `path` is for messages. */
ByteSource fileSource(int fd, const std::string& path);

}  // namespace ckptfs
