// Self-checking guest programs: each ends with the number of the check that failed, or 0.
#include <doctest/doctest.h>

#include "test/cpu/test_machine.h"

namespace ckptfs::rv64::test {
namespace {

void load(TestMachine& machine, const std::string& name) {
  const auto image = loadGuest(name);
  REQUIRE(image.size() > 0);
  machine.write(TestMachine::kRamBase, image.data(), image.size());
}

}  // namespace

TEST_CASE("guest: exceptions, CSRs and privilege") {
  TestMachine machine;
  load(machine, "traps");
  CHECK(machine.run() == 0);
}

TEST_CASE("guest: interrupts and WFI") {
  TestMachine machine;
  load(machine, "interrupts");
  machine.host.onConsole = [&] { machine.cpus->setExternalInterrupt(0, true); };
  CHECK(machine.run() == 0);
  CHECK(machine.host.console == "R");
}

TEST_CASE("guest: self-modifying code and remapped code") {
  TestMachine machine;
  load(machine, "memory_code");
  CHECK(machine.run() == 0);
}

TEST_CASE("guest: every SBI call") {
  TestMachine machine;
  load(machine, "sbi");
  CHECK(machine.run() == 0);
  CHECK(machine.host.console == "hello\nxy");
  REQUIRE(machine.host.exits.size() == 1);
  CHECK(machine.host.exits[0].kind == GuestExit::Kind::reboot);
}

TEST_CASE("guest: two harts start, interrupt, fence and contend") {
  TestMachine machine(2);
  for (int round = 0; round < 3; ++round) {
    CAPTURE(round);
    load(machine, "smp");
    REQUIRE(machine.run() == 0);
  }
}

}  // namespace ckptfs::rv64::test
