// One thread's way of taking the kernel's requests, and its buffers.
#pragma once

#include <memory>

#include "fuse/byte_requests.h"
#include "fuse/crew.h"

namespace ckptfs::fuse {

class Session;

class SessionWorker final : public Worker {
 public:
  /** Throws Error when the thread cannot wait for requests. */
  explicit SessionWorker(std::shared_ptr<Session> session);
  ~SessionWorker() override;

  bool await() override;
  void serve(bool mayBlock) override;

  /** For the bytes of one request; kMaxPieceBytes. */
  std::span<std::byte> buffer() noexcept { return {memory_->bytes, kMaxPieceBytes}; }

  /** Of the request that this thread serves: libfuse's operations are not told. */
  static Turn turn() noexcept;

 private:
  const std::shared_ptr<Session> session_;
  /** The kernel copies several times as fast into whole pages as into what begins within one. */
  struct alignas(4096) Memory {
    std::byte bytes[kMaxPieceBytes];
  };
  const std::unique_ptr<Memory> memory_;  // not touched before it is used
  fuse_buf received_{};                   // its memory is libfuse's, and ours to free
  int epoll_ = -1;
};

}  // namespace ckptfs::fuse
