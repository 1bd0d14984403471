#include "fuse/byte_requests.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "fuse/seek.h"
#include "fuse/session_worker.h"

namespace ckptfs::fuse {

namespace {

/** Answers with success, if nobody has answered yet. */
void succeed(Requests& requests, Request& request) {
  if (const fuse_req_t req = requests.take(request)) fuse_reply_err(req, 0);
}

bool isBeyond(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset > size || bytes > size - offset;
}

}  // namespace

ByteRequests::File ByteRequests::fileFor(fuse_req_t req, uint64_t handle, bool writing) const {
  File file = context_.files.find(handle);
  if (file && (file->writable || !writing)) return file;
  fuse_reply_err(req, EBADF);
  return nullptr;
}

void ByteRequests::carryOut(fuse_req_t req, File file, const Turn& turn, Work work) {
  auto request = context_.requests.begin(req, file->path);
  if (!request) return;
  const auto run = [&context = context_](Request& done, const OpenFile& of, const Work& what,
                                         std::span<std::byte> buffer) {
    try {
      what(done, of, buffer);
    } catch (const Error& error) {
      context.fail(done, error);
    } catch (const std::exception& error) {
      context.fail(done, Error(Code::io, error.what()));
    }
  };
  if (turn.mayBlock) return run(*request, *file, work, turn.buffer);
  context_.crew->submit([run, request = std::move(request), file = std::move(file),
                         work = std::move(work)](Worker& worker) {
    run(*request, *file, work, static_cast<SessionWorker&>(worker).buffer());
  });
}

void ByteRequests::ask(fuse_req_t req, const OpenFile& file, Question question,
                       Questions::Reply reply) {
  question.path = *file.path;
  question.handle = file.handle;
  context_.questions.ask(req, std::move(question), std::move(reply));
}

void ByteRequests::read(fuse_req_t req, uint64_t handle, uint64_t offset, size_t bytes,
                        const Turn& turn) {
  File file = fileFor(req, handle, false);
  if (!file) return;
  bytes = std::min(bytes, kMaxPieceBytes);
  Requests& requests = context_.requests;
  if (!file->source) {
    return ask(req, *file, {.kind = "read", .position = offset, .bytes = bytes},
               [&requests, bytes](Request& request, const Answer& answer) {
                 if (answer.data.size() > bytes)
                   throw Error(Code::usage, "more than was asked for");
                 const fuse_req_t taken = requests.take(request);
                 const auto* const data = reinterpret_cast<const char*>(answer.data.data());
                 return taken != nullptr && fuse_reply_buf(taken, data, answer.data.size()) == 0;
               });
  }
  carryOut(req, std::move(file), turn,
           [&requests, offset, bytes](Request& request, const OpenFile& of,
                                      std::span<std::byte> buffer) {
             const auto source = of.source->now();
             const uint64_t size = source->size();
             const auto piece =
                 buffer.first(offset < size ? std::min<uint64_t>(bytes, size - offset) : 0);
             if (!piece.empty()) source->read(offset, piece);
             if (const fuse_req_t taken = requests.take(request))
               fuse_reply_buf(taken, reinterpret_cast<const char*>(piece.data()), piece.size());
           });
}

void ByteRequests::write(fuse_req_t req, uint64_t handle, uint64_t offset,
                         std::span<const std::byte> from, const Turn& turn) {
  File file = fileFor(req, handle, true);
  if (!file) return;
  Requests& requests = context_.requests;
  if (!file->source) {
    return ask(req, *file,
               {.kind = "write", .position = offset, .data = {from.begin(), from.end()}},
               [&requests, bytes = from.size()](Request& request, const Answer&) {
                 const fuse_req_t taken = requests.take(request);
                 return taken != nullptr && fuse_reply_write(taken, bytes) == 0;
               });
  }
  const auto writing = [&requests, offset](Request& request, const OpenFile& of,
                                           std::span<const std::byte> piece) {
    if (isBeyond(offset, piece.size(), of.source->now()->size())) {
      requests.fail(request, EFBIG);
      return;
    }
    of.source->write(offset, piece);
    if (const fuse_req_t taken = requests.take(request)) fuse_reply_write(taken, piece.size());
  };
  if (turn.mayBlock) {
    return carryOut(req, std::move(file), turn,
                    [&writing, from](Request& request, const OpenFile& of, std::span<std::byte>) {
                      writing(request, of, from);
                    });
  }
  // What was received is gone by the time that it is written.
  carryOut(req, std::move(file), turn,
           [writing, copy = std::vector<std::byte>(from.begin(), from.end())](
               Request& request, const OpenFile& of, std::span<std::byte>) {
             writing(request, of, copy);
           });
}

void ByteRequests::sync(fuse_req_t req, uint64_t handle, const Turn& turn) {
  File file = fileFor(req, handle, false);
  if (!file) return;
  Requests& requests = context_.requests;
  if (!file->writable) {
    fuse_reply_err(req, 0);
  } else if (!file->source) {
    ask(req, *file, {.kind = "sync"}, [&requests](Request& request, const Answer&) {
      succeed(requests, request);
      return true;
    });
  } else {
    carryOut(req, std::move(file), turn,
             [&requests](Request& request, const OpenFile& of, std::span<std::byte>) {
               const auto source = of.source->now();
               source->flush();
               succeed(requests, request);
             });
  }
}

void ByteRequests::seek(fuse_req_t req, uint64_t handle, uint64_t offset, int whence,
                        const Turn& turn) {
  File file = fileFor(req, handle, false);
  if (!file) return;
  if (whence != SEEK_DATA && whence != SEEK_HOLE) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  carryOut(req, std::move(file), turn,
           [&requests = context_.requests, offset, whence](Request& request, const OpenFile& of,
                                                           std::span<std::byte>) {
             const bool hole = whence == SEEK_HOLE;
             // Where JavaScript has the bytes, nobody knows of holes.
             const auto found = of.source ? seekRun(*of.source->now(), offset, hole)
                                          : seekRun(ByteSource{of.bytes, {}}, offset, hole);
             const fuse_req_t taken = requests.take(request);
             if (taken == nullptr) return;
             if (found)
               fuse_reply_lseek(taken, off_t(*found));
             else
               fuse_reply_err(taken, ENXIO);
           });
}

void ByteRequests::allocate(fuse_req_t req, uint64_t handle, int mode, uint64_t offset,
                            uint64_t bytes, const Turn& turn) {
  File file = fileFor(req, handle, true);
  if (!file) return;
  const bool punches = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zeroes = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (!file->source || (!punches && !zeroes)) {
    fuse_reply_err(req, EOPNOTSUPP);
    return;
  }
  carryOut(req, std::move(file), turn,
           [&requests = context_.requests, offset, bytes, mode](
               Request& request, const OpenFile& of, std::span<std::byte>) {
             const auto source = of.source->now();
             const uint64_t size = source->size();
             if (!source->zero) {
               requests.fail(request, EOPNOTSUPP);
             } else if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && isBeyond(offset, bytes, size)) {
               requests.fail(request, EFBIG);
             } else {
               if (offset < size) of.source->zero(offset, std::min(bytes, size - offset));
               succeed(requests, request);
             }
           });
}

void ByteRequests::poll(fuse_req_t req, uint64_t handle, Poll waiting) {
  const File file = fileFor(req, handle, false);
  if (!file) return;
  // No read waits for anything; writes of what is open for them neither.
  const unsigned ready = POLLIN | POLLRDNORM | (file->writable ? POLLOUT | POLLWRNORM : 0);
  if (!file->polls) {
    fuse_reply_poll(req, ready);
    return;
  }
  Question question{.kind = "poll", .bytes = waiting ? 1u : 0u};
  if (waiting) context_.pollers.wait(handle, std::move(waiting));
  ask(req, *file, std::move(question),
      [&requests = context_.requests, ready](Request& request, const Answer& answer) {
        const fuse_req_t taken = requests.take(request);
        const unsigned events = answer.text == "changed" ? ready | POLLPRI : ready;
        return taken != nullptr && fuse_reply_poll(taken, events) == 0;
      });
}

void ByteRequests::release(fuse_req_t req, uint64_t handle) {
  context_.pollers.drop(handle);
  if (const File file = context_.files.remove(handle)) context_.owner->released(handle);
  fuse_reply_err(req, 0);
}

}  // namespace ckptfs::fuse
