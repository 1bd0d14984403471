#include "fuse/session.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <latch>

#include "test/fuse/session_rig.h"

using namespace ckptfs;
using namespace ckptfs::fuse;
using namespace std::chrono_literals;

namespace {

ByteSource alphabet(uint64_t bytes) {
  return {bytes, [](uint64_t offset, std::span<std::byte> into) {
            for (std::byte& byte : into) byte = std::byte('a' + offset++ % 26);
          }};
}

/** Reads come back when the latch opens. */
ByteSource stuck(std::shared_ptr<std::latch> release, std::shared_ptr<std::atomic<int>> reading) {
  return {100, [release, reading](uint64_t, std::span<std::byte>) {
            ++*reading;
            release->wait();
            --*reading;
          }};
}

}  // namespace

TEST_SUITE("session") {
  TEST_CASE("a look-up is asked, and answered with what is told") {
    Rig rig;
    const uint64_t request = rig.kernel->lookup(1, "vms");
    const Question asked = rig.question("stat");
    CHECK(asked.path == "/vms");
    CHECK(rig.session->answer(asked.id, {.text = Rig::stat("", 040555)}));
    const auto entry = rig.kernel->await(request).as<fuse_entry_out>();
    CHECK(entry.attr.mode == 040555);
    CHECK(entry.attr.ino == 7);
    CHECK(entry.attr.size == 100);
    CHECK(entry.attr.mtime == 1);
    CHECK(entry.attr.mtimensec == 500'500'000);
    CHECK(entry.attr.uid == 5);
    CHECK(entry.entry_valid == 2);
    CHECK(entry.attr_valid == 5);

    const uint64_t missing = rig.kernel->lookup(entry.nodeid, "x");
    const Question second = rig.question("stat");
    CHECK(second.path == "/vms/x");
    CHECK(rig.session->answer(second.id, {.err = ENOENT}));
    CHECK(rig.kernel->await(missing).err == ENOENT);
    CHECK_FALSE(rig.session->answer(second.id, {.err = ENOENT}));  // once is enough
  }

  TEST_CASE("another thing under a name is another node, and the old one is stale") {
    Rig rig;
    const uint64_t old = rig.node("one", "1"), fresh = rig.node("one", "2");
    CHECK(old != fresh);
    uint64_t request = rig.kernel->getattr(old);
    CHECK(rig.session->answer(rig.question("stat").id, {.text = Rig::stat("2")}));
    CHECK(rig.kernel->await(request).err == ESTALE);
    request = rig.kernel->getattr(fresh);
    CHECK(rig.session->answer(rig.question("stat").id, {.text = Rig::stat("2")}));
    CHECK(rig.kernel->await(request).err == 0);

    request = rig.kernel->open(old, O_RDONLY);
    const Answer opened{
        .text = R"({"handle":3,"bytes":1,"key":"2","caching":"none","version":"","polls":false})"};
    CHECK_FALSE(rig.session->answer(rig.question("open").id, opened));
    CHECK(rig.kernel->await(request).err == ESTALE);
    CHECK(rig.kernel->await(rig.kernel->read(3, 0, 1)).err == EBADF);
  }

  TEST_CASE("no answer in time is ETIMEDOUT, and the late one is of no use") {
    Rig rig(100ms);
    const uint64_t request = rig.kernel->lookup(1, "slow");
    const Question asked = rig.question("stat");
    CHECK(rig.kernel->await(request).err == ETIMEDOUT);
    CHECK_FALSE(rig.session->answer(asked.id, {.text = Rig::stat("")}));
    CHECK(rig.kernel->replies(request) == 1);
    CHECK(rig.failures(1) ==
          std::vector<std::string>{"/slow: no answer within 100 ms " + std::to_string(ETIMEDOUT)});
  }

  TEST_CASE("a malformed answer is EIO") {
    Rig rig;
    for (const char* text : {"", "[]", "{\"mode\":\"x\"}"}) {
      const uint64_t request = rig.kernel->lookup(1, "x");
      const Question asked = rig.question("stat");
      CHECK_THROWS_AS(rig.session->answer(asked.id, {.text = text}), Error);
      CHECK(rig.kernel->await(request).err == EIO);
    }
  }

  TEST_CASE("a native source is read without asking") {
    Rig rig;
    const uint64_t handle = rig.open(alphabet(100));
    CHECK(rig.kernel->await(rig.kernel->read(handle, 25, 4)).text() == "zabc");
    CHECK(rig.kernel->await(rig.kernel->read(handle, 98, 50)).text() == "uv");
    CHECK(rig.kernel->await(rig.kernel->read(handle, 100, 50)).text().empty());
    CHECK(rig.kernel->await(rig.kernel->read(handle, UINT64_MAX / 2, 50)).text().empty());
    CHECK(rig.kernel->await(rig.kernel->read(handle + 1, 0, 1)).err == EBADF);
    CHECK(rig.kernel->await(rig.kernel->write(handle, 0, "x")).err == EBADF);
    fuse_release_in release{};
    release.fh = handle;
    CHECK(rig.kernel->await(rig.kernel->send(FUSE_RELEASE, 2, bytesOf(release))).err == 0);
    CHECK(rig.kernel->await(rig.kernel->read(handle, 0, 1)).err == EBADF);
    const std::lock_guard lock(rig.heard->lock);
    CHECK(rig.heard->questions.empty());
    CHECK(rig.heard->released == std::vector<uint64_t>{handle});
  }

  TEST_CASE("a source that fails is told of, once a request") {
    Rig rig;
    const uint64_t handle = rig.open({100, [](uint64_t offset, std::span<std::byte>) {
                                        if (offset == 0) throw Error(Code::damaged, "block 7");
                                        if (offset == 1) throw Error(Code::noSpace, "full");
                                        throw std::runtime_error("odd");
                                      }});
    CHECK(rig.kernel->await(rig.kernel->read(handle, 0, 1)).err == EIO);
    CHECK(rig.kernel->await(rig.kernel->read(handle, 1, 1)).err == ENOSPC);
    CHECK(rig.kernel->await(rig.kernel->read(handle, 2, 1)).err == EIO);
    CHECK(rig.failures(3) ==
          std::vector<std::string>{"/file: block 7 5", "/file: full 28", "/file: odd 5"});
  }

  TEST_CASE("writes go to the source, within its size") {
    Rig rig;
    const auto bytes = std::make_shared<std::string>(100, '.');
    const auto flushed = std::make_shared<std::atomic<int>>(0);
    const uint64_t handle = rig.open(
        {.bytes = 100,
         .read = {},
         .write =
             [bytes](uint64_t offset, std::span<const std::byte> from) {
               std::memcpy(bytes->data() + offset, from.data(), from.size());
             },
         .flush = [flushed] { ++*flushed; },
         .zero = [bytes](uint64_t offset,
                         uint64_t length) { bytes->replace(offset, length, length, '0'); }},
        true);
    CHECK(rig.kernel->await(rig.kernel->write(handle, 98, "xy")).as<fuse_write_out>().size == 2);
    CHECK(rig.kernel->await(rig.kernel->write(handle, 99, "xy")).err == EFBIG);
    CHECK(rig.kernel->await(rig.kernel->write(handle, UINT64_MAX, "xy")).err == EFBIG);
    fuse_fsync_in sync{};
    sync.fh = handle;
    CHECK(rig.kernel->await(rig.kernel->send(FUSE_FSYNC, 2, bytesOf(sync))).err == 0);
    CHECK(*flushed == 1);
    const auto allocate = [&](uint32_t mode, uint64_t offset, uint64_t length) {
      fuse_fallocate_in what{};
      what.fh = handle;
      what.mode = mode;
      what.offset = offset;
      what.length = length;
      return rig.kernel->await(rig.kernel->send(FUSE_FALLOCATE, 2, bytesOf(what))).err;
    };
    CHECK(allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 97, 50) == 0);
    CHECK(allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 200, 50) == 0);
    CHECK(allocate(FALLOC_FL_ZERO_RANGE, 0, 2) == 0);
    CHECK(allocate(FALLOC_FL_ZERO_RANGE, 99, 2) == EFBIG);
    CHECK(allocate(0, 0, 2) == EOPNOTSUPP);
    CHECK(*bytes == "00" + std::string(95, '.') + "000");
  }

  TEST_CASE("a source that becomes another one is read as that") {
    Rig rig;
    const auto shared = std::make_shared<SharedSource>(alphabet(10));
    shared->become(SharedSource({5, [](uint64_t, std::span<std::byte> into) {
                                   std::fill(into.begin(), into.end(), std::byte('!'));
                                 }}));
    const uint64_t request = rig.kernel->open(rig.node("file", "k"), O_RDONLY);
    CHECK(rig.session->answer(
        rig.question("open").id,
        {.text = R"({"handle":9,"bytes":10,"key":"k","caching":"none","version":"","polls":false})",
         .source = shared}));
    CHECK(rig.kernel->await(request).as<fuse_open_out>().open_flags == FOPEN_DIRECT_IO);
    CHECK(rig.kernel->await(rig.kernel->read(9, 3, 10)).text() == "!!");
  }

  TEST_CASE("data and holes") {
    Rig rig;
    ByteSource source = alphabet(100);
    source.run = [](uint64_t offset) { return ByteRun{50 - offset % 50, offset < 50}; };
    const uint64_t handle = rig.open(std::move(source));
    const auto at = [&](uint64_t offset, uint32_t whence) {
      return rig.kernel->await(rig.kernel->seek(handle, offset, whence));
    };
    CHECK(at(7, SEEK_DATA).as<fuse_lseek_out>().offset == 50);
    CHECK(at(7, SEEK_HOLE).as<fuse_lseek_out>().offset == 7);
    CHECK(at(60, SEEK_HOLE).as<fuse_lseek_out>().offset == 100);
    CHECK(at(100, SEEK_DATA).err == ENXIO);
    CHECK(at(0, SEEK_END).err == EINVAL);
  }

  TEST_CASE("bytes that JavaScript has are asked of it") {
    Rig rig;
    const uint64_t request = rig.kernel->open(rig.node("file", "k"), O_RDONLY);
    CHECK(rig.session->answer(
        rig.question("open").id,
        {.text =
             R"({"handle":4,"bytes":10,"key":"k","caching":"none","version":"","polls":false})"}));
    rig.kernel->await(request);
    const uint64_t read = rig.kernel->read(4, 2, 3);
    Question asked = rig.question("read");
    CHECK(asked.handle == 4);
    CHECK(asked.position == 2);
    CHECK(asked.bytes == 3);
    CHECK(rig.session->answer(asked.id, {.data = std::as_bytes(std::span("abc", 3))}));
    CHECK(rig.kernel->await(read).text() == "abc");

    const uint64_t more = rig.kernel->read(4, 2, 3);
    asked = rig.question("read");
    CHECK_THROWS_AS(rig.session->answer(asked.id, {.data = std::as_bytes(std::span("abcd", 4))}),
                    Error);
    CHECK(rig.kernel->await(more).err == EIO);
  }

  TEST_CASE("who polls is told once that a file has changed") {
    Rig rig;
    const uint64_t plain = rig.open(alphabet(100)), handle = rig.open(alphabet(100), false, true);
    const auto poll = [&rig](uint64_t file, uint32_t flags) {
      fuse_poll_in in{};
      in.fh = file;
      in.kh = 77;
      in.flags = flags;
      return rig.kernel->send(FUSE_POLL, 2, bytesOf(in));
    };
    const auto events = [&rig](uint64_t request) {
      return rig.kernel->await(request).as<fuse_poll_out>().revents;
    };
    CHECK(events(poll(plain, FUSE_POLL_SCHEDULE_NOTIFY)) == (POLLIN | POLLRDNORM));
    CHECK(rig.kernel->await(poll(handle + 1, 0)).err == EBADF);

    uint64_t request = poll(handle, FUSE_POLL_SCHEDULE_NOTIFY);
    Question asked = rig.question("poll");
    CHECK(asked.handle == handle);
    CHECK(asked.bytes == 1);
    CHECK(rig.session->answer(asked.id, {.text = ""}));
    CHECK(events(request) == (POLLIN | POLLRDNORM));
    rig.session->wake(plain);
    rig.session->wake(handle);
    rig.session->wake(handle);
    // What is not an answer to a request has the number 0.
    CHECK(rig.kernel->await(0).as<fuse_notify_poll_wakeup_out>().kh == 77);
    CHECK(rig.kernel->replies(0) == 1);

    request = poll(handle, 0);
    asked = rig.question("poll");
    CHECK(asked.bytes == 0);
    CHECK(rig.session->answer(asked.id, {.text = "changed"}));
    CHECK(events(request) == (POLLIN | POLLRDNORM | POLLPRI));
  }

  TEST_CASE("a directory is listed in pieces of one state") {
    Rig rig;
    const uint64_t opening = rig.kernel->send(FUSE_OPENDIR, 1, bytesOf(fuse_open_in{}));
    const uint64_t directory = rig.kernel->await(opening).as<fuse_open_out>().fh;
    std::string list = "[";
    for (int i = 0; i < 100; ++i)
      list += (i ? "," : "") + std::string(R"({"name":"n)") + std::to_string(i) +
              R"(","mode":33060,"inode":5})";
    std::vector<std::string> names;
    for (uint64_t next = 0;;) {
      const uint64_t request = rig.kernel->readdir(1, directory, next, 512);
      if (next == 0) CHECK(rig.session->answer(rig.question("list").id, {.text = list + "]"}));
      const auto reply = rig.kernel->await(request);
      if (reply.body.empty()) break;
      for (size_t at = 0; at < reply.body.size();) {
        fuse_dirent entry;
        std::memcpy(&entry, reply.body.data() + at, sizeof entry);
        names.push_back(reply.text().substr(at + sizeof entry, entry.namelen));
        next = entry.off;
        at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.namelen);
      }
    }
    REQUIRE(names.size() == 100);
    CHECK(names[99] == "n99");
    // From the start again: asked again.
    const uint64_t again = rig.kernel->readdir(1, directory, 0, 512);
    CHECK(rig.session->answer(rig.question("list").id, {.text = "[]"}));
    CHECK(rig.kernel->await(again).body.empty());
  }

  TEST_CASE("sources that are stuck hold up neither the rest nor their own readers for ever") {
    const auto release = std::make_shared<std::latch>(1);
    const auto reading = std::make_shared<std::atomic<int>>(0);
    {
      Rig rig(300ms);
      const uint64_t handle = rig.open(stuck(release, reading)), good = rig.open(alphabet(100));
      std::vector<uint64_t> reads;
      for (unsigned i = 0; i < 2 * Session::kMaxThreads; ++i)
        reads.push_back(rig.kernel->read(handle, 0, 1));
      const uint64_t request = rig.kernel->lookup(1, "vms");
      CHECK(rig.session->answer(rig.question("stat").id, {.text = Rig::stat("")}));
      CHECK(rig.kernel->await(request).err == 0);
      for (const uint64_t read : reads) CHECK(rig.kernel->await(read).err == ETIMEDOUT);
      CHECK(*reading == Session::kMaxThreads - 1);
      CHECK(rig.kernel->await(rig.kernel->read(good, 0, 1)).err == ETIMEDOUT);  // nobody is free
      release->count_down();
      while (*reading > 0) std::this_thread::sleep_for(1ms);
      CHECK(rig.kernel->await(rig.kernel->read(good, 0, 1)).err == 0);
      for (const uint64_t read : reads) CHECK(rig.kernel->replies(read) == 1);
    }
  }

  TEST_CASE("the end answers what is under way, and leaves a stuck thread behind") {
    const auto release = std::make_shared<std::latch>(1);
    const auto reading = std::make_shared<std::atomic<int>>(0);
    Rig rig;
    const uint64_t handle = rig.open(stuck(release, reading));
    const uint64_t read = rig.kernel->read(handle, 0, 1);
    const uint64_t lookup = rig.kernel->lookup(1, "x");
    const Question asked = rig.question("stat");
    while (*reading == 0) std::this_thread::sleep_for(1ms);
    rig.session->end();
    CHECK(rig.kernel->await(read).err == ENOTCONN);
    CHECK(rig.kernel->await(lookup).err == ENOTCONN);
    CHECK_FALSE(rig.session->answer(asked.id, {.text = Rig::stat("")}));
    CHECK(rig.kernel->isClosed());
    CHECK(*reading == 1);
    const std::weak_ptr<Session> left = rig.session;
    rig.session =
        std::make_shared<Session>(Setup{{}, 1s, {}}, std::make_unique<Listener>(rig.heard));
    CHECK_FALSE(left.expired());  // the thread keeps what it works with
    release->count_down();
    while (!left.expired()) std::this_thread::sleep_for(1ms);
    CHECK(*reading == 0);
    CHECK(rig.kernel->replies(read) == 1);
    CHECK(rig.kernel->replies(lookup) == 1);
  }

  TEST_CASE("answers race with the end: each request has one reply") {
    for (int round = 0; round < 20; ++round) {
      Rig rig;
      std::vector<uint64_t> requests;
      for (int i = 0; i < 50; ++i) requests.push_back(rig.kernel->lookup(1, "n"));
      std::thread answering([&] {
        for (int i = 0; i < 25; ++i)
          rig.session->answer(rig.question("stat").id, {.text = Rig::stat("")});
      });
      if (round % 2) std::this_thread::sleep_for(std::chrono::microseconds(round * 30));
      answering.join();
      rig.session->end();
      CHECK(rig.kernel->isClosed());
      for (const uint64_t request : requests) CHECK(rig.kernel->replies(request) <= 1);
    }
  }

  TEST_CASE("options that libfuse does not know are refused") {
    const auto heard = std::make_shared<Listener::Heard>();
    CHECK_THROWS_AS(Session({{"nonsense=1"}, 1s, {}}, std::make_unique<Listener>(heard)), Error);
  }

  TEST_CASE("a directory that cannot be mounted on is told with libfuse's words") {
    const auto heard = std::make_shared<Listener::Heard>();
    const auto session =
        std::make_shared<Session>(Setup{{}, 1s, {}}, std::make_unique<Listener>(heard));
    CHECK_THROWS_WITH_AS(session->mount("/nonexistent/x"),
                         doctest::Contains("cannot mount on /nonexistent/x"), Error);
    session->end();
  }
}
