// A session over a fake kernel, and its owner, whose answers the test gives.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fuse/session.h"
#include "test/fuse/fake_kernel.h"

namespace ckptfs::fuse {

using namespace std::chrono_literals;

/** Keeps what the session asks and tells, for the test to look into. */
class Listener final : public Owner {
 public:
  struct Heard {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<Question> questions;
    std::vector<uint64_t> released;
    std::vector<std::string> failures;
  };
  explicit Listener(std::shared_ptr<Heard> heard) : heard_(std::move(heard)) {}
  void ask(Question question) noexcept override {
    const std::lock_guard lock(heard_->lock);
    heard_->questions.push_back(std::move(question));
    heard_->changed.notify_all();
  }
  void released(uint64_t handle) noexcept override {
    const std::lock_guard lock(heard_->lock);
    heard_->released.push_back(handle);
  }
  void failed(const std::string& path, const std::string& what, int err) noexcept override {
    const std::lock_guard lock(heard_->lock);
    heard_->failures.push_back(path + ": " + what + " " + std::to_string(err));
    heard_->changed.notify_all();
  }

 private:
  const std::shared_ptr<Heard> heard_;
};

struct Rig {
  const std::shared_ptr<Listener::Heard> heard = std::make_shared<Listener::Heard>();
  std::shared_ptr<Session> session;
  std::unique_ptr<FakeKernel> kernel;

  explicit Rig(std::chrono::milliseconds limit = 30s)
      : session(std::make_shared<Session>(
            Setup{.options = {"ro"}, .requestLimit = limit, .errnos = {{"NO_SPACE", ENOSPC}}},
            std::make_unique<Listener>(heard))),
        kernel(std::make_unique<FakeKernel>(*session)) {}
  ~Rig() { session->end(); }

  /** The next question, which must be of that kind. */
  Question question(const char* kind) {
    std::unique_lock lock(heard->lock);
    REQUIRE(heard->changed.wait_for(lock, 10s, [this] { return !heard->questions.empty(); }));
    Question question = std::move(heard->questions.front());
    heard->questions.pop_front();
    REQUIRE(std::string_view(question.kind) == kind);
    return question;
  }

  /** What has been told of, which comes after the reply: so many, in the order of their texts. */
  std::vector<std::string> failures(size_t count) {
    std::unique_lock lock(heard->lock);
    CHECK(heard->changed.wait_for(lock, 10s, [&] { return heard->failures.size() >= count; }));
    std::vector<std::string> told = heard->failures;
    std::sort(told.begin(), told.end());
    return told;
  }

  static std::string stat(const std::string& key, unsigned mode = 0100444) {
    return R"({"mode":)" + std::to_string(mode) +
           R"(,"inode":7,"bytes":100,"blocks":1,"nlink":1,"uid":5,"gid":6,"timeMs":1500.5,"key":")" +
           key + R"(","attributesSeconds":5,"entrySeconds":2})";
  }

  uint64_t node(std::string_view name, const std::string& key) {
    const uint64_t request = kernel->lookup(1, name);
    CHECK(session->answer(question("stat").id, {.text = stat(key)}));
    return kernel->await(request).as<fuse_entry_out>().nodeid;
  }

  /** Opens a file over the source; its handle. */
  uint64_t open(ByteSource source, bool writing = false, bool polls = false) {
    const uint64_t handle = ++lastHandle;
    const uint64_t request = kernel->open(node("file", "k"), writing ? O_RDWR : O_RDONLY);
    const Question asked = question(writing ? "openWritable" : "open");
    CHECK(session->answer(
        asked.id, {.text = R"({"handle":)" + std::to_string(handle) +
                           R"(,"bytes":100,"key":"k","caching":"kept","version":"","polls":)" +
                           (polls ? "true" : "false") + "}",
                   .source = std::make_shared<SharedSource>(std::move(source))}));
    const auto opened = kernel->await(request).as<fuse_open_out>();
    CHECK(opened.fh == handle);
    CHECK((opened.open_flags & FOPEN_KEEP_CACHE) != 0);
    return handle;
  }
  uint64_t lastHandle = 0;
};

}  // namespace ckptfs::fuse
