// Requests for the bytes of open files, answered without JavaScript where a native source has them.
//
// They are carried out by the thread that took them, in its own buffer: a source that is late still
// writes into that when its request has long been answered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "fuse/context.h"

namespace ckptfs::fuse {

/** The thread that serves a request, as far as the request is concerned. */
struct Turn {
  std::span<std::byte> buffer;  // kMaxPieceBytes
  bool mayBlock;
};

class ByteRequests {
 public:
  explicit ByteRequests(Context& context) : context_(context) {}

  void read(fuse_req_t req, uint64_t handle, uint64_t offset, size_t bytes, const Turn& turn);
  void write(fuse_req_t req, uint64_t handle, uint64_t offset, std::span<const std::byte> from,
             const Turn& turn);
  /** What was written to the file is durable when it is answered. */
  void sync(fuse_req_t req, uint64_t handle, const Turn& turn);
  /** SEEK_DATA and SEEK_HOLE. */
  void seek(fuse_req_t req, uint64_t handle, uint64_t offset, int whence, const Turn& turn);
  /** Zeros in place of a range; other ways of fallocate(2) are EOPNOTSUPP. */
  void allocate(fuse_req_t req, uint64_t handle, int mode, uint64_t offset, uint64_t bytes,
                const Turn& turn);
  /** Whether it has changed since it was opened, and without `waiting` no more than that. */
  void poll(fuse_req_t req, uint64_t handle, Poll waiting);
  void release(fuse_req_t req, uint64_t handle);

 private:
  using File = std::shared_ptr<const OpenFile>;
  using Work = std::function<void(Request&, const OpenFile&, std::span<std::byte> buffer)>;

  /** Null, and answered with EBADF, when there is none, or it was not opened for writing. */
  File fileFor(fuse_req_t req, uint64_t handle, bool writing) const;
  void carryOut(fuse_req_t req, File file, const Turn& turn, Work work);
  void ask(fuse_req_t req, const OpenFile& file, Question question, Questions::Reply reply);

  Context& context_;
};

}  // namespace ckptfs::fuse
