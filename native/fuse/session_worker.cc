#include "fuse/session_worker.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "fuse/session.h"

namespace ckptfs::fuse {

namespace {

thread_local Turn current{};

}  // namespace

SessionWorker::SessionWorker(std::shared_ptr<Session> session)
    : session_(std::move(session)), memory_(new Memory) {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  // Exclusive: a request wakes one thread. The one that began to wait first is always preferred, so
  // that a single reader is served by a single thread, whose buffers are in the cache.
  epoll_event request{EPOLLIN | EPOLLEXCLUSIVE, {}}, end{EPOLLIN, {}};
  if (epoll_ >= 0 && epoll_ctl(epoll_, EPOLL_CTL_ADD, session_->device(), &request) == 0 &&
      epoll_ctl(epoll_, EPOLL_CTL_ADD, session_->endEvent(), &end) == 0)
    return;
  const int err = errno;
  if (epoll_ >= 0) close(epoll_);
  throwErrno(err, "a thread of the mount cannot wait for requests");
}

SessionWorker::~SessionWorker() {
  close(epoll_);
  free(received_.mem);
}

bool SessionWorker::await() {
  while (!session_->isEnding()) {
    const int received = fuse_session_receive_buf(session_->fuse(), &received_);
    if (received > 0) return true;
    if (received == -EINTR) continue;
    if (received != -EAGAIN) return false;  // the mount is gone
    epoll_event event;
    if (epoll_wait(epoll_, &event, 1, -1) < 0 && errno != EINTR) return false;
  }
  return false;
}

void SessionWorker::serve(bool mayBlock) {
  current = {buffer(), mayBlock};
  fuse_session_process_buf(session_->fuse(), &received_);
}

Turn SessionWorker::turn() noexcept {
  return current;
}

}  // namespace ckptfs::fuse
