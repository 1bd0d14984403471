// The sweeps over block states against loops over single states.
#include "memory/block_states.h"

#include <doctest/doctest.h>

#include <random>
#include <thread>
#include <vector>

using namespace ckptfs;

namespace {

constexpr BlockState kResting[] = {BlockState::open, BlockState::clean, BlockState::traced,
                                   BlockState::absent, BlockState::loading};

/** Random states in runs, so that whole words of one state occur beside mixed ones. */
std::vector<BlockState> randomStates(uint64_t count, std::mt19937_64& random) {
  std::vector<BlockState> states;
  while (states.size() < count)
    states.insert(states.end(), 1 + random() % (random() % 2 == 0 ? 3 : 40),
                  kResting[random() % std::size(kResting)]);
  states.resize(count);
  return states;
}

}  // namespace

TEST_CASE("block states: what may be let through") {
  CHECK(rightsIn(BlockState::open) == Rights::all);
  for (const auto state :
       {BlockState::clean, BlockState::traced, BlockState::saving, BlockState::saved})
    CHECK(rightsIn(state) == Rights::read);
  for (const auto state : {BlockState::absent, BlockState::loading})
    CHECK(rightsIn(state) == Rights::none);
}

TEST_CASE("block states: counting and arming agree with a look at each block") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 400; ++round) {
    const uint64_t count = 1 + random() % 200;
    const auto before = randomStates(count, random);
    const bool keepBase = random() % 2 == 0;
    BlockStates states(count);
    for (BlockId b = 0; b < count; ++b) states.set(b, before[b]);
    uint64_t dirty = 0;
    bool missing = false;
    for (const BlockState state : before) {
      dirty += state == BlockState::open || state == BlockState::traced;
      missing |= rightsIn(state) == Rights::none;
    }
    REQUIRE(states.countDirty() == dirty);
    REQUIRE(states.anyAbsentOrLoading() == missing);
    std::vector<uint8_t> traced(count, 7);
    states.arm(keepBase, traced);
    for (BlockId b = 0; b < count; ++b) {
      const bool saves = before[b] == BlockState::open || before[b] == BlockState::traced ||
                         (before[b] == BlockState::clean && !keepBase);
      REQUIRE(traced[b] == saves);
      REQUIRE(states.at(b) == (saves ? BlockState::traced : before[b]));
    }
  }
}

TEST_CASE("block states: saved and saving blocks are dirty") {
  BlockStates states(11);
  states.fill(BlockState::clean);
  CHECK(states.countDirty() == 0);
  states.set(3, BlockState::saved);
  states.set(9, BlockState::saving);
  CHECK(states.countDirty() == 2);
}

TEST_CASE("block states: arming while a load goes on leaves no block between") {
  constexpr uint64_t kCount = 4096;
  for (int round = 0; round < 20; ++round) {
    BlockStates states(kCount);
    states.fill(BlockState::loading);
    std::jthread loader([&] {
      for (BlockId b = 0; b < kCount; ++b)
        states.set(b, b % 3 == 0 ? BlockState::open : BlockState::clean);
    });
    std::vector<uint8_t> traced(kCount);
    while (states.at(kCount / 2 / (1 + round)) == BlockState::loading) {
    }
    states.arm(true, traced);
    loader.join();
    for (BlockId b = 0; b < kCount; ++b) {
      if (traced[b] != 0) REQUIRE(b % 3 == 0);
      REQUIRE((states.at(b) == BlockState::traced) == (traced[b] != 0));
    }
  }
}

TEST_CASE("block states: a waiter wakes") {
  BlockStates states(2);
  states.set(1, BlockState::saving);
  std::jthread mover([&] { states.set(1, BlockState::saved); });
  states.waitWhile(1, BlockState::saving);
  CHECK(states.at(1) == BlockState::saved);
}
