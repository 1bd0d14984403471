// libfuse's table of operations: takes each request apart and hands it to the one who answers it.
#pragma once

#include "fuse/fuse_api.h"

namespace ckptfs::fuse {

/** For fuse_session_new(), with a Session as the user data. */
extern const fuse_lowlevel_ops kOperations;

}  // namespace ckptfs::fuse
