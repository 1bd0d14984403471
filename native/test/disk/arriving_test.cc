// Disks whose files are still arriving: what is not there yet is waited for, and is neither zeros
// nor a change.
#include <unistd.h>

#include "disk/chain.h"
#include "test/base/comer.h"
#include "test/disk/scratch.h"

namespace ckptfs {
namespace {

constexpr uint64_t kPiece = Arrival::kPieceBytes;

/** A file of that size, all of it a hole. */
std::string hollow(const Scratch& scratch, const std::string& name, uint64_t bytes) {
  const std::string path = scratch.file(name, {});
  REQUIRE(truncate(path.c_str(), off_t(bytes)) == 0);
  return path;
}

TEST_CASE("arriving: a parent has the time that it will have, no holes, and waits") {
  Scratch scratch;
  Random random(3);
  const Bytes model = randomBytes(random, 4 * kPiece);
  const std::string path = hollow(scratch, "disk", model.size());
  const Comer comer({{scratch.file("source", model), path, 12345}});
  const Parent parent(path, Parent::Access::read);
  parent.require({.bytes = model.size(), .mtimeNs = 12345});
  CHECK_FALSE(parent.run(0, model.size()).hole);
  CHECK(parent.run(0, model.size()).bytes == model.size());
  Bytes found(1000);
  parent.read(2 * kPiece + 7, found);
  CHECK(std::equal(found.begin(), found.end(), model.begin() + 2 * kPiece + 7));
  CHECK(comer.pieces() == 1);
}

TEST_CASE("arriving: a chain is opened with what that takes, and read as it is") {
  Scratch scratch;
  Random random(4);
  constexpr uint64_t kBytes = 32 * kPiece;
  Bytes model = randomBytes(random, kBytes);
  const std::string parent = scratch.file("parent", model);
  std::vector<Chain::LayerSpec> logs;
  {
    auto chain = Chain::open(parent, std::nullopt, {}, Chain::Access::redo);
    for (int log = 0; log < 3; ++log) {
      logs.push_back({scratch.path(std::to_string(log) + ".redo"), std::nullopt});
      chain->push(chain->prepare(logs.back().path));
      for (int i = 0; i < 200; ++i) {
        const Bytes data = randomBytes(random, 4096 * (1 + random() % 8));
        const uint64_t at = random() % ((kBytes - data.size()) / 512) * 512;
        chain->write(at, data);
        std::copy(data.begin(), data.end(), model.begin() + ptrdiff_t(at));
      }
    }
    chain->seal();
  }
  std::vector<Comer::Coming> coming{{parent, hollow(scratch, "arriving", kBytes), 1}};
  std::vector<Chain::LayerSpec> arriving;
  uint64_t pieces = kBytes / kPiece;
  for (const auto& log : logs) {
    const uint64_t bytes = std::filesystem::file_size(log.path);
    const std::string name = log.path.substr(log.path.rfind('/') + 1) + ".arriving";
    coming.push_back({log.path, hollow(scratch, name, bytes), 1});
    arriving.push_back({coming.back().to, bytes});
    pieces += (bytes + kPiece - 1) / kPiece;
  }
  const Comer comer(coming);
  const auto chain =
      Chain::open(coming[0].to, ParentIdentity{kBytes, 1}, arriving, Chain::Access::readonly);
  CHECK(comer.pieces() < pieces / 4);
  Bytes found(kBytes);
  chain->read(kBytes / 2, std::span(found).first(4096));
  CHECK(std::equal(found.begin(), found.begin() + 4096, model.begin() + kBytes / 2));
  CHECK(comer.pieces() < pieces / 2);
  chain->read(0, found);
  CHECK(found == model);
}

}  // namespace
}  // namespace ckptfs
