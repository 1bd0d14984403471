// The steps at which saves of several machines wait for each other (requirement D1).
#include "machine/rendezvous.h"

#include <doctest/doctest.h>

#include <future>
#include <map>

#include "test/machine/rig.h"

namespace ckptfs {
namespace {

using std::chrono::milliseconds;

constexpr SaveStep kSteps[] = {SaveStep::prepared, SaveStep::quiet, SaveStep::held, SaveStep::cut};
constexpr milliseconds kLong{60'000};

CheckpointResult saveWith(Rig& rig, const CheckpointRequest& request,
                          std::shared_ptr<Rendezvous> rendezvous) {
  return rig.machine->save(
      request, [](uint64_t) {}, std::move(rendezvous));
}

}  // namespace

TEST_CASE("steps have names, and nothing else is one") {
  for (const SaveStep step : kSteps) CHECK(parseStep(stepName(step)) == step);
  CHECK(failure([] { parseStep("saved"); }) == Code::usage);
}

TEST_CASE("a save waits at each step until it is let on from there, and from nowhere else") {
  const TempDirectory directory;
  Rig rig(2);
  rig.boot();
  REQUIRE(rig.scribbled());
  std::vector<SaveStep> reached;
  const auto result = saveWith(
      rig, Rig::request(directory.path()), std::make_shared<Rendezvous>(kLong, [&](SaveStep step) {
        for (const SaveStep other : kSteps)
          if (other != step)
            CHECK(failure([&] { rig.machine->proceedSave(other); }) == Code::usage);
        const uint64_t instructions = rig.instructions(), ticks = rig.ticks();
        const bool stands = step == SaveStep::held || step == SaveStep::cut;
        std::this_thread::sleep_for(milliseconds(3));
        CHECK((rig.ticks() == ticks) == stands);
        if (stands) CHECK(rig.instructions() == instructions);
        reached.push_back(step);
        rig.machine->proceedSave(step);
      }));
  CHECK(reached == std::vector<SaveStep>(std::begin(kSteps), std::end(kSteps)));
  CHECK(result.phasesUs.wait >= 6'000);
  CHECK(result.pauseUs >= result.phasesUs.wait);
  CHECK(contents(directory.path()) == rig.machine->oracle());
  CHECK(rig.goesOn());
  CHECK(failure([&] { rig.machine->proceedSave(SaveStep::held); }) == Code::usage);
}

TEST_CASE("a save that waits in vain fails, and the guest goes on") {
  for (const std::string& trace : traceEngineNames()) {
    const TempDirectory directory;
    Rig rig(2, {makeDisk(directory, 1 << 20)}, trace);
    rig.boot();
    REQUIRE(rig.scribbled());
    int round = 0;
    for (const bool cancelled : {false, true})
      for (const SaveStep last : kSteps) {
        CAPTURE(trace);
        CAPTURE(stepName(last));
        CAPTURE(cancelled);
        if (!cancelled && last == SaveStep::prepared) continue;  // its limit is minutes
        const std::string name = std::to_string(round++);
        const auto rendezvous =
            std::make_shared<Rendezvous>(cancelled ? kLong : milliseconds(30), [&](SaveStep step) {
              if (step != last)
                rig.machine->proceedSave(step);
              else if (cancelled)
                rig.machine->cancelSave();
            });
        const auto request =
            Rig::request(directory.make(name), "lz4", {{"vda", directory.path() + "/redo" + name}});
        CHECK(failure([&] { saveWith(rig, request, rendezvous); }) ==
              (cancelled ? Code::cancelled : Code::busy));
        CHECK(rig.state() == "running");
        CHECK(rig.goesOn());
        CHECK(std::filesystem::exists(directory.path() + "/redo" + name) ==
              (last == SaveStep::cut));
      }
    const std::string good = directory.make("good");
    rig.save(good, "lz4", {{"vda", directory.path() + "/redo"}});
    CHECK(contents(good) == rig.machine->oracle());
  }
}

TEST_CASE("close comes amid a save that waits") {
  for (const SaveStep last : kSteps) {
    CAPTURE(stepName(last));
    const TempDirectory directory;
    Rig rig(2);
    rig.boot();
    REQUIRE(rig.scribbled());
    std::promise<void> there;
    const auto rendezvous = std::make_shared<Rendezvous>(kLong, [&](SaveStep step) {
      if (step == last)
        there.set_value();
      else
        rig.machine->proceedSave(step);
    });
    auto saved = std::async(std::launch::async, [&] {
      return failure([&] { saveWith(rig, Rig::request(directory.path()), rendezvous); });
    });
    there.get_future().wait();
    rig.machine->close();
    CHECK(saved.get() == Code::cancelled);
  }
}

TEST_CASE("machines that wait for each other stand still at one moment") {
  constexpr unsigned kMachines = 3;
  const TempDirectory directory;
  std::vector<std::unique_ptr<Rig>> rigs;
  for (unsigned i = 0; i < kMachines; ++i) {
    rigs.push_back(std::make_unique<Rig>());
    rigs.back()->boot();
    REQUIRE(rigs.back()->scribbled());
  }
  std::mutex mutex;
  std::map<SaveStep, unsigned> arrived;
  std::vector<std::thread> threads;
  std::atomic<unsigned> good{0};
  for (unsigned i = 0; i < kMachines; ++i)
    threads.emplace_back([&, i] {
      const auto rendezvous = std::make_shared<Rendezvous>(kLong, [&](SaveStep step) {
        const std::lock_guard lock(mutex);
        if (++arrived[step] < kMachines) return;
        if (step == SaveStep::held || step == SaveStep::cut) {
          std::vector<uint64_t> before;
          for (const auto& rig : rigs) before.push_back(rig->instructions());
          std::this_thread::sleep_for(milliseconds(3));
          for (unsigned k = 0; k < kMachines; ++k) CHECK(rigs[k]->instructions() == before[k]);
        }
        for (const auto& rig : rigs) rig->machine->proceedSave(step);
      });
      const std::string into = directory.path() + "/" + std::to_string(i);
      std::filesystem::create_directory(into);
      saveWith(*rigs[i], Rig::request(into), rendezvous);
      if (contents(into) == rigs[i]->machine->oracle()) ++good;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(good == kMachines);
  for (const auto& rig : rigs) CHECK(rig->goesOn());
}

}  // namespace ckptfs
