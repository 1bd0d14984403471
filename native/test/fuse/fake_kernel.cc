#include "test/fuse/fake_kernel.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace ckptfs::fuse {

using namespace std::chrono_literals;

std::string FakeKernel::Reply::text() const {
  return {reinterpret_cast<const char*>(body.data()), body.size()};
}

FakeKernel::FakeKernel(Session& session) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  socket_ = ends[0];
  receiver_ = std::thread([this] { receive(); });
  session.connect(ends[1]);
  fuse_init_in hello{};
  hello.major = FUSE_KERNEL_VERSION;
  hello.minor = 31;
  hello.max_readahead = 128 << 10;
  hello.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO;
  const auto said = await(send(FUSE_INIT, 0, bytesOf(hello))).as<fuse_init_out>();
  CHECK(said.max_write == kMaxPieceBytes);
  CHECK(said.max_pages == kMaxPieceBytes / 4096);
  CHECK((said.flags & (FUSE_AUTO_INVAL_DATA | FUSE_ATOMIC_O_TRUNC)) == 0);
}

FakeKernel::~FakeKernel() {
  shutdown(socket_, SHUT_RDWR);
  receiver_.join();
  close(socket_);
}

uint64_t FakeKernel::send(uint32_t opcode, uint64_t node, std::string body) {
  fuse_in_header header{};
  header.len = uint32_t(sizeof header + body.size());
  header.opcode = opcode;
  header.unique = ++last_;
  header.nodeid = node;
  const std::string message = bytesOf(header) + body;
  CHECK(::send(socket_, message.data(), message.size(), MSG_NOSIGNAL) == ssize_t(message.size()));
  return last_;
}

uint64_t FakeKernel::lookup(uint64_t parent, std::string_view name) {
  return send(FUSE_LOOKUP, parent, std::string(name) + '\0');
}
uint64_t FakeKernel::getattr(uint64_t node) {
  return send(FUSE_GETATTR, node, bytesOf(fuse_getattr_in{}));
}
uint64_t FakeKernel::open(uint64_t node, uint32_t flags) {
  return send(FUSE_OPEN, node, bytesOf(fuse_open_in{.flags = flags, .open_flags = 0}));
}
uint64_t FakeKernel::read(uint64_t handle, uint64_t offset, uint32_t bytes) {
  fuse_read_in what{};
  what.fh = handle;
  what.offset = offset;
  what.size = bytes;
  return send(FUSE_READ, 2, bytesOf(what));
}
uint64_t FakeKernel::write(uint64_t handle, uint64_t offset, std::string_view data) {
  fuse_write_in what{};
  what.fh = handle;
  what.offset = offset;
  what.size = uint32_t(data.size());
  return send(FUSE_WRITE, 2, bytesOf(what) + std::string(data));
}
uint64_t FakeKernel::seek(uint64_t handle, uint64_t offset, uint32_t whence) {
  fuse_lseek_in what{};
  what.fh = handle;
  what.offset = offset;
  what.whence = whence;
  return send(FUSE_LSEEK, 2, bytesOf(what));
}
uint64_t FakeKernel::readdir(uint64_t node, uint64_t handle, uint64_t first, uint32_t bytes) {
  fuse_read_in what{};
  what.fh = handle;
  what.offset = first;
  what.size = bytes;
  return send(FUSE_READDIR, node, bytesOf(what));
}

FakeKernel::Reply FakeKernel::await(uint64_t request) {
  std::unique_lock lock(lock_);
  REQUIRE(changed_.wait_for(lock, 10s, [&] { return replies_.contains(request); }));
  return replies_[request].front();
}

size_t FakeKernel::replies(uint64_t request) {
  const std::lock_guard lock(lock_);
  return replies_[request].size();
}

bool FakeKernel::isClosed() {
  std::unique_lock lock(lock_);
  return changed_.wait_for(lock, 10s, [this] { return closed_; });
}

void FakeKernel::receive() {
  std::vector<std::byte> message(256 << 10);
  for (;;) {
    const ssize_t bytes = recv(socket_, message.data(), message.size(), 0);
    const std::lock_guard lock(lock_);
    changed_.notify_all();
    if (bytes <= 0) {
      closed_ = true;
      return;
    }
    fuse_out_header header;
    std::memcpy(&header, message.data(), sizeof header);
    const std::span body = std::span(message).first(size_t(bytes)).subspan(sizeof header);
    replies_[header.unique].push_back({-header.error, {body.begin(), body.end()}});
  }
}

}  // namespace ckptfs::fuse
