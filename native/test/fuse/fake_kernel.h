// The kernel's end of a FUSE connection, over a socket: sends requests as the kernel words them,
// and counts the replies to each.
#pragma once

#include <linux/fuse.h>

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fuse/session.h"

namespace ckptfs::fuse {

class FakeKernel {
 public:
  struct Reply {
    int err = 0;  // positive
    std::vector<std::byte> body;
    std::string text() const;
    template <class T>
    T as() const {
      T value{};
      std::memcpy(&value, body.data(), std::min(sizeof value, body.size()));
      return value;
    }
  };

  /** Connects to the session, and says hello. */
  explicit FakeKernel(Session& session);
  ~FakeKernel();

  /** Sends a request; its number is for await(). */
  uint64_t send(uint32_t opcode, uint64_t node, std::string body);
  uint64_t lookup(uint64_t parent, std::string_view name);
  uint64_t getattr(uint64_t node);
  uint64_t open(uint64_t node, uint32_t flags);
  uint64_t read(uint64_t handle, uint64_t offset, uint32_t bytes);
  uint64_t write(uint64_t handle, uint64_t offset, std::string_view data);
  uint64_t seek(uint64_t handle, uint64_t offset, uint32_t whence);
  uint64_t readdir(uint64_t node, uint64_t handle, uint64_t first, uint32_t bytes);

  /** The reply; fails the test after some seconds. */
  Reply await(uint64_t request);
  /** How many replies there have been. */
  size_t replies(uint64_t request);
  /** True when the session has closed its end, within some seconds. */
  bool isClosed();

 private:
  void receive();

  int socket_;
  uint64_t last_ = 0;
  std::mutex lock_;  // guards the two below
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<Reply>> replies_;
  bool closed_ = false;
  std::thread receiver_;
};

/** The bytes of a structure. */
template <class T>
std::string bytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace ckptfs::fuse
