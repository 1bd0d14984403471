#include "fuse/session.h"

#include <fcntl.h>
#include <fuse3/fuse_log.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <utility>

#include "base/thread_name.h"
#include "fuse/operations.h"
#include "fuse/session_worker.h"

namespace ckptfs::fuse {

using namespace std::chrono_literals;

namespace {

constexpr auto kConnectLimit = 10s;
/** How long the end waits for threads in a source; one that answers at all is faster. */
constexpr auto kEndLimit = 2s;

/** What libfuse said last on this thread, which it has no other way to tell. */
thread_local std::string said;

void remember(fuse_log_level, const char* format, va_list arguments) {
  std::array<char, 512> text;
  vsnprintf(text.data(), text.size(), format, arguments);
  said = text.data();
  while (!said.empty() && said.back() == '\n') said.pop_back();
}

ssize_t sendTo(int socket, iovec* pieces, int count, void*) {
  return writev(socket, pieces, count);
}
ssize_t receiveFrom(int socket, void* into, size_t bytes, void*) {
  const ssize_t received = recv(socket, into, bytes, 0);
  if (received != 0) return received;
  errno = ENODEV;  // as the kernel tells that the mount is gone
  return -1;
}

}  // namespace

Session::Session(Setup setup, std::unique_ptr<Owner> owner)
    : context_(std::move(setup), std::move(owner)) {
  fuse_set_log_func(remember);
  // The kernel wants to be told at the mount, libfuse when it connects (operations.cc).
  std::string options = "max_read=" + std::to_string(kMaxPieceBytes);
  for (const std::string& option : context_.setup.options) options += "," + option;
  std::array arguments{const_cast<char*>("ckptfs"), const_cast<char*>("-o"), options.data()};
  fuse_args given = FUSE_ARGS_INIT(int(arguments.size()), arguments.data());
  said.clear();
  fuse_ = fuse_session_new(&given, &kOperations, sizeof kOperations, this);
  fuse_opt_free_args(&given);
  if (fuse_ == nullptr) throw Error(Code::usage, "libfuse refuses the mount options: " + said);
  endEvent_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (endEvent_ >= 0) return;
  const int err = errno;
  fuse_session_destroy(fuse_);
  throwErrno(err, "cannot make an event");
}

Session::~Session() {
  end();
  fuse_session_destroy(fuse_);
  close(endEvent_);
}

void Session::mount(const std::string& directory) {
  said.clear();
  if (fuse_session_mount(fuse_, directory.c_str()) != 0)
    throw Error(Code::io, "cannot mount on " + directory + ": " +
                              (said.empty() ? "libfuse does not say why" : said));
  begin();
  std::unique_lock lock(lock_);
  if (changed_.wait_for(lock, kConnectLimit, [this] { return connected_; })) return;
  throw Error(Code::io, "the kernel has not connected to the mount on " + directory);
}

void Session::connect(int socket) {
  static constexpr fuse_custom_io kSocket{sendTo, receiveFrom, nullptr, nullptr};
  if (const int err = fuse_session_custom_io(fuse_, &kSocket, socket); err != 0)
    throwErrno(-err, "cannot use the socket");
  begin();
}

void Session::begin() {
  device_ = fuse_session_fd(fuse_);
  fcntl(device_, F_SETFL, fcntl(device_, F_GETFL) | O_NONBLOCK);
  invalidator_.emplace(fuse_, context_.nodes);
  watchdog_ = std::thread([this] { watch(); });
  context_.crew = std::make_shared<Crew>(kMaxThreads, [session = weak_from_this()] {
    return std::make_unique<SessionWorker>(session.lock());
  });
  context_.crew->start();
}

void Session::connected() {
  const std::lock_guard lock(lock_);
  connected_ = true;
  changed_.notify_all();
}

void Session::watch() {
  nameThread("fuse-watch");
  const auto limit = context_.setup.requestLimit;
  const auto every = std::clamp<std::chrono::milliseconds>(limit / 16, 5ms, 500ms);
  std::unique_lock lock(lock_);
  while (!changed_.wait_for(lock, every, [this] { return ended_; })) {
    lock.unlock();
    context_.requests.expire(Clock::now(), [&](const Request& late) {
      if (late.question() != 0) context_.questions.forget(late.question());
      context_.owner->failed(
          late.path(), "no answer within " + std::to_string(limit.count()) + " ms", ETIMEDOUT);
    });
    lock.lock();
  }
}

void Session::changed(std::string directory, std::string name) {
  if (invalidator_) invalidator_->changed(std::move(directory), std::move(name));
}

void Session::end() {
  {
    const std::lock_guard lock(lock_);
    if (std::exchange(ended_, true)) return;
    changed_.notify_all();
  }
  context_.requests.close();
  if (!context_.crew) return;  // it was never mounted
  watchdog_.join();
  // While the crew still answers those that hold what a message to the kernel waits for.
  invalidator_->stop();
  ending_.store(true, std::memory_order_release);
  eventfd_write(endEvent_, 1);
  context_.crew->awaitEnd(kEndLimit);
  // This object, and threads that are stuck in sources, keep the descriptor's number, but not the
  // connection that it stood for.
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing < 0) return;
  dup3(nothing, device_, O_CLOEXEC);
  close(nothing);
}

}  // namespace ckptfs::fuse
