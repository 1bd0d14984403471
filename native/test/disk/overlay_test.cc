// Writes over the disk of a checkpoint, against a plain array; the checkpoint's files beside it.
#include "disk/overlay.h"

#include <atomic>
#include <thread>

#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

using Access = Chain::Access;
constexpr uint64_t kDiskBytes = 64 * 4096 + 512;

/** A checkpoint of a disk: its parent and a sealed log, which other VMs have open too. */
struct Rig {
  Rig() {
    std::mt19937_64 random(1);
    model = randomBytes(random, kDiskBytes);
    parent = scratch.file("parent", model);
    const auto chain = Chain::open(parent, std::nullopt, {}, Access::redo);
    chain->push(chain->prepare(log));
    const Bytes data = randomBytes(random, 3 * 4096);
    chain->write(8 * 4096 + 512, data);
    std::copy(data.begin(), data.end(), model.begin() + 8 * 4096 + 512);
    chain->push(chain->prepare(scratch.path("next")));
    chain->sealFrozen();
    sealedBytes = chain->layers().front().bytes;
    reader = open(Access::readonly);
  }
  std::unique_ptr<Chain> open(Access access) const {
    return Chain::open(parent, std::nullopt, {{log, sealedBytes}}, access);
  }

  Scratch scratch;
  Bytes model;
  std::string parent, log = scratch.path("log");
  uint64_t sealedBytes = 0;
  std::unique_ptr<Chain> reader;
};

Bytes all(const Overlay& overlay) {
  Bytes bytes(overlay.bytes());
  overlay.read(0, bytes);
  return bytes;
}

TEST_CASE("an overlay takes writes of any place and length, and leaves the checkpoint alone") {
  Rig rig;
  const Bytes before = rig.model, parent = contents(rig.parent), log = contents(rig.log);
  Overlay overlay(rig.open(Access::overlay), rig.scratch.path("overlay"));
  CHECK(overlay.bytes() == kDiskBytes);
  CHECK(all(overlay) == before);
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t grain = i % 3 == 0 ? 512 : 1;
    const uint64_t offset = random() % (kDiskBytes / grain) * grain;
    const uint64_t most = i % 50 == 0 ? 100'000 : 3000;
    const uint64_t length = std::min(kDiskBytes - offset, random() % (most / grain) * grain);
    const Bytes data = randomBytes(random, length);
    overlay.write(offset, data);
    std::copy(data.begin(), data.end(), rig.model.begin() + long(offset));
    if (i % 100 == 0) {
      overlay.flush();
      REQUIRE(all(overlay) == rig.model);
    }
  }
  CHECK(all(overlay) == rig.model);
  Bytes seen(kDiskBytes);
  rig.reader->read(0, seen);
  CHECK(seen == before);
  CHECK(contents(rig.parent) == parent);
  CHECK(contents(rig.log) == log);
}

TEST_CASE("a range of an overlay becomes zeros, wherever it begins and ends") {
  Rig rig;
  Overlay overlay(rig.open(Access::overlay), rig.scratch.path("overlay"));
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    const uint64_t offset = random() % kDiskBytes;
    const uint64_t length = std::min(kDiskBytes - offset, random() % (i % 2 ? 1500 : 20'000));
    overlay.zero(offset, length);
    std::fill_n(rig.model.begin() + long(offset), length, std::byte{0});
    const Bytes data = randomBytes(random, std::min<uint64_t>(kDiskBytes - offset, 700));
    overlay.write(offset, data);
    std::copy(data.begin(), data.end(), rig.model.begin() + long(offset));
  }
  CHECK(all(overlay) == rig.model);
  CHECK_THROWS_AS(overlay.zero(kDiskBytes - 1, 2), Error);
}

TEST_CASE("an overlay does not grow") {
  Rig rig;
  Overlay overlay(rig.open(Access::overlay), rig.scratch.path("overlay"));
  const Bytes data(600);
  for (const uint64_t offset : {kDiskBytes - 599, kDiskBytes + 1, UINT64_MAX - 300})
    CHECK_THROWS_AS(overlay.write(offset, data), Error);
  CHECK(all(overlay) == rig.model);
  overlay.write(kDiskBytes - 600, data);
  overlay.write(kDiskBytes, {});
  CHECK_THROWS_WITH_AS(overlay.write(kDiskBytes, data), doctest::Contains("beyond the end"), Error);
}

TEST_CASE("writes to parts of one sector from several threads all stay") {
  Rig rig;
  Overlay overlay(rig.open(Access::overlay), rig.scratch.path("overlay"));
  constexpr unsigned kThreads = 4;
  std::atomic<unsigned> lost = 0;
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      for (unsigned i = 0; i < 1000; ++i) {
        const Bytes data(100, std::byte(i));
        Bytes found(100);
        overlay.write(thread * 100, data);
        overlay.read(thread * 100, found);
        if (found != data) ++lost;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(lost == 0);
}

TEST_CASE("an overlay that was kept goes on, over the disk it was made for and no other") {
  Rig rig;
  const std::string path = rig.scratch.path("overlay");
  std::mt19937_64 random(3);
  const auto write = [&](uint64_t offset, uint64_t length) {
    Overlay overlay(rig.open(Access::overlay), path);
    CHECK(all(overlay) == rig.model);
    const Bytes data = randomBytes(random, length);
    overlay.write(offset, data);
    std::copy(data.begin(), data.end(), rig.model.begin() + long(offset));
    CHECK(all(overlay) == rig.model);
    CHECK_THROWS_WITH_AS(Overlay(rig.open(Access::overlay), path), doctest::Contains("in use"),
                         Error);
  };
  write(9 * 4096 + 17, 20'000);
  write(9 * 4096 + 5000, 100);
  write(kDiskBytes - 700, 700);

  const auto refused = [&](const Rig& other, const std::string& log) {
    const Bytes before = contents(log);
    CHECK_THROWS_WITH_AS(Overlay(other.open(Access::overlay), log),
                         doctest::Contains("does not follow"), Error);
    CHECK(contents(log) == before);
  };
  refused(Rig(), path);
  const std::string sealed = rig.scratch.path("sealed");
  std::filesystem::copy_file(rig.log, sealed);
  CHECK_THROWS_AS(Overlay(rig.open(Access::overlay), sealed), Error);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 100);
  CHECK(Overlay(rig.open(Access::overlay), path).bytes() == kDiskBytes);  // without its torn end
}

TEST_CASE("layers that are not sealed as recorded are refused, and not mended") {
  Rig rig;
  rig.reader.reset();
  std::filesystem::resize_file(rig.log, rig.sealedBytes - 512);
  const Bytes cut = contents(rig.log);
  CHECK_THROWS_WITH_AS(rig.open(Access::overlay), doctest::Contains("damaged"), Error);
  CHECK(contents(rig.log) == cut);
}

}  // namespace
}  // namespace ckptfs
