// What the session asks of the tree, and what it is told: values that cross to JavaScript and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/shared_source.h"

namespace ckptfs::fuse {

/** src/native/fuse.ts has the same shape, and says which fields belong to which kind. */
struct Question {
  uint64_t id = 0;
  const char* kind;
  std::string path = {};
  std::string name = {};
  uint64_t handle = 0;
  uint64_t position = 0;
  uint64_t bytes = 0;
  std::vector<std::byte> data = {};
  bool limited = true;  // else it takes as long as it takes; not for JavaScript
};

struct Answer {
  int err = 0;  // an errno; then there is nothing else
  std::string text = {};
  std::span<const std::byte> data = {};  // the answerer's, during the call
  std::shared_ptr<SharedSource> source = nullptr;
};

/** The one who keeps the tree. Called from any thread; may neither block nor throw. */
class Owner {
 public:
  virtual ~Owner() = default;
  /** Answered by Session::answer(), sooner or later or never. */
  virtual void ask(Question question) noexcept = 0;
  /** The kernel is done with an open file: nothing is asked about it any more. */
  virtual void released(uint64_t handle) noexcept = 0;
  /** Somebody has to look into this. */
  virtual void failed(const std::string& path, const std::string& what, int err) noexcept = 0;
};

}  // namespace ckptfs::fuse
