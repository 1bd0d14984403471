// The chain against a plain array.
//
// CKPTFS_MODEL_STEPS is the number of operations, 24,000 unless it is set.
#include <cstdlib>

#include "test/disk/model.h"

namespace ckptfs {
namespace {

TEST_CASE(
    "chain: random requests, checkpoints, commits, compactions, clones and reopening agree with an "
    "array") {
  const char* const wanted = std::getenv("CKPTFS_MODEL_STEPS");
  const uint64_t steps = (wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 24'000) / 3;
  // 301 sectors: the last block group reaches beyond the end of the disk.
  struct Case {
    uint64_t sectors;
    Chain::Access access;
  };
  uint64_t seed = 10;
  for (const Case c : {Case{301, Chain::Access::redo}, Case{2048, Chain::Access::redo},
                       Case{2051, Chain::Access::direct}}) {
    Model model(seed++, c.sectors * 512, c.access);
    for (uint64_t step = 1; step <= steps; step++) {
      model.step();
      if (step % 700 == 0 && step > 2000) model.checkpoint();
      if (step % 900 == 0 && step > 4000) model.commit();
      if (step % 600 == 0 && step > 2000) model.compact();
      if (step % 500 == 0) model.check();
      if (step % 800 == 0) model.clone();
      if (step % 1100 == 0) model.reopen();
    }
    model.check();
    CHECK(model.commits >= 2);
    CHECK(model.compactions >= 2);
    model.chain->push(model.fresh());
    model.chain->sealFrozen();
    auto layers = model.chain->layers();
    layers.pop_back();
    for (const auto& layer : layers) {
      CHECK(layer.sealed);
      CHECK(verifyRedoLog(layer.path, layer.bytes).empty());
    }
  }
}

}  // namespace
}  // namespace ckptfs
