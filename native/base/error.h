// The one exception type of the native code, and the helpers that throw it.
//
// Control paths (open, parse, configure, publish) throw Error. Fault paths (trace handlers, guest
// execution) never throw: they are noexcept and return a bool or record the failure.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace ckptfs {

/** What kind of failure, stable across releases; src/errors.ts maps it to a code and an exit code.
 */
enum class Code : uint8_t {
  usage,        // the caller asked for something malformed or out of range
  notFound,     // a file or object does not exist
  exists,       // the name is taken
  busy,         // locked or in use by another VM or operation
  io,           // the operating system refused or failed an operation
  noSpace,      // the store's filesystem is full
  damaged,      // bytes do not match their checksum or format
  unsupported,  // well formed, but a version or feature this build does not have
  cancelled,    // stopped on request
};

/** The code's stable name as JavaScript sees it: "USAGE", "NOT_FOUND", "EXISTS", ... */
const char* codeName(Code code) noexcept;

/** A failure with a message for people: what happened, to which thing, and what to do about it. */
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

/** Throws Error for errno value `err`: "<what>: <strerror>", ENOENT → notFound, ENOSPC → noSpace,
 * else io. */
[[noreturn]] void throwErrno(int err, const std::string& what);

}  // namespace ckptfs
