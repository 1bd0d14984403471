#include "base/arrival.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file_source.h"

using namespace ckptfs;

namespace {

constexpr uint64_t kPiece = Arrival::kPieceBytes;
constexpr auto kNoBell = [] {};

/** A file without a name, all of it a hole. */
struct Sparse {
  int fd;
  explicit Sparse(uint64_t bytes) {
    std::string name = "/tmp/ckptfs-base-XXXXXX";
    fd = mkstemp(name.data());
    REQUIRE(fd >= 0);
    unlink(name.c_str());
    REQUIRE(ftruncate(fd, off_t(bytes)) == 0);
  }
  ~Sparse() { close(fd); }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
};

/** Rings, and lets one wait for the next one. */
struct Bell {
  std::atomic<uint32_t> rings{0};
  uint32_t heard = 0;
  std::function<void()> ringer() {
    return [this] {
      ++rings;
      rings.notify_all();
    };
  }
  void wait() { rings.wait(heard++); }
};

}  // namespace

TEST_CASE("an arrival is found by whatever has the file open, and by nothing once it has ended") {
  const Sparse file(3 * kPiece), other(1);
  CHECK(Arrival::of(file.fd) == nullptr);
  const auto arrival = Arrival::begin(file.fd, 77, kNoBell);
  CHECK(arrival->modifiedNs() == 77);
  CHECK(Arrival::of(file.fd) == arrival);
  const int again = ::open(("/proc/self/fd/" + std::to_string(file.fd)).c_str(), O_RDONLY);
  REQUIRE(again >= 0);
  CHECK(Arrival::of(again) == arrival);
  CHECK(Arrival::of(other.fd) == nullptr);
  CHECK_THROWS_AS(Arrival::begin(again, 0, kNoBell), Error);
  close(again);
  arrival->end();
  CHECK(Arrival::of(file.fd) == nullptr);
  CHECK(Arrival::begin(file.fd, 0, kNoBell) != nullptr);
  CHECK(Arrival::of(file.fd) == nullptr);  // nobody kept that one
}

TEST_CASE("what is here is not waited for, and all of it makes the arrival complete") {
  const Sparse file(2 * kPiece + 1);
  const auto arrival = Arrival::begin(file.fd, 0, kNoBell);
  CHECK_FALSE(arrival->complete());
  arrival->arrived(kPiece, kPiece);
  CHECK(arrival->await(kPiece, kPiece) == 0);
  CHECK(arrival->await(2 * kPiece - 1, 1) == 0);
  CHECK(arrival->await(0, 0) == 0);
  CHECK(arrival->await(2 * kPiece + 1, 100) == 0);  // behind the end there is nothing to come
  CHECK(arrival->await(0, UINT64_MAX) == EDEADLK);  // this thread is the one that would bring it
  arrival->arrived(0, 2 * kPiece);                  // one of them again
  CHECK_FALSE(arrival->complete());
  arrival->arrived(2 * kPiece, 1);
  CHECK(arrival->complete());
  CHECK(arrival->await(0, UINT64_MAX) == 0);
  arrival->fail();
  CHECK(arrival->await(0, UINT64_MAX) == 0);
}

TEST_CASE("parts of pieces are refused") {
  const Sparse file(2 * kPiece + 10);
  const auto arrival = Arrival::begin(file.fd, 0, kNoBell);
  CHECK_THROWS_AS(arrival->arrived(1, kPiece), Error);
  CHECK_THROWS_AS(arrival->arrived(0, kPiece - 1), Error);
  CHECK_THROWS_AS(arrival->arrived(2 * kPiece, 9), Error);
  arrival->arrived(2 * kPiece, 10);
  arrival->arrived(4 * kPiece, kPiece);  // behind the end
  CHECK_FALSE(arrival->complete());
}

TEST_CASE("an empty file is here from the start") {
  const Sparse file(0);
  CHECK(Arrival::begin(file.fd, 0, kNoBell)->complete());
}

TEST_CASE("a reader waits until its pieces are here, and tells which it misses, once") {
  const Sparse file(10 * kPiece);
  Bell bell;
  const auto arrival = Arrival::begin(file.fd, 0, bell.ringer());
  arrival->arrived(3 * kPiece, kPiece);
  std::atomic<bool> done{false};
  std::thread reader([&] {
    CHECK(arrival->await(2 * kPiece + 5, 3 * kPiece) == 0);
    done = true;
  });
  bell.wait();
  CHECK(arrival->takeWanted() ==
        std::vector<Arrival::Wanted>{{2 * kPiece, kPiece, true}, {4 * kPiece, 2 * kPiece, true}});
  CHECK(arrival->takeWanted().empty());
  std::thread other([&] { CHECK(arrival->await(4 * kPiece, 1) == 0); });  // asked for already
  arrival->arrived(4 * kPiece, 2 * kPiece);
  other.join();
  CHECK_FALSE(done);
  CHECK(arrival->takeWanted().empty());
  arrival->arrived(2 * kPiece, kPiece);
  reader.join();
  CHECK(done);
}

TEST_CASE("who reads ahead is patient, and what becomes urgent is told once more") {
  const Sparse file(4 * kPiece);
  Bell bell;
  const auto arrival = Arrival::begin(file.fd, 0, bell.ringer());
  std::thread ahead([&] {
    const Arrival::Patience patience;
    CHECK(arrival->await(0, 1) == 0);
  });
  bell.wait();
  CHECK(arrival->takeWanted() == std::vector<Arrival::Wanted>{{0, kPiece, false}});
  std::thread guest([&] { CHECK(arrival->await(0, 1) == 0); });
  bell.wait();
  CHECK(arrival->takeWanted() == std::vector<Arrival::Wanted>{{0, kPiece, true}});
  arrival->arrived(0, kPiece);
  ahead.join();
  guest.join();
}

TEST_CASE("a failure, and an end, reach everybody who waits") {
  for (const bool ended : {false, true}) {
    const Sparse file(4 * kPiece);
    Bell bell;
    const auto arrival = Arrival::begin(file.fd, 0, bell.ringer());
    std::vector<std::thread> readers;
    for (uint64_t i = 0; i < 4; ++i)
      readers.emplace_back([&, i] { CHECK(arrival->await(i * kPiece, kPiece) == ECANCELED); });
    for (int i = 0; i < 4; ++i) bell.wait();
    if (ended)
      arrival->end();
    else
      Arrival::failAll();
    for (std::thread& reader : readers) reader.join();
  }
}

TEST_CASE("more ranges than are noted at once come one after another") {
  const Sparse file(1024 * kPiece);
  Bell bell;
  const auto arrival = Arrival::begin(file.fd, 0, bell.ringer());
  for (uint64_t piece = 1; piece < 1024; piece += 2) arrival->arrived(piece * kPiece, kPiece);
  std::thread reader([&] { CHECK(arrival->await(0, 1024 * kPiece) == 0); });
  for (uint64_t left = 512; left > 0;) {
    bell.wait();
    for (const auto& [offset, bytes, urgent] : arrival->takeWanted()) {
      CHECK(bytes == kPiece);
      arrival->arrived(offset, bytes);
      --left;
    }
  }
  reader.join();
  CHECK(arrival->complete());
}

TEST_CASE("many readers, and pieces that come in any order") {
  constexpr uint64_t kPieces = 256;
  const Sparse file(kPieces * kPiece);
  Bell bell;
  const auto arrival = Arrival::begin(file.fd, 0, bell.ringer());
  std::vector<std::thread> readers;
  std::atomic<unsigned> reading{4};
  for (uint64_t i = 0; i < 4; ++i)
    readers.emplace_back([&, i] {
      const ByteSource source = fileSource(file.fd, "test");
      std::vector<std::byte> buffer(kPiece);
      for (uint64_t n = 0; n < kPieces; ++n) {
        const uint64_t piece = (n * (2 * i + 1) + i * 40) % kPieces;
        source.read(piece * kPiece, buffer);
        CHECK(uint8_t(buffer[i]) == uint8_t(piece + 1));
      }
      --reading;
    });
  std::vector<std::byte> contents(kPiece);
  const auto bring = [&](uint64_t piece) {
    std::fill(contents.begin(), contents.end(), std::byte(piece + 1));
    REQUIRE(pwrite(file.fd, contents.data(), kPiece, off_t(piece * kPiece)) == ssize_t(kPiece));
    arrival->arrived(piece * kPiece, kPiece);
  };
  for (uint64_t last = kPieces; reading > 0;) {
    for (const auto& [offset, bytes, urgent] : arrival->takeWanted())
      for (uint64_t at = offset; at < offset + bytes; at += kPiece) bring(at / kPiece);
    if (last > 0) bring(--last);
  }
  for (std::thread& reader : readers) reader.join();
  CHECK(arrival->complete());
}

TEST_CASE("what has not arrived is no hole") {
  const Sparse file(4 * kPiece);
  const auto arrival = Arrival::begin(file.fd, 0, kNoBell);
  const ByteSource source = fileSource(file.fd, "test");
  CHECK_FALSE(source.run(0).hole);
  arrival->arrived(0, 4 * kPiece);
  CHECK(source.run(0).hole);
}
