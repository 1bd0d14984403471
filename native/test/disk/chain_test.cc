// A disk of layers: what it refuses, what a kill leaves, who sees what.
#include "disk/chain.h"

#include <algorithm>
#include <optional>
#include <thread>

#include "test/disk/model.h"

namespace ckptfs {
namespace {

using Access = Chain::Access;

TEST_CASE("chain: the map tells which layer has what") {
  size_t seen = 0;
  for (const uint64_t seed : {40, 41, 42, 43, 44, 45}) {
    Model model(seed, 301 * 512, seed % 2 == 0 ? Access::redo : Access::direct);
    for (int step = 1; step <= 900; step++) {
      model.step();
      if (step % 200 == 0) model.checkpoint();
    }
    const auto runs = model.chain->map();
    const auto layers = specs(*model.chain);
    model.views.clear();
    model.chain.reset();
    uint64_t end = 0;
    for (const LayerRun& run : runs) {
      REQUIRE(run.offset == end);
      end += run.bytes;
      if (run.offset > 0) {
        const LayerRun& before = *(&run - 1);
        REQUIRE((run.layer != before.layer || run.zeroes != before.zeroes));
      }
      // With the layers above taken off, it reads the same; with its own taken off too, it is
      // another layer's.
      REQUIRE(run.layer <= layers.size());
      auto below = layers;
      below.resize(run.layer);
      const auto chain = Chain::open(model.parent, {}, below, Access::readonly);
      Bytes found(run.bytes);
      chain->read(run.offset, found);
      REQUIRE(std::equal(found.begin(), found.end(), model.bytes.begin() + long(run.offset)));
      if (run.zeroes)
        REQUIRE(
            std::all_of(found.begin(), found.end(), [](std::byte b) { return b == std::byte{0}; }));
      for (const LayerRun& own : chain->map())
        if (own.offset <= run.offset && run.offset < own.offset + own.bytes)
          REQUIRE(own.layer == run.layer);
    }
    CHECK(end == model.bytes.size());
    seen += runs.size();
  }
  CHECK(seen > 20);
}

TEST_CASE("chain: holes of the parent are in the map") {
  const Scratch scratch;
  const std::string path = scratch.file("parent", {});
  std::filesystem::resize_file(path, 1 << 20);
  {
    const auto disk = Chain::open(path, {}, {}, Access::direct);
    disk->write(256 << 10, Bytes(64 << 10, std::byte{7}));
    disk->flush();
  }
  const auto disk = Chain::open(path, {}, {}, Access::readonly);
  CHECK(disk->map() == std::vector<LayerRun>{{0, 256 << 10, 0, true},
                                             {256 << 10, 64 << 10, 0, false},
                                             {320 << 10, 704 << 10, 0, true}});
}

// After a kill the file system has some prefix of what was appended. Whatever it is, the disk is as
// it was after some request, and never older than the last flush.
TEST_CASE("chain: cut at random, the disk is as it was after some write since the last flush") {
  Model model(20, 64 * 512, Access::redo);
  std::vector<std::pair<uint64_t, Bytes>> history;  // log bytes → disk
  uint64_t flushed = 0;
  for (int step = 0; step < 300; step++) {
    uint64_t offset, length;
    model.pick(offset, length);
    length = std::max<uint64_t>(length, 512);
    if (offset + length > model.bytes.size()) offset = model.bytes.size() - length;
    const Bytes data = randomBytes(model.random, length);
    model.chain->write(offset, data);
    std::copy(data.begin(), data.end(), model.bytes.begin() + long(offset));
    history.push_back({model.chain->layers().back().bytes, model.bytes});
    if (step == 200) model.chain->flush();
    if (step == 200) flushed = history.back().first;
  }
  const std::string path = model.chain->layers().back().path;
  const auto identity = model.chain->parentIdentity();
  model.chain.reset();
  const Bytes whole = contents(path);
  for (int round = 0; round < 200; round++) {
    const uint64_t cut = flushed + model.random() % (whole.size() - flushed + 1);
    const std::string torn =
        model.scratch.file("torn", Bytes(whole.begin(), whole.begin() + long(cut)));
    auto chain = Chain::open(model.parent, identity, {{torn, std::nullopt}}, Access::redo);
    const auto last = std::find_if(history.rbegin(), history.rend(),
                                   [&](const auto& entry) { return entry.first <= cut; });
    REQUIRE(all(*chain) == last->second);
    chain->write(0, Bytes(512, std::byte{1}));
    chain->flush();
  }
}

TEST_CASE("chain: direct until the first push, which freezes the parent") {
  Scratch scratch;
  const std::string path = scratch.file("parent", Bytes(8192));
  auto chain = Chain::open(path, std::nullopt, {}, Access::direct);
  chain->write(0, Bytes(512, std::byte{1}));
  chain->flush();
  CHECK(codeOf([&] { chain->frozenView(); }) == Code::usage);
  CHECK(codeOf([&] { Chain::open(path, std::nullopt, {}, Access::readonly); }) == Code::busy);
  chain->push(chain->prepare(scratch.path("redo")));
  chain->sealFrozen();
  const Bytes frozen = contents(path);
  CHECK(frozen[0] == std::byte{1});
  chain->write(0, Bytes(512, std::byte{2}));
  chain->flush();
  CHECK(contents(path) == frozen);
  CHECK(all(*chain)[0] == std::byte{2});
  CHECK(all(*chain->frozenView()) == frozen);
  CHECK(chain->frozenView()->layers().empty());
  // A second VM can start from what is frozen.
  auto other = Chain::open(path, chain->parentIdentity(), {}, Access::readonly);
  CHECK(all(*other) == frozen);
}

TEST_CASE("chain: several VMs go on from one checkpoint at once") {
  Scratch scratch;
  const std::string path = scratch.file("parent", Bytes(8192));
  auto chain = Chain::open(path, std::nullopt, {}, Access::redo);
  chain->push(chain->prepare(scratch.path("redo0")));
  chain->write(0, Bytes(512, std::byte{1}));
  chain->push(chain->prepare(scratch.path("redo1")));
  chain->sealFrozen();
  const auto frozen = specs(*chain->frozenView());
  std::vector<std::unique_ptr<Chain>> others;
  for (uint8_t i = 2; i < 5; i++) {
    others.push_back(Chain::open(path, chain->parentIdentity(), frozen, Access::redo));
    CHECK(codeOf([&] { others.back()->discard(0, 512); }) == Code::usage);  // the top is sealed
    others.back()->push(others.back()->prepare(scratch.path("redo" + std::to_string(i))));
    others.back()->write(512, Bytes(512, std::byte{i}));
  }
  for (uint8_t i = 2; i < 5; i++) {
    const Bytes found = all(*others[i - 2]);
    CHECK(found[0] == std::byte{1});
    CHECK(found[512] == std::byte{i});
  }
  CHECK(all(*chain)[512] == std::byte{0});
}

TEST_CASE("chain: a block group that reaches beyond the disk is zeros there") {
  Scratch scratch;
  const std::string path = scratch.file("parent", Bytes(5 * 512, std::byte{5}));
  auto chain = Chain::open(path, std::nullopt, {}, Access::redo);
  auto log = chain->prepare(scratch.path("redo"));
  const RedoLog& top = *log;
  chain->push(std::move(log));
  chain->write(4 * 512, Bytes(512, std::byte{1}));
  Bytes group(4096), expected(4096);
  std::fill_n(expected.begin(), 4 * 512, std::byte{5});
  std::fill_n(expected.begin() + 4 * 512, 512, std::byte{1});
  CHECK(top.read(0, group).here);
  CHECK(group == expected);
}

TEST_CASE("chain: requests that do not fit are refused") {
  Scratch scratch;
  const std::string path = scratch.file("parent", Bytes(8192));
  auto chain = Chain::open(path, std::nullopt, {}, Access::redo);
  Bytes sector(512);
  CHECK(codeOf([&] { chain->write(0, sector); }) == Code::usage);  // no log yet
  chain->push(chain->prepare(scratch.path("redo")));
  chain->write(7680, sector);
  for (const uint64_t offset : {uint64_t{1}, uint64_t{7681}, uint64_t{8192}, ~uint64_t{511}}) {
    CHECK(codeOf([&] { chain->write(offset, sector); }) == Code::usage);
    CHECK(codeOf([&] { chain->writeZeroes(offset, 512, false); }) == Code::usage);
    CHECK(codeOf([&] { chain->discard(offset, 512); }) == Code::usage);
  }
  CHECK(codeOf([&] { chain->discard(0, ~uint64_t{0}); }) == Code::usage);
  CHECK(codeOf([&] { chain->write(0, std::span(sector).first(100)); }) == Code::usage);
  CHECK(codeOf([&] { chain->read(8000, sector); }) == Code::usage);
  CHECK(codeOf([&] { chain->read(~uint64_t{0}, sector); }) == Code::usage);
  chain->read(8192, {});
  chain->write(8192, {});

  auto view = Chain::open(path, std::nullopt, {}, Access::readonly);
  CHECK(view->readOnly());
  CHECK(codeOf([&] { view->write(0, sector); }) == Code::usage);
  CHECK(codeOf([&] { view->push(view->prepare(scratch.path("redo2"))); }) == Code::usage);
  CHECK(codeOf([&] {
          Chain::open(path, std::nullopt, {{scratch.path("redo"), {}}}, Access::direct);
        }) == Code::usage);
}

TEST_CASE("chain: logs that do not belong together are refused") {
  Scratch scratch;
  const std::string path = scratch.file("parent", Bytes(8192));
  const std::string a = scratch.path("a"), b = scratch.path("b"), c = scratch.path("c");
  auto chain = Chain::open(path, std::nullopt, {}, Access::redo);
  chain->push(chain->prepare(a));
  auto late = chain->prepare(c);
  chain->push(chain->prepare(b));
  CHECK(codeOf([&] { chain->push(std::move(late)); }) == Code::usage);  // it follows a, not b
  chain->sealFrozen();
  const auto identity = chain->parentIdentity();
  const uint64_t bytes = chain->layers()[0].bytes;
  chain.reset();
  const auto open = [&](std::vector<Chain::LayerSpec> layers) {
    Chain::open(path, identity, layers, Access::readonly);
  };
  open({{a, bytes}, {b, {}}});
  std::string message;
  CHECK(codeOf([&] { open({{b, {}}, {a, {}}}); }, &message) == Code::damaged);
  CHECK(message.find("does not follow") != std::string::npos);
  CHECK(codeOf([&] { open({{b, {}}}); }) == Code::damaged);
  CHECK(codeOf([&] { open({{a, bytes + 512}, {b, {}}}); }) == Code::damaged);
  CHECK(codeOf([&] { open({{a, bytes}, {b, 512}}); }) == Code::damaged);  // b is not sealed
  CHECK(codeOf([&] { open({{a, bytes}, {scratch.path("none"), {}}}); }) == Code::notFound);
  const std::string longer = scratch.file("longer", Bytes(16384));
  CHECK(codeOf([&] { Chain::open(longer, {}, {{a, {}}}, Access::readonly); }) == Code::damaged);
  std::filesystem::last_write_time(
      path, std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  CHECK(codeOf([&] { open({{a, bytes}}); }, &message) == Code::damaged);
  CHECK(message.find("changed since the checkpoint") != std::string::npos);
}

// Each thread owns every fourth sector, so that all share every block group: a lost copy-up would
// lose a neighbour's sector. Checkpoints come between rounds, as they do in a drained VM; readers
// of the frozen and the live disk never stop.
TEST_CASE("chain: writers to parts of the same blocks, readers and flushes at once") {
  constexpr uint64_t kThreads = 4, kSectors = 512;
  Scratch scratch;
  auto chain =
      Chain::open(scratch.file("parent", Bytes(kSectors * 512)), std::nullopt, {}, Access::redo);
  chain->push(chain->prepare(scratch.path("redo0")));
  Bytes model(kSectors * 512);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> mixed{0};
  std::thread reader([&] {
    Random random(30);
    Bytes found(8 * 512);
    while (!stop) {
      chain->read(random() % (kSectors - 8) * 512, found);
      for (size_t sector = 0; sector < 8; sector++)
        mixed += !std::all_of(found.begin() + long(sector * 512),
                              found.begin() + long(sector * 512 + 512),
                              [&](std::byte byte) { return byte == found[sector * 512]; });
    }
  });
  for (int round = 1; round <= 4; round++) {
    std::vector<std::thread> writers;
    for (uint64_t thread = 0; thread < kThreads; thread++)
      writers.emplace_back([&, thread] {
        Random random(uint64_t(round) * 100 + thread);
        for (int step = 0; step < 200; step++) {
          const uint64_t sector = random() % (kSectors / kThreads) * kThreads + thread;
          const std::byte value{uint8_t(random())};
          const bool zero = random() % 8 == 0;
          if (zero)
            chain->writeZeroes(sector * 512, 512, true);
          else
            chain->write(sector * 512, Bytes(512, value));
          std::fill_n(model.begin() + long(sector * 512), 512, zero ? std::byte{0} : value);
          if (step % 50 == 0) chain->flush();
        }
      });
    for (auto& writer : writers) writer.join();
    REQUIRE(all(*chain) == model);
    chain->push(chain->prepare(scratch.path("redo" + std::to_string(round))));
    auto view = chain->frozenView();
    std::thread sealer([&] { chain->sealFrozen(); });
    chain->write(0, Bytes(512, std::byte{9}));
    chain->flush();
    REQUIRE(all(*view) == model);
    sealer.join();
    std::fill_n(model.begin(), 512, std::byte{9});
    for (const auto& layer : view->layers()) REQUIRE(layer.sealed);
  }
  stop = true;
  reader.join();
  CHECK(mixed == 0);
  CHECK(all(*chain) == model);
}

}  // namespace
}  // namespace ckptfs
