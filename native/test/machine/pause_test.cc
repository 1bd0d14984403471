// The machine's verbs but for save and restore: start, pause, resume, the guest's end, close.
#include <doctest/doctest.h>

#include <random>

#include "test/machine/rig.h"

namespace ckptfs {

TEST_CASE("a guest runs, and stands still while it is paused") {
  for (const unsigned harts : {1u, 2u}) {
    CAPTURE(harts);
    Rig rig(harts);
    CHECK(rig.state() == "created");
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
    CHECK(failure([&] { rig.machine->resume(); }) == Code::usage);
    rig.boot();
    CHECK(failure([&] { rig.machine->start(); }) == Code::usage);
    CHECK(failure([&] { rig.machine->resume(); }) == Code::usage);
    REQUIRE(rig.scribbled());
    for (int round = 0; round < 5; ++round) {
      rig.machine->pause();
      CHECK(rig.state() == "paused");
      CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
      const uint64_t instructions = rig.instructions(), ticks = rig.ticks();
      const auto ram = rig.ram();
      std::this_thread::sleep_for(std::chrono::milliseconds(3));  // some timer periods
      CHECK(rig.ram() == ram);
      CHECK(rig.instructions() == instructions);
      CHECK(rig.ticks() == ticks);
      rig.machine->resume();
      CHECK(rig.goesOn());
    }
  }
}

TEST_CASE("pause and resume from several threads leave the guest running") {
  Rig rig(2);
  rig.boot();
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed)
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < (kSanitized ? 100 : 500); ++i) {
        const auto failed =
            failure([&] { random() % 2 == 0 ? rig.machine->pause() : rig.machine->resume(); });
        CHECK((!failed || failed == Code::usage));
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (rig.state() == "paused") rig.machine->resume();
  CHECK(rig.state() == "running");
  CHECK(rig.goesOn());
  rig.machine->pause();
  const auto ram = rig.ram();
  CHECK(rig.ram() == ram);
}

TEST_CASE("the guest's end is told once, and stays") {
  for (const char key : {'q', 'r'}) {
    CAPTURE(key);
    Rig rig(2);
    rig.boot();
    rig.type(std::string("abc") + key);
    REQUIRE(eventually([&] { return !rig.exits().empty(); }));
    CHECK(rig.state() == "ended");
    CHECK(rig.consoleBytes == 4);
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
    CHECK(failure([&] { rig.machine->resume(); }) == Code::usage);
    CHECK(failure([&] { rig.machine->retryRestore(); }) == Code::usage);
    const TempDirectory directory;
    CHECK(failure([&] { rig.save(directory.path()); }) == Code::usage);
    rig.machine->close();
    REQUIRE(rig.exits().size() == 1);
    CHECK(rig.exits()[0].kind ==
          (key == 'q' ? GuestExit::Kind::shutdown : GuestExit::Kind::reboot));
    CHECK(rig.exits()[0].reason == 0);
    CHECK(rig.errors().empty());
  }
}

TEST_CASE("the guest ends while it is paused and resumed") {
  for (int round = 0; round < (kSanitized ? 5 : 20); ++round) {
    Rig rig(2);
    rig.boot();
    rig.type("q");
    while (rig.exits().empty()) {
      failure([&] { rig.machine->pause(); });
      failure([&] { rig.machine->resume(); });
    }
    CHECK(rig.state() == "ended");
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
    rig.machine->close();
    CHECK(rig.exits().size() == 1);
  }
}

TEST_CASE("a machine closes in any state, or goes without being closed") {
  { const Rig created; }
  {
    Rig created;
    created.machine->close();
    CHECK(created.state() == "ended");
  }
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    Rig rig(1 + round % 2);
    rig.boot();
    if (round & 2) rig.machine->pause();
    if (round & 4) {
      rig.machine->close();
      rig.machine->close();
      CHECK(rig.state() == "ended");
      CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
      CHECK(failure([&] { rig.machine->resume(); }) == Code::usage);
      rig.type("x");
      rig.ram();
    }
  }
}

TEST_CASE("close comes amid pauses") {
  for (int round = 0; round < (kSanitized ? 10 : 40); ++round) {
    Rig rig(2);
    rig.boot();
    std::atomic<bool> stop{false};
    std::thread pauser([&] {
      while (!stop) {
        failure([&] { rig.machine->pause(); });
        failure([&] { rig.machine->resume(); });
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(round * 100));
    rig.machine->close();
    stop = true;
    pauser.join();
    CHECK(rig.state() == "ended");
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
  }
}

TEST_CASE("what does not fit in RAM is refused") {
  Rig rig;
  const std::vector<std::byte> bytes(16);
  CHECK(failure([&] { rig.machine->load(memory_map::kRamBase - 8, bytes); }) == Code::usage);
  CHECK(failure([&] { rig.machine->load(memory_map::kRamBase + Rig::kRamBytes - 15, bytes); }) ==
        Code::usage);
  CHECK_FALSE(
      failure([&] { rig.machine->load(memory_map::kRamBase + Rig::kRamBytes - 16, bytes); }));
  CHECK(failure([&] { rig.machine->loadFile("/proc/self/none", 0, 1, memory_map::kRamBase); }) ==
        Code::notFound);
}

}  // namespace ckptfs
