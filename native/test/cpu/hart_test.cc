// Pausing, freezing and thawing harts; sleeping; and what thaw must refuse.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "cpu/rv64/hart_state.h"
#include "test/cpu/random_program.h"
#include "test/cpu/test_machine.h"

namespace ckptfs::rv64::test {
namespace {

// Calls the random program 200 times, then powers off with reason 0.
void loadLoop(TestMachine& machine, const RandomProgram& program) {
  machine.write(RandomProgram::kBase, program.image.data(), program.image.size());
  const auto loop = loadGuest("call_loop");
  machine.write(RandomProgram::kBase + RandomProgram::kImageBytes, loop.data(), loop.size());
}

constexpr uint64_t kLoop = RandomProgram::kBase + RandomProgram::kImageBytes;

}  // namespace

TEST_CASE("pauses, freezes and thaws at random moments change no result") {
  const RandomProgram program = integerProgram(7);
  TestMachine whole;
  loadLoop(whole, program);
  CHECK(whole.run(kLoop) == 0);
  const Json expected = whole.cpus->freeze()->toJson();

  TestMachine machine;
  loadLoop(machine, program);
  machine.cpus->reset(kLoop, 0);
  int pauses = 0;
  while (machine.host.exits.empty()) {
    std::thread runner([&] {
      GuestMemory::attachThread();
      machine.cpus->vcpu(0).run();
    });
    std::this_thread::sleep_for(std::chrono::microseconds(50 + pauses * 7 % 400));
    machine.cpus->vcpu(0).requestExit();
    runner.join();
    const Json state = machine.cpus->freeze()->toJson();
    machine.cpus = makeRv64(machine.memory, TestMachine::kRamBase, 1, machine.host);
    machine.host.cpus = machine.cpus.get();
    machine.cpus->thaw(Json::parse(state.dump()));
    ++pauses;
  }
  CHECK(pauses > 1);
  CHECK(machine.host.exits[0].reason == 0);
  CHECK(machine.cpus->freeze()->toJson() == expected);
  CHECK(hashOf(machine.at(RandomProgram::kResults)) == hashOf(whole.at(RandomProgram::kResults)));
}

TEST_CASE("a timer that expires during a freeze is in it, as a deadline or as an interrupt") {
  constexpr uint64_t kTimerBit = 1 << 5;
  TestMachine machine;
  machine.cpus->reset(TestMachine::kRamBase, 0);
  Json armed = machine.cpus->freeze()->toJson();
  const Json none = armed.at("harts")[0].at("timerDeadline");
  armed["harts"][0]["timerDeadline"] = toHex(1);
  for (int round = 0; round < 2000; ++round) {
    machine.cpus->thaw(armed);
    std::vector<std::unique_ptr<Frozen>> frozen;
    std::atomic<bool> begun{false}, expired{false};
    std::thread timer([&] {
      begun = true;
      machine.cpus->timerExpired(0);
      expired = true;
    });
    while (!begun) {
    }
    do frozen.push_back(machine.cpus->freeze());
    while (!expired);
    timer.join();
    for (const auto& one : frozen) {
      const Json hart = one->toJson().at("harts")[0];
      const bool pending = (fromHex(hart.at("pending")) & kTimerBit) != 0;
      REQUIRE((pending || hart.at("timerDeadline") != none));
    }
  }
}

TEST_CASE("a requested exit is kept for the next run, and taken by sleepers") {
  TestMachine machine(2);
  machine.write32(TestMachine::kRamBase, {0x10500073, 0x00000073});  // wfi, with nothing enabled
  machine.cpus->reset(TestMachine::kRamBase, 0);
  for (unsigned i = 0; i < 2; ++i) machine.cpus->vcpu(i).requestExit();
  machine.resume();
  CHECK(machine.cpus->vcpu(0).instructions() == 0);
  for (int round = 0; round < 20; ++round) {
    std::thread stopper([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      for (unsigned i = 0; i < 2; ++i) machine.cpus->vcpu(i).requestExit();
    });
    machine.resume();
    stopper.join();
  }
  // Still waiting: the WFI is not over.
  CHECK(machine.cpus->freeze()->toJson()["harts"][0]["pc"] == "0x80000000");
  CHECK(machine.cpus->vcpu(0).instructions() == 0);
}

TEST_CASE("a remote fence waits for a hart in the middle of an instruction, but an exit does not") {
  TestMachine machine(2);
  const auto image = loadGuest("rfence");
  machine.write(TestMachine::kRamBase, image.data(), image.size());
  std::atomic<bool> released{false};
  machine.host.onDeviceRead = [&] {
    auto* flag = reinterpret_cast<uint32_t*>(machine.memory.hostView() + 0x10000);
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
    released.wait(false);
  };
  const auto console = [&] {
    std::lock_guard lock(machine.host.mutex);
    return machine.host.console;
  };
  const auto run = [&](unsigned index) {
    return std::thread([&, index] {
      GuestMemory::attachThread();
      machine.cpus->vcpu(index).run();
    });
  };
  machine.cpus->reset(TestMachine::kRamBase, 0);
  std::thread first = run(0), second = run(1);
  while (console().empty()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // time enough for a wrong answer
  CHECK(console() == "A");

  machine.cpus->vcpu(0).requestExit();  // leaves at the call, which is made again later
  first.join();
  CHECK(console() == "A");
  first = run(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(console() == "A");
  released = true;
  released.notify_all();
  first.join();
  second.join();
  CHECK(console() == "AB");
  CHECK(machine.host.exits[0].reason == 0);
}

TEST_CASE("state goes through JSON unchanged, timers are armed again") {
  HartStates states;
  states.harts.resize(2);
  HartState& hart = states.harts[1];
  for (unsigned i = 1; i < 32; ++i) hart.x[i] = 0x0123456789abcdef * i;
  for (unsigned i = 0; i < 32; ++i) hart.f[i] = 0xfedcba9876543210 * i;
  hart.pc = 0xffffffff80001234;
  hart.privilege = Privilege::user;
  hart.hsm = Hsm::started;
  hart.sstatus = status::kSum | status::kFs | status::kSpie;
  hart.sie = irq::kTimer;
  hart.stvec = 0xffffffff80000001;
  hart.satp = satp::kSv39 << satp::kModeShift | 0x12345;
  hart.fflags = 31;
  hart.frm = 4;
  hart.pending = irq::kExternal;
  hart.timerDeadline = UINT64_MAX - 5;
  hart.retired = 1;
  const Json json = states;

  TestMachine machine(2);
  machine.cpus->thaw(json);
  CHECK(machine.cpus->freeze()->toJson() == json);
  machine.cpus->rearmTimers();
  CHECK(machine.host.timers == std::map<unsigned, uint64_t>{{1, UINT64_MAX - 5}});
}

TEST_CASE("thaw refuses every state that no hart can have, and keeps the one it has") {
  TestMachine machine(2);
  const Json good = machine.cpus->freeze()->toJson();
  const auto refuses = [&](const char* pointer, const Json& value) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    CAPTURE(pointer);
    CAPTURE(value.dump());
    CHECK_THROWS_AS(machine.cpus->thaw(bad), Error);
    CHECK(machine.cpus->freeze()->toJson() == good);
  };
  CHECK_NOTHROW(machine.cpus->thaw(good));
  refuses("/isa", "rv32i");
  refuses("/isa", 64);
  refuses("/harts", Json::array());
  refuses("/harts", "0x0");
  refuses("/harts/1", 5);
  refuses("/harts/1/pc", "0x1");
  refuses("/harts/1/pc", 4096);
  refuses("/harts/1/pc", "0x10000000000000000");
  refuses("/harts/1/privilege", "0x3");
  refuses("/harts/1/hsm", "0x2");
  refuses("/harts/1/sstatus", "0x8000000000000000");
  refuses("/harts/1/sie", "0x1");
  refuses("/harts/1/pending", "0xffff");
  refuses("/harts/1/satp", "0x9000000000000000");
  refuses("/harts/1/satp", "0x8000100000000000");
  refuses("/harts/1/frm", "0x8");
  refuses("/harts/1/fflags", "0x20");
  refuses("/harts/1/scounteren", "0x8");
  refuses("/harts/1/x", Json::array());
  refuses("/harts/1/x/0", "0x1");
  refuses("/harts/1/x/5", "five");
  refuses("/harts/1/f/31", nullptr);
  for (const auto& item : good["harts"][0].items()) {
    Json bad = good;
    bad["harts"][0].erase(item.key());
    CAPTURE(item.key());
    CHECK_THROWS_AS(machine.cpus->thaw(bad), Error);
  }
  TestMachine one(1);
  CHECK_THROWS_AS(one.cpus->thaw(good), Error);
  CHECK_THROWS_AS(one.cpus->thaw(nullptr), Error);
}

TEST_CASE("only a possible number of harts") {
  TestMachine machine;
  CHECK_THROWS_AS(makeRv64(machine.memory, TestMachine::kRamBase, 0, machine.host), Error);
  CHECK_THROWS_AS(makeRv64(machine.memory, TestMachine::kRamBase, kMaxHarts + 1, machine.host),
                  Error);
}

}  // namespace ckptfs::rv64::test
