// The raw parent: sizes it takes, its identity, and locks between processes.
#include "disk/parent.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

TEST_CASE("parent: reads, writes and zeroes") {
  Scratch scratch;
  Random random(2);
  Bytes model = randomBytes(random, 64 * 1024);
  Parent parent(scratch.file("disk", model), Parent::Access::direct);
  CHECK(parent.bytes() == model.size());
  const Bytes data = randomBytes(random, 1024);
  parent.write(512, data);
  std::copy(data.begin(), data.end(), model.begin() + 512);
  parent.zero(4096, 8192, true);
  parent.zero(20480, 1536, false);
  std::fill_n(model.begin() + 4096, 8192, std::byte{0});
  std::fill_n(model.begin() + 20480, 1536, std::byte{0});
  parent.flush();
  Bytes found(model.size());
  parent.read(0, found);
  CHECK(found == model);
  CHECK(contents(parent.path()) == model);
}

TEST_CASE("parent: refuses what is no disk, and says which") {
  Scratch scratch;
  std::string message;
  CHECK(codeOf([&] { Parent(scratch.path("none"), Parent::Access::read); }, &message) ==
        Code::notFound);
  CHECK(message.find(scratch.path("none")) != std::string::npos);
  CHECK(codeOf([&] { Parent(scratch.file("empty", {}), Parent::Access::read); }) == Code::usage);
  CHECK(codeOf([&] { Parent(scratch.file("odd", Bytes(1000)), Parent::Access::read); }, &message) ==
        Code::usage);
  CHECK(message.find("1000 bytes") != std::string::npos);
  CHECK(codeOf([&] { Parent(scratch.path(""), Parent::Access::read); }) ==
        Code::usage);  // the directory
  REQUIRE(mkfifo(scratch.path("fifo").c_str(), 0600) == 0);
  CHECK(codeOf([&] { Parent(scratch.path("fifo"), Parent::Access::read); }) == Code::usage);
  CHECK(codeOf([&] { Parent("/dev/null", Parent::Access::direct); }) == Code::usage);
}

TEST_CASE("parent: notices that it is not what the checkpoint saw") {
  Scratch scratch;
  const std::string path = scratch.file("disk", Bytes(8192));
  const ParentIdentity before = Parent(path, Parent::Access::read).identity();
  Parent(path, Parent::Access::read).require(before);

  std::string message;
  const timespec later[2] = {{0, UTIME_OMIT}, {time_t(before.mtimeNs / 1'000'000'000), 1}};
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), later, 0) == 0);
  CHECK(codeOf([&] { Parent(path, Parent::Access::read).require(before); }, &message) ==
        Code::damaged);
  CHECK(message.find("changed since the checkpoint") != std::string::npos);
  const timespec back[2] = {
      {0, UTIME_OMIT},
      {time_t(before.mtimeNs / 1'000'000'000), long(before.mtimeNs % 1'000'000'000)}};
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), back, 0) == 0);
  Parent(path, Parent::Access::read).require(before);
  REQUIRE(truncate(path.c_str(), 4096) == 0);
  REQUIRE(utimensat(AT_FDCWD, path.c_str(), back, 0) == 0);
  CHECK(codeOf([&] { Parent(path, Parent::Access::read).require(before); }, &message) ==
        Code::damaged);
  CHECK(message.find("had 8192 bytes and has 4096") != std::string::npos);
}

// Runs `child` in another process, which must not throw and stays until `meanwhile` is done here.
template <class Child, class Meanwhile>
void beside(Child child, Meanwhile meanwhile) {
  int ready[2], done[2];
  REQUIRE(pipe(ready) == 0);
  REQUIRE(pipe(done) == 0);
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    char byte = 'x';
    close(done[1]);
    try {
      const auto held = child();
      if (write(ready[1], &byte, 1) == 1 && read(done[0], &byte, 1) >= 0) _exit(0);
    } catch (const Error&) {
    }
    _exit(1);
  }
  close(ready[1]);
  close(done[0]);
  char byte;
  const bool started = read(ready[0], &byte, 1) == 1;
  if (started) meanwhile(pid);
  close(done[1]);
  close(ready[0]);
  int status = 0;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  CHECK(started);
  CHECK(status == 0);
}

TEST_CASE("parent: one writer or many readers, across processes") {
  Scratch scratch;
  const std::string path = scratch.file("disk", Bytes(4096));
  const auto open = [&](bool writable) {
    return std::make_unique<Parent>(path, writable ? Parent::Access::direct : Parent::Access::read);
  };

  beside([&] { return open(true); },
         [&](pid_t holder) {
           std::string message;
           CHECK(codeOf([&] { open(false); }, &message) == Code::busy);
           CHECK(message.find("in use by another VM (pid " + std::to_string(holder) + ")") !=
                 std::string::npos);
           CHECK(codeOf([&] { open(true); }) == Code::busy);
         });
  open(true);  // free again
  beside([&] { return open(false); },
         [&](pid_t) {
           open(false);
           CHECK(codeOf([&] { open(true); }) == Code::busy);
         });
  beside(
      [&] {
        auto parent = open(true);
        parent->freeze();
        return parent;
      },
      [&](pid_t) {
        open(false);
        CHECK(codeOf([&] { open(true); }) == Code::busy);
      });
}

}  // namespace
}  // namespace ckptfs
