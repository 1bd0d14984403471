// Restores from segments that are still arriving.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <thread>

#include "base/arrival.h"
#include "checkpoint/restore/restorer.h"
#include "saved_image.h"

using namespace ckptfs;
using format::Codec;

namespace {

/** Brings the segments of a checkpoint into a directory of its own, by pieces that are wanted. */
class Comer {
 public:
  explicit Comer(const std::string& from) {
    std::filesystem::copy(from, directory_.path(), std::filesystem::copy_options::recursive);
    thread_ = std::thread([this, from] { come(from); });
    rings_.wait(0);  // all of them are arriving
  }
  ~Comer() {
    ended_ = true;
    ring();
    thread_.join();
  }
  Comer(const Comer&) = delete;
  Comer& operator=(const Comer&) = delete;

  const std::string& path() const { return directory_.path(); }
  unsigned urgent() const { return urgent_; }
  unsigned patient() const { return patient_; }
  /** From now on nothing comes, and who waits is told so. */
  void fail() {
    failed_ = true;
    ring();
  }

 private:
  void ring() {
    ++rings_;
    rings_.notify_all();
  }
  void come(const std::string& from) {
    std::map<std::string, std::pair<int, std::shared_ptr<Arrival>>> arrivals;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      const std::string extension = entry.path().extension();
      if (extension != ".hot" && extension != ".cold") continue;
      const auto bytes = off_t(entry.file_size());
      const int fd = ::open(entry.path().c_str(), O_RDWR);
      REQUIRE(fd >= 0);
      REQUIRE(ftruncate(fd, 0) == 0);
      REQUIRE(ftruncate(fd, bytes) == 0);
      arrivals[entry.path().filename()] = {fd, Arrival::begin(fd, 0, [this] { ring(); })};
    }
    ring();
    for (uint32_t heard = rings_; !ended_; heard = rings_) {
      for (auto& [name, coming] : arrivals) {
        if (failed_) coming.second->fail();
        const int source = ::open((from + "/" + name).c_str(), O_RDONLY);
        for (const auto& [offset, length, urgent] : coming.second->takeWanted()) {
          std::vector<std::byte> bytes(length);
          REQUIRE(pread(source, bytes.data(), length, off_t(offset)) == ssize_t(length));
          REQUIRE(pwrite(coming.first, bytes.data(), length, off_t(offset)) == ssize_t(length));
          ++(urgent ? urgent_ : patient_);
          if (!failed_) coming.second->arrived(offset, length);
        }
        close(source);
      }
      rings_.wait(heard);
    }
    for (auto& [name, coming] : arrivals) close(coming.first);
  }

  TempDirectory directory_;
  std::atomic<uint32_t> rings_{0};
  std::atomic<bool> ended_{false}, failed_{false};
  std::atomic<unsigned> urgent_{0}, patient_{0};
  std::thread thread_;
};

}  // namespace

TEST_CASE("arriving: a restore waits for what it reads, the guest's wants before its own") {
  for (const char* engine : {"soft", "mprotect"}) {
    CAPTURE(engine);
    const Saved saved(kDefaultGeometry, 12 << 20, Codec::lz4);
    const Comer comer(saved.directory.path());
    const MemoryImage image(comer.path());
    const unsigned opened = comer.urgent();
    CHECK(opened > 0);
    CHECK(comer.patient() == 0);
    GuestMemory memory(image.bytes(), kDefaultGeometry, engine, 0);
    Restorer restorer(memory, image);
    restorer.arm();
    REQUIRE(memory.prepareRead(memory.bytes() / 2, 64));
    CHECK(std::memcmp(memory.hostView() + memory.bytes() / 2,
                      saved.contents.data() + memory.bytes() / 2, 64) == 0);
    const unsigned needed = comer.urgent();
    restorer.start();
    restorer.wait();
    CHECK(comer.urgent() == needed);
    CHECK(comer.patient() > 0);
    REQUIRE(equals(memory, saved.contents));
  }
}

TEST_CASE("arriving: what will not come holds its readers, as what is damaged does") {
  const Saved saved(kDefaultGeometry, 12 << 20, Codec::lz4);
  Comer comer(saved.directory.path());
  const MemoryImage image(comer.path());
  comer.fail();
  GuestMemory memory(image.bytes(), kDefaultGeometry, "soft", 0);
  Restorer restorer(memory, image);
  restorer.arm();
  restorer.start();
  CHECK_THROWS_AS(restorer.wait(), Error);
  CHECK_FALSE(restorer.progress().error.empty());
}
