// Restores from segments that are still arriving.
#include <cstring>
#include <filesystem>

#include "checkpoint/restore/restorer.h"
#include "saved_image.h"
#include "test/base/comer.h"

using namespace ckptfs;
using format::Codec;

namespace {

/** A copy of a checkpoint's directory whose segments are still to come. */
struct Arriving {
  explicit Arriving(const std::string& from) : comer(hollow(from, directory.path())) {}

  static std::vector<Comer::Coming> hollow(const std::string& from, const std::string& to) {
    std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
    std::vector<Comer::Coming> coming;
    for (const auto& entry : std::filesystem::directory_iterator(to)) {
      const std::string extension = entry.path().extension();
      if (extension != ".hot" && extension != ".cold") continue;
      const uintmax_t bytes = entry.file_size();
      std::filesystem::resize_file(entry.path(), 0);
      std::filesystem::resize_file(entry.path(), bytes);
      coming.push_back({from + "/" + entry.path().filename().string(), entry.path(), 0});
    }
    return coming;
  }

  const TempDirectory directory;
  Comer comer;
};

}  // namespace

TEST_CASE("arriving: a restore waits for what it reads, the guest's wants before its own") {
  for (const char* engine : {"soft", "mprotect"}) {
    CAPTURE(engine);
    const Saved saved(kDefaultGeometry, 12 << 20, Codec::lz4);
    const Arriving arriving(saved.directory.path());
    const Comer& comer = arriving.comer;
    const MemoryImage image(arriving.directory.path());
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
  Arriving arriving(saved.directory.path());
  const MemoryImage image(arriving.directory.path());
  arriving.comer.fail();
  GuestMemory memory(image.bytes(), kDefaultGeometry, "soft", 0);
  Restorer restorer(memory, image);
  restorer.arm();
  restorer.start();
  CHECK_THROWS_AS(restorer.wait(), Error);
  CHECK_FALSE(restorer.progress().error.empty());
}
