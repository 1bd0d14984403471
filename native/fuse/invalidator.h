// Tells the kernel what it must not believe any longer.
//
// Such a message waits for locks of the kernel that somebody may hold who waits for an answer of
// ours: so a thread of its own sends them, and nobody waits for it but the end of the session,
// which answers all requests first.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "fuse/fuse_api.h"
#include "fuse/node_table.h"

namespace ckptfs::fuse {

class Invalidator {
 public:
  /** What is more is dropped: the kernel asks again by itself, only later. */
  static constexpr size_t kMaxQueued = 4096;

  Invalidator(fuse_session* fuse, const NodeTable& nodes);
  ~Invalidator() { stop(); }

  /** A name in a directory stands for something else than before, or for nothing; the directory's
   *  own attributes are asked for again, too. Without a name, that is all. From any thread. */
  void changed(std::string directory, std::string name);
  /** Sends nothing more, and waits for the end of what is being sent. Idempotent. */
  void stop();

 private:
  struct Change {
    std::string directory, name;
  };
  void run();
  void send(const Change& change);

  fuse_session* const fuse_;
  const NodeTable& nodes_;
  std::mutex lock_;  // guards the two below
  std::condition_variable wake_;
  std::deque<Change> queued_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ckptfs::fuse
