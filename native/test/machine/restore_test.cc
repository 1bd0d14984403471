// Machines that begin from the checkpoint of another one in the same process.
#include <doctest/doctest.h>

#include <fstream>
#include <random>

#include "test/machine/rig.h"

namespace ckptfs {
namespace {

struct Checkpoint {
  const TempDirectory directory;
  CheckpointResult result;
  std::vector<std::byte> ram;

  explicit Checkpoint(unsigned harts) {
    Rig rig(harts);
    rig.boot();
    if (!rig.scribbled()) throw Error(Code::io, "the guest does not run");
    result = rig.save(directory.path());
    ram = rig.machine->oracle();
  }
};

/** One byte of a block's body is wrong until repaired; every saved block of the scribbled part is
 * one that the guest reads soon. */
class Damage {
 public:
  Damage(const std::string& directory, BlockId block) {
    const MemoryMap map = MemoryMap::read(directory + "/" + MemoryMap::kFileName);
    const format::MapBlock& row = map.blocks.at(block);
    if (row.codec == format::Codec::zero) throw Error(Code::io, "the block has no body");
    const format::MapIoBlock& io = map.ioBlocks[row.ioBlock];
    path_ = directory + "/" + map.segmentName(io.segment);
    at_ = io.offset + row.offset + row.stored / 2;
    flip();
  }
  void repair() { flip(); }
  const std::string& path() const { return path_; }

 private:
  void flip() const {
    std::filesystem::permissions(path_, std::filesystem::perms::owner_write,
                                 std::filesystem::perm_options::add);
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(std::streamoff(at_));
    const int byte = file.get();
    file.seekp(std::streamoff(at_));
    file.put(char(~byte));
    if (!file.flush()) throw Error(Code::io, "cannot change " + path_);
  }
  std::string path_;
  uint64_t at_ = 0;
};

constexpr BlockId kCodeBlock = 0;
constexpr BlockId kDataBlock = 77;

bool restored(Rig& rig) {
  return eventually([&] { return rig.machine->restoreProgress().at("done") == true; });
}

/** Retries until all is loaded: an attempt from before the repair may fail after a retry. */
bool recovers(Rig& rig) {
  return eventually([&] {
    if (rig.state() == "failed") failure([&] { rig.machine->retryRestore(); });
    return rig.machine->restoreProgress().at("done") == true && rig.state() == "running";
  });
}

}  // namespace

TEST_CASE("a guest goes on from its checkpoint, loaded lazily or first") {
  for (const unsigned harts : {1u, 2u}) {
    const Checkpoint checkpoint(harts);
    for (const bool lazy : {false, true}) {
      CAPTURE(harts);
      CAPTURE(lazy);
      Rig rig(harts);
      rig.restore(checkpoint.directory.path(), checkpoint.result, lazy);
      CHECK(rig.ticks() == checkpoint.result.guestTicks);
      if (!lazy) CHECK(rig.ram() == checkpoint.ram);
      rig.machine->start();
      CHECK(rig.goesOn());
      REQUIRE(restored(rig));
      CHECK(rig.goesOn());
      CHECK(rig.ticks() > checkpoint.result.guestTicks);
      rig.type("x");
      CHECK(eventually([&] { return rig.consoleBytes == 1; }));
      CHECK(rig.errors().empty());
      rig.machine->pause();
      CHECK(rig.ram() != checkpoint.ram);
    }
  }
}

TEST_CASE("memory that is restored lazily can be read before the guest asks for it") {
  const Checkpoint checkpoint(1);
  Rig rig;
  rig.restore(checkpoint.directory.path(), checkpoint.result, true);
  CHECK(rig.ram() == checkpoint.ram);
  rig.machine->start();
  CHECK(rig.goesOn());
  CHECK(restored(rig));
}

TEST_CASE("a checkpoint amid a lazy restore refers to what is not loaded yet") {
  Checkpoint checkpoint(2);
  const std::string& source = checkpoint.directory.path();
  for (const std::string& trace : traceEngineNames()) {
    CAPTURE(trace);
    const TempDirectory directory;
    for (int round = 0; round < (kSanitized ? 2 : 8); ++round) {
      CAPTURE(round);
      Rig rig(2, {}, trace);
      rig.restore(source, checkpoint.result, true);
      rig.machine->start();
      const std::string into = directory.make(std::to_string(round));
      const auto result = rig.saveIncrement(into, source);
      CHECK(result.incremental);
      CHECK(result.blocks.parent > 0);
      CHECK(contents(into) == rig.machine->oracle());
      const std::string next = directory.make("next" + std::to_string(round));
      rig.saveIncrement(next, into);
      CHECK(contents(next) == rig.machine->oracle());
      REQUIRE(restored(rig));
      Rig second(2, {}, trace);
      second.restore(into, result, round % 2 == 0);
      second.machine->start();
      CHECK(second.goesOn());
      CHECK(rig.goesOn());
    }
  }
}

TEST_CASE("a full checkpoint amid a lazy restore waits for it, and restores in its turn") {
  Checkpoint checkpoint(2);
  const TempDirectory directory;
  for (int round = 0; round < (kSanitized ? 2 : 8); ++round) {
    CAPTURE(round);
    Rig rig(2);
    rig.restore(checkpoint.directory.path(), checkpoint.result, true);
    rig.machine->start();
    const std::string into = directory.make(std::to_string(round));
    const auto result = rig.save(into);
    CHECK(rig.machine->restoreProgress().at("done") == true);
    CHECK(contents(into) == rig.machine->oracle());
    Rig second(2);
    second.restore(into, result, round % 2 == 0);
    second.machine->start();
    CHECK(second.goesOn());
    CHECK(rig.goesOn());
  }
}

TEST_CASE("close comes amid a restore, a pause of it, and a checkpoint that waits for it") {
  const Checkpoint checkpoint(2);
  std::mt19937 random(3);
  for (int round = 0; round < (kSanitized ? 8 : 40); ++round) {
    CAPTURE(round);
    const TempDirectory directory;
    Rig rig(2);
    rig.restore(checkpoint.directory.path(), checkpoint.result, true);
    rig.machine->start();
    std::optional<Code> failed;
    std::thread other([&] {
      failed = failure(
          [&] { round % 2 == 0 ? rig.machine->pause() : void(rig.save(directory.path())); });
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    rig.machine->close();
    other.join();
    CAPTURE(failed);
    CHECK((!failed || failed == Code::cancelled || failed == Code::usage));
    // What the guest did not need comes still.
    CHECK(rig.ram().size() == Rig::kRamBytes);
  }
}

TEST_CASE("a guest whose memory is damaged waits, and goes on once it is repaired") {
  const Checkpoint checkpoint(2);
  for (const BlockId block : {kCodeBlock, kDataBlock}) {
    CAPTURE(block);
    Damage damage(checkpoint.directory.path(), block);
    Rig rig(2);
    rig.restore(checkpoint.directory.path(), checkpoint.result, true);
    rig.machine->start();
    REQUIRE(eventually([&] { return rig.state() == "failed"; }));
    CHECK(eventually([&] { return rig.errors().size() == 1; }));
    CHECK(rig.machine->status().at("error").get<std::string>().find(damage.path()) !=
          std::string::npos);
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
    CHECK(failure([&] { rig.machine->resume(); }) == Code::usage);
    const TempDirectory into;
    CHECK(failure([&] { rig.save(into.path()); }) == Code::usage);
    CHECK(failure([&] { rig.ram(); }) == Code::damaged);

    rig.machine->retryRestore();  // in vain
    REQUIRE(eventually([&] { return rig.errors().size() >= 2 && rig.state() == "failed"; }));

    std::filesystem::rename(damage.path(), damage.path() + "~");
    std::ofstream(damage.path()) << "not a segment";
    CHECK(failure([&] { rig.machine->retryRestore(); }) == Code::damaged);
    CHECK(rig.state() == "failed");
    CHECK(failure([&] { rig.machine->pause(); }) == Code::usage);
    std::filesystem::rename(damage.path() + "~", damage.path());

    damage.repair();
    CHECK(recovers(rig));
    CHECK(rig.goesOn());
    CHECK(failure([&] { rig.machine->retryRestore(); }) == Code::usage);
    rig.save(into.path());
    CHECK(contents(into.path()) == rig.machine->oracle());
  }
}

TEST_CASE("a machine whose vCPU waits for damaged memory can be closed, paused or not") {
  const Checkpoint checkpoint(2);
  for (int round = 0; round < (kSanitized ? 6 : 20); ++round) {
    CAPTURE(round);
    Damage damage(checkpoint.directory.path(), round % 2 == 0 ? kCodeBlock : kDataBlock);
    Rig rig(2);
    rig.restore(checkpoint.directory.path(), checkpoint.result, true);
    rig.machine->start();
    if (round % 4 < 2)
      eventually([&] { return rig.state() == "failed"; });
    else
      failure([&] { rig.machine->pause(); });
    if (round % 3 == 0) failure([&] { rig.machine->retryRestore(); });
    if (round % 5 != 0) rig.machine->close();
    damage.repair();
  }
}

TEST_CASE("retries from several threads are one") {
  const Checkpoint checkpoint(2);
  Damage damage(checkpoint.directory.path(), kCodeBlock);
  Rig rig(2);
  rig.restore(checkpoint.directory.path(), checkpoint.result, true);
  rig.machine->start();
  REQUIRE(eventually([&] { return rig.state() == "failed"; }));
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) failure([&] { rig.machine->retryRestore(); });
    });
  for (std::thread& thread : threads) thread.join();
  REQUIRE(eventually([&] { return rig.state() == "failed"; }));
  damage.repair();
  CHECK(recovers(rig));
  CHECK(rig.goesOn());
  rig.machine->pause();
  const auto ram = rig.ram();
  CHECK(rig.ram() == ram);
}

TEST_CASE("a restore of something else is refused") {
  const Checkpoint checkpoint(1);
  const auto refused = [&](unsigned harts, const std::string& from, const std::string& state) {
    CheckpointResult changed = checkpoint.result;
    changed.deviceState = state;
    Rig rig(harts);
    return failure([&] { rig.restore(from, changed, true); });
  };
  const std::string& here = checkpoint.directory.path();
  const std::string& state = checkpoint.result.deviceState;
  CHECK(refused(2, here, state) == Code::damaged);
  CHECK(refused(1, here + "/none", state) == Code::notFound);
  for (const char* bad : {"", "{", "[]", "{}", R"({"format": 1})"})
    CHECK(refused(1, here, bad) == Code::damaged);
  Json other = Json::parse(state);
  other["format"] = kDeviceStateFormat + 1;
  CHECK(refused(1, here, other.dump()) == Code::unsupported);
  other = Json::parse(state);
  other["devices"].erase("plic");
  CHECK(refused(1, here, other.dump()) == Code::damaged);
  {
    const Damage damage(checkpoint.directory.path(), kDataBlock);
    Rig rig;
    CHECK(failure([&] { rig.restore(checkpoint.directory.path(), checkpoint.result, false); }) ==
          Code::damaged);
  }
}

}  // namespace ckptfs
