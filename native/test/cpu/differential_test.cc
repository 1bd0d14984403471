// Random programs give the results that qemu-riscv64 gave: oracle/regenerate recorded their hashes.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "test/cpu/random_program.h"
#include "test/cpu/test_machine.h"

namespace ckptfs::rv64::test {
namespace {

constexpr uint64_t kIntegerHashes[] = {
#include "test/cpu/oracle/integer_hashes.inc"
};
constexpr uint64_t kFloatHashes[] = {
#include "test/cpu/oracle/float_hashes.inc"
};

using Generator = RandomProgram (*)(uint64_t seed);

/** Calls the program as a function, then powers off. */
uint64_t resultHash(TestMachine& machine, const RandomProgram& program) {
  constexpr uint64_t kStub = RandomProgram::kBase + RandomProgram::kImageBytes;
  machine.write(RandomProgram::kBase, program.image.data(), program.image.size());
  machine.write32(kStub, {
                             0x000062b7,  // lui t0, 6
                             0x1002a073,  // csrs sstatus, t0: floating point on
                             0xfffe0297,  // auipc t0, -0x20
                             0xff8280e7,  // jalr ra, -8(t0)
                             0x535258b7,  // li a7, SRST; li a6, 0; li a0, 0; li a1, 0
                             0x35488893, 0x00000813, 0x00000513, 0x00000593,
                             0x00000073,  // ecall
                         });
  machine.run(kStub);
  return hashOf(machine.at(RandomProgram::kResults));
}

void compare(Generator generator, const uint64_t* expected, size_t count) {
  TestMachine machine;
  for (size_t seed = 0; seed < count; ++seed) {
    CAPTURE(seed);
    CHECK(resultHash(machine, generator(seed)) == expected[seed]);
  }
}

}  // namespace

TEST_CASE("random integer, compressed, atomic and memory instructions agree with the oracle") {
  compare(integerProgram, kIntegerHashes, std::size(kIntegerHashes));
}

TEST_CASE("random floating-point operations agree with the oracle in results and flags") {
  compare(floatProgram, kFloatHashes, std::size(kFloatHashes));
}

#ifdef CKPTFS_ORACLE_PROGRAMS
// For oracle/regenerate, and for finding what differs: the images, and our results of them.
TEST_CASE("write the programs for the oracle") {
  const char* directory = std::getenv("ORACLE_DIRECTORY");
  REQUIRE(directory != nullptr);
  TestMachine machine;
  const auto save = [&](const std::string& name, const RandomProgram& program) {
    std::ofstream image(std::string(directory) + "/" + name + ".image", std::ios::binary);
    image.write(reinterpret_cast<const char*>(program.image.data()),
                std::streamsize(program.image.size()));
    resultHash(machine, program);
    std::ofstream results(std::string(directory) + "/" + name + ".ours", std::ios::binary);
    results.write(reinterpret_cast<const char*>(machine.at(RandomProgram::kResults)),
                  std::streamsize(RandomProgram::kResultBytes));
  };
  for (size_t seed = 0; seed < 100; ++seed) {
    save("integer" + std::to_string(seed), integerProgram(seed));
    save("float" + std::to_string(seed), floatProgram(seed));
  }
}
#endif

}  // namespace ckptfs::rv64::test
