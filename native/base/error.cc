#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace ckptfs {

const char* codeName(Code code) noexcept {
  switch (code) {
    case Code::usage:
      return "USAGE";
    case Code::notFound:
      return "NOT_FOUND";
    case Code::exists:
      return "EXISTS";
    case Code::busy:
      return "BUSY";
    case Code::io:
      return "IO";
    case Code::noSpace:
      return "NO_SPACE";
    case Code::damaged:
      return "DAMAGED";
    case Code::unsupported:
      return "UNSUPPORTED";
    case Code::cancelled:
      return "CANCELLED";
  }
  return "IO";
}

static Code codeOf(int err) {
  switch (err) {
    case ENOENT:
      return Code::notFound;
    case EEXIST:
      return Code::exists;
    case EBUSY:
    case EWOULDBLOCK:
      return Code::busy;
    case ENOSPC:
    case EDQUOT:
      return Code::noSpace;
    default:
      return Code::io;
  }
}

void throwErrno(int err, const std::string& what) {
  throw Error(codeOf(err), what + ": " + std::generic_category().message(err));
}

}  // namespace ckptfs
