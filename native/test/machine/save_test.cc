// Live checkpoints of a whole machine, against a copy of RAM taken in the pause.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <csignal>
#include <future>
#include <random>

#include "test/machine/rig.h"

namespace ckptfs {
namespace {

/** No file of this process grows beyond some size: a full filesystem for the test's own files. */
class FullFilesystem {
 public:
  explicit FullFilesystem(uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullFilesystem() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FullFilesystem(const FullFilesystem&) = delete;
  FullFilesystem& operator=(const FullFilesystem&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("a live checkpoint holds RAM as it was in the pause") {
  const TempDirectory directory;
  Rig rig(2, {makeDisk(directory, 1 << 20)});
  rig.boot();
  REQUIRE(rig.scribbled());
  std::atomic<bool> stop{false};
  std::thread typist([&] {
    while (!stop) {
      rig.type("hello");
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::thread reader([&] {
    while (!stop) rig.ram();
  });
  std::thread watcher([&] {
    while (!stop) {
      rig.machine->saveProgress();
      rig.machine->status();
    }
  });
  for (int round = 0; round < (kSanitized ? 4 : 20); ++round) {
    CAPTURE(round);
    const std::string name = std::to_string(round);
    const auto result = rig.save(directory.make(name), round % 2 == 0 ? "lz4" : "none",
                                 {{"vda", directory.path() + "/redo" + name}});
    CHECK(contents(directory.path() + "/" + name) == rig.machine->oracle());
    const uint64_t blocks = result.blocks.vcpu + result.blocks.background + result.blocks.zero +
                            result.blocks.duplicate;
    CHECK(blocks == Rig::kRamBytes / Geometry{}.blockBytes());
    CHECK(result.memoryBytes == Rig::kRamBytes);
    CHECK(result.guestTicks <= rig.ticks());
    REQUIRE(result.disks.size() == 1);
    CHECK(result.disks[0].redo.size() == size_t(round));
    CHECK(rig.goesOn());
    std::filesystem::remove_all(directory.path() + "/" + name);
  }
  stop = true;
  typist.join();
  reader.join();
  watcher.join();
  CHECK(rig.consoleBytes > 0);
}

TEST_CASE("a suspended guest stands still from the pause on, until it is resumed") {
  for (const std::string& trace : traceEngineNames()) {
    CAPTURE(trace);
    const TempDirectory directory;
    Rig rig(2, {}, trace);
    rig.boot();
    REQUIRE(rig.scribbled());
    CheckpointRequest request = Rig::request(directory.path());
    request.suspend = true;
    const auto result = rig.save(request);
    CHECK(rig.state() == "paused");
    CHECK(rig.ticks() == result.guestTicks);
    CHECK(contents(directory.path()) == rig.ram());
    rig.machine->resume();
    CHECK(rig.goesOn());
  }
}

TEST_CASE("a suspended guest whose checkpoint fails runs on") {
  const TempDirectory directory;
  Rig rig;
  rig.boot();
  REQUIRE(rig.scribbled());
  CheckpointRequest request = Rig::request(directory.path());
  request.suspend = true;
  CHECK(failure([&] {
          rig.machine->save(request, [&](uint64_t) { rig.machine->cancelSave(); });
        }) == Code::cancelled);
  CHECK(rig.state() == "running");
  CHECK(rig.goesOn());
}

TEST_CASE("memory of the pause is readable while it is saved and afterwards") {
  for (const std::string& trace : traceEngineNames()) {
    CAPTURE(trace);
    const TempDirectory directory;
    Rig rig(2, {}, trace);
    rig.boot();
    CHECK(failure([&] { Machine::savedSource(rig.machine); }) == Code::notFound);
    REQUIRE(rig.scribbled());
    for (int round = 0; round < (kSanitized ? 2 : 8); ++round) {
      std::vector<std::byte> during(Rig::kRamBytes);
      std::future<void> reading;
      std::optional<ByteSource> source;
      const std::string into = directory.make(std::to_string(round));
      CheckpointRequest request = Rig::request(into);
      request.limitBytesPerSecond = Rig::kRamBytes;  // so that there is time to read
      rig.machine->save(request, [&](uint64_t) {
        source = Machine::savedSource(rig.machine);
        reading = std::async(std::launch::async, [&] { source->read(0, during); });
      });
      reading.get();
      CHECK(during == rig.machine->oracle());
      std::filesystem::rename(into, into + "-published");
      std::vector<std::byte> after(Rig::kRamBytes);
      source->read(0, after);
      CHECK(after == rig.machine->oracle());
    }
  }
}

TEST_CASE("checkpoints that refer to earlier ones are whole by themselves") {
  for (const std::string& trace : traceEngineNames()) {
    CAPTURE(trace);
    const TempDirectory directory;
    Rig rig(2, {}, trace);
    rig.boot();
    REQUIRE(rig.scribbled());
    std::string base = directory.make("first");
    rig.save(base);
    CHECK(contents(base) == rig.machine->oracle());
    for (int round = 0; round < (kSanitized ? 3 : 10); ++round) {
      CAPTURE(round);
      const std::string next = directory.make(std::to_string(round));
      const auto result = rig.saveIncrement(next, base);
      CHECK(result.incremental);
      CHECK(result.blocks.parent > 0);  // the guest writes in the first half of RAM only
      CHECK(result.blocks.parent + result.blocks.vcpu + result.blocks.background +
                result.blocks.zero + result.blocks.duplicate ==
            Rig::kRamBytes / Geometry{}.blockBytes());
      std::filesystem::remove_all(base);
      CHECK(contents(next) == rig.machine->oracle());
      base = next;
    }
    // Against anything else than what memory is tracked against, a checkpoint is full.
    const std::string other = directory.make("other");
    CheckpointRequest request = Rig::request(other);
    request.base = {"another", base};
    const auto result = rig.save(request);
    CHECK_FALSE(result.incremental);
    CHECK(result.blocks.parent == 0);
    CHECK(contents(other) == rig.machine->oracle());
  }
}

TEST_CASE("after a failed checkpoint the next increment misses nothing") {
  const TempDirectory directory;
  Rig rig(2);
  rig.boot();
  REQUIRE(rig.scribbled());
  std::mt19937 random(3);
  std::string base = directory.make("base");
  rig.save(base);
  for (int round = 0; round < (kSanitized ? 3 : 15); ++round) {
    CAPTURE(round);
    const std::string lost = directory.make("lost" + std::to_string(round));
    failure([&] {
      rig.machine->save(Rig::request(lost), [&](uint64_t) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        rig.machine->cancelSave();
      });
    });
    const std::string next = directory.make(std::to_string(round));
    rig.saveIncrement(next, base);
    CHECK(contents(next) == rig.machine->oracle());
    const std::string again = directory.make("again" + std::to_string(round));
    rig.saveIncrement(again, next);
    CHECK(contents(again) == rig.machine->oracle());
    base = again;
  }
}

TEST_CASE("a paused guest stays paused through a checkpoint") {
  const TempDirectory directory;
  Rig rig(2);
  rig.boot();
  REQUIRE(rig.scribbled());
  rig.machine->pause();
  const auto ram = rig.ram();
  const uint64_t ticks = rig.ticks();
  rig.save(directory.path());
  CHECK(rig.state() == "paused");
  CHECK(rig.ticks() == ticks);
  CHECK(rig.ram() == ram);
  CHECK(contents(directory.path()) == ram);
  rig.machine->resume();
  CHECK(rig.goesOn());
}

TEST_CASE("pauses, resumes and checkpoints at once") {
  const TempDirectory directory;
  Rig rig(2);
  rig.boot();
  REQUIRE(rig.scribbled());
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed)
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      while (!stop) {
        failure([&] { rig.machine->pause(); });
        if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
        failure([&] { rig.machine->resume(); });
      }
    });
  for (int round = 0; round < (kSanitized ? 4 : 20); ++round) {
    const std::string into = directory.make(std::to_string(round));
    rig.save(into);
    CHECK(contents(into) == rig.machine->oracle());
    std::filesystem::remove_all(into);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(rig.state() == "running");
  CHECK(rig.goesOn());
}

TEST_CASE("two checkpoints at once: one is refused") {
  const TempDirectory directory;
  Rig rig;
  rig.boot();
  REQUIRE(rig.scribbled());
  std::optional<Code> inner;
  rig.machine->save(Rig::request(directory.make("a")), [&](uint64_t) {
    inner = std::async(std::launch::async, [&] {
              return failure([&] { rig.save(directory.make("b")); });
            }).get();
  });
  CHECK(inner == Code::busy);
  CHECK(rig.machine->saveProgress().is_null());
  rig.save(directory.make("c"));
  CHECK(contents(directory.path() + "/c") == rig.machine->oracle());
}

TEST_CASE("a checkpoint that is cancelled at any moment leaves a guest that goes on") {
  const TempDirectory directory;
  Rig rig(2, {makeDisk(directory, 1 << 20)});
  rig.boot();
  REQUIRE(rig.scribbled());
  std::mt19937 random(1);
  for (int round = 0; round < (kSanitized ? 10 : 40); ++round) {
    CAPTURE(round);
    const std::string into = directory.make(std::to_string(round));
    std::optional<Code> failed;
    std::thread saver([&] {
      failed = failure([&] { rig.save(into, "lz4", {{"vda", into + "/redo"}}); });
    });
    const auto wait = std::chrono::microseconds(random() % (kSanitized ? 200'000 : 20'000));
    std::this_thread::sleep_for(wait);
    rig.machine->cancelSave();
    saver.join();
    CHECK((!failed || failed == Code::cancelled));
    if (!failed) CHECK(contents(into) == rig.machine->oracle());
  }
  CHECK(rig.goesOn());
  const std::string into = directory.make("resumed");
  CHECK(failure([&] {
          rig.machine->save(Rig::request(into, "lz4", {{"vda", into + "/redo"}}),
                            [&](uint64_t) { rig.machine->cancelSave(); });
        }) == Code::cancelled);
  rig.machine->cancelSave();  // of none
  rig.save(directory.make("last"), "lz4", {{"vda", directory.path() + "/last/redo"}});
  CHECK(contents(directory.path() + "/last") == rig.machine->oracle());
}

TEST_CASE("a checkpoint that finds no room fails, and the next one succeeds") {
  const TempDirectory directory;
  Rig rig(2, {makeDisk(directory, 1 << 20)});
  rig.boot();
  REQUIRE(rig.scribbled());
  int round = 0;
  for (const uint64_t bytes : {0, 4096, 1 << 20}) {
    CAPTURE(bytes);
    const std::string into = directory.make(std::to_string(round++));
    std::optional<Code> failed;
    {
      const FullFilesystem full(bytes);
      failed = failure([&] { rig.save(into, "none", {{"vda", into + "/redo"}}); });
    }
    CHECK((failed == Code::io || failed == Code::noSpace));
    CHECK(rig.state() == "running");
    CHECK_FALSE(std::filesystem::exists(into + "/memory.map"));
    CHECK(rig.machine->status().at("mappings") <= 3);  // no trace is left
    CHECK(rig.goesOn());
    const std::string next = directory.make(std::to_string(round++));
    rig.save(next, "none", {{"vda", next + "/redo"}});
    CHECK(contents(next) == rig.machine->oracle());
  }
  CHECK(failure([&] { rig.save(directory.path() + "/none"); }) == Code::notFound);
  CHECK(failure([&] { rig.save(directory.path(), "lz4", {{"vdz", "/x"}}); }) == Code::notFound);
  CHECK(rig.goesOn());
}

TEST_CASE("close comes amid a checkpoint") {
  std::mt19937 random(2);
  for (int round = 0; round < (kSanitized ? 10 : 40); ++round) {
    CAPTURE(round);
    const TempDirectory directory;
    Rig rig(2, {makeDisk(directory, 1 << 20)});
    rig.boot();
    std::optional<Code> failed;
    std::thread saver([&] {
      failed = failure([&] {
        rig.save(directory.path(), "lz4", {{"vda", directory.path() + "/redo"}});
      });
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 10'000));
    rig.machine->close();
    saver.join();
    CAPTURE(failed);
    CHECK((!failed || failed == Code::cancelled || failed == Code::usage));
    CHECK(failure([&] { rig.save(directory.path()); }) == Code::usage);
    if (!failed) CHECK(contents(directory.path()) == rig.machine->oracle());
  }
}

TEST_CASE("the guest ends amid a checkpoint") {
  for (int round = 0; round < (kSanitized ? 5 : 20); ++round) {
    CAPTURE(round);
    const TempDirectory directory;
    Rig rig(2);
    rig.boot();
    REQUIRE(rig.goesOn());
    rig.type("q");
    const auto failed = failure([&] { rig.save(directory.path()); });
    CHECK((!failed || failed == Code::usage));
    if (!failed) CHECK(contents(directory.path()) == rig.machine->oracle());
    REQUIRE(eventually([&] { return rig.exits().size() == 1; }));
    CHECK(rig.state() == "ended");
    CHECK(failure([&] { rig.save(directory.path()); }) == Code::usage);
  }
}

}  // namespace ckptfs
