// A disk beside a plain array: the same requests to both, through checkpoints, commits,
// compactions, clones and reopening.
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "disk/chain.h"
#include "test/disk/scratch.h"

namespace ckptfs {

inline Bytes all(Disk& disk) {
  Bytes bytes(disk.bytes());
  disk.read(0, bytes);
  return bytes;
}

inline std::vector<Chain::LayerSpec> specs(const Chain& chain) {
  std::vector<Chain::LayerSpec> found;
  for (const auto& layer : chain.layers())
    found.push_back({layer.path, layer.sealed ? std::optional(layer.bytes) : std::nullopt});
  return found;
}

/** One disk with its model, and the views of its checkpoints with theirs. */
struct Model {
  Model(uint64_t seed, uint64_t diskBytes, Chain::Access access) : random(seed), access(access) {
    bytes = randomBytes(random, diskBytes);
    parent = scratch.file("parent", bytes);
    chain = Chain::open(parent, std::nullopt, {}, access);
    if (access == Chain::Access::redo) chain->push(fresh());
  }
  std::unique_ptr<RedoLog> fresh() {
    return chain->prepare(scratch.path("redo" + std::to_string(next++)));
  }
  // A sector-aligned range, mostly small, now and then over a record's limit.
  void pick(uint64_t& offset, uint64_t& length) {
    const uint64_t sectors = bytes.size() / 512;
    const uint64_t first = random() % sectors;
    const uint64_t most = random() % 16 == 0 ? sectors : random() % 4 == 0 ? 100 : 17;
    offset = first * 512;
    length = std::min(sectors - first, random() % most) * 512;
    if (random() % 2 == 0) {  // whole blocks, as most guests write
      offset = offset / 4096 * 4096;
      length = std::min((length + 4095) / 4096 * 4096, bytes.size() - offset);
    }
  }
  void step() {
    uint64_t offset, length;
    pick(offset, length);
    const auto at = bytes.begin() + long(offset);
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const Bytes data = randomBytes(random, std::min<uint64_t>(length, 64 * 1024));
        chain->writev(offset, inPieces(data));
        std::copy(data.begin(), data.end(), at);
        break;
      }
      case 3:
        if (random() % 2 == 0)
          chain->discard(offset, length);
        else
          chain->writeZeroes(offset, length, random() % 2 == 0);
        std::fill_n(at, length, std::byte{0});
        break;
      case 4:
        if (random() % 8 == 0) chain->flush();
        break;
      default: {  // reads take any byte
        offset = random() % bytes.size();
        Bytes found(std::min<uint64_t>(bytes.size() - offset, random() % 20000));
        chain->read(offset, found);
        REQUIRE(std::equal(found.begin(), found.end(), bytes.begin() + long(offset)));
      }
    }
  }
  /** Of any number of bytes, also none. */
  std::vector<std::span<const std::byte>> inPieces(std::span<const std::byte> data) {
    std::vector<std::span<const std::byte>> pieces;
    while (random() % 4 != 0 && !data.empty()) {
      pieces.push_back(data.first(random() % (data.size() + 1)));
      data = data.subspan(pieces.back().size());
    }
    pieces.push_back(data);
    return pieces;
  }
  void checkpoint() {
    auto log = fresh();
    chain->push(std::move(log));
    views.push_back({chain->frozenView(), bytes});
    if (random() % 2 == 0) return;  // sealed after a later push
    chain->sealFrozen();
    chain->sealFrozen();
  }
  /** Some of the oldest logs, while requests go on; now and then broken off. */
  void commit() {
    chain->push(fresh());
    chain->sealFrozen();
    const auto layers = chain->layers();
    Commit commit{.logs = 1 + random() % (layers.size() - 1)};
    // One that was broken off; a compaction may have left fewer logs since.
    if (committing != 0)
      commit = {.logs = std::min<size_t>(committing, layers.size() - 1), .again = true};
    uint64_t pieces = random() % 4 == 0 ? random() % 20 : UINT64_MAX;
    std::optional<Progress> progress;
    progress.emplace([&](uint64_t done, uint64_t total) {
      REQUIRE(done <= total);
      if (pieces-- == 0) progress->cancel();
    });
    // What a checkpoint refers to does not change.
    if (committing == 0 && random() % 2 == 0) views.clear();
    if (!views.empty()) {
      commit.into = scratch.path("parent" + std::to_string(next++));
      std::filesystem::copy_file(parent, commit.into);
    }
    std::optional<Code> code;
    std::thread beside([&] {
      try {
        chain->commit(commit, *progress);
      } catch (const Error& error) {
        code = error.code();
      }
    });
    for (int i = 0; i < 20; ++i) step();
    beside.join();
    if (code) {
      REQUIRE(code == Code::cancelled);
      committing = commit.into.empty() ? commit.logs : 0;
      return;
    }
    committing = 0;
    REQUIRE(chain->layers().size() == layers.size() - commit.logs);
    if (!commit.into.empty()) {
      parent = commit.into;
    } else {
      for (size_t i = 0; i < commit.logs; ++i) std::filesystem::remove(layers[i].path);
    }
    ++commits;
  }
  /** Some runs of sealed logs become one log each, while requests go on; now and then broken off.
   */
  void compact() {
    chain->push(fresh());
    chain->sealFrozen();
    const auto layers = chain->layers();
    const auto survey = chain->survey();
    std::vector<LogRun> runs;
    uint64_t least = 0, most = 0;
    for (size_t first = random() % layers.size(); first + 1 < layers.size();) {
      const size_t logs = 1 + random() % (layers.size() - 1 - first);
      // Files that views have are opened by their names (clone).
      const bool over = views.empty() && random() % 2 == 0;
      const std::string own = scratch.path("redo" + std::to_string(next++));
      runs.push_back({first, logs, over ? layers[first + logs - 1].path : own});
      for (size_t i = first; i < first + logs; ++i) {
        least += survey[i].liveBytes;
        most += survey[i].compactBytes;
      }
      first += logs + random() % 2;
    }
    uint64_t pieces = random() % 4 == 0 ? random() % 20 : UINT64_MAX;
    std::optional<Progress> progress;
    progress.emplace([&](uint64_t done, uint64_t total) {
      REQUIRE(done <= total);
      if (pieces-- == 0) progress->cancel();
    });
    std::optional<Code> code;
    std::thread beside([&] {
      try {
        chain->compact(runs, *progress);
      } catch (const Error& error) {
        code = error.code();
      }
    });
    for (int i = 0; i < 20; ++i) step();
    beside.join();
    const auto now = chain->layers();
    if (code) {
      REQUIRE(code == Code::cancelled);
      REQUIRE(now.size() == layers.size());
      for (const LogRun& run : runs) REQUIRE(!std::filesystem::exists(run.path + ".compacted"));
      return;
    }
    size_t fewer = 0, at = 0;
    uint64_t bytes = 0;
    for (const LogRun& run : runs) {
      const Chain::LayerInfo& log = now[run.first - fewer];
      REQUIRE(log.path == run.path);
      REQUIRE(verifyRedoLog(log.path, log.bytes).empty());
      bytes += log.bytes;
      fewer += run.logs - 1;
      for (; at < run.first + run.logs; ++at)
        if (at >= run.first && views.empty() && layers[at].path != run.path)
          std::filesystem::remove(layers[at].path);
    }
    REQUIRE(now.size() == layers.size() - fewer);
    REQUIRE(bytes >= least);
    REQUIRE(bytes <= most);
    compactions += !runs.empty();
  }
  void reopen() {
    const auto layers = specs(*chain);
    const LogId committed = chain->committed();
    // A commit that was broken off has changed the parent, unseen.
    const auto identity = committing != 0 ? std::nullopt : std::optional(chain->parentIdentity());
    views.clear();
    chain.reset();
    const Chain::Access now = layers.empty() ? access : Chain::Access::redo;
    {
      auto reader = Chain::open(parent, identity, layers, Chain::Access::readonly, committed);
      REQUIRE(all(*reader) == bytes);
    }
    chain = Chain::open(parent, identity, layers, now, committed);
  }
  /** A second disk goes on from the last checkpoint, and the first does not see it. */
  void clone() {
    if (views.empty()) return;
    chain->sealFrozen();
    const auto& [view, then] = views.back();
    auto other = Chain::open(view->parentPath(), view->parentIdentity(), specs(*view),
                             Chain::Access::redo, view->committed());
    other->push(other->prepare(scratch.path("clone" + std::to_string(next++))));
    Bytes theirs = then;
    const Bytes data = randomBytes(random, 512 + random() % 20 * 512);
    if (data.size() > theirs.size()) return;
    other->write(0, data);
    std::copy(data.begin(), data.end(), theirs.begin());
    REQUIRE(all(*other) == theirs);
  }
  void check() {
    REQUIRE(all(*chain) == bytes);
    for (auto& [view, then] : views) REQUIRE(all(*view) == then);
  }

  Scratch scratch{Scratch::memory()};
  Random random;
  Chain::Access access;
  Bytes bytes;
  std::string parent;
  std::unique_ptr<Chain> chain;
  std::vector<std::pair<std::unique_ptr<Chain>, Bytes>> views;
  size_t committing = 0;  // logs of a commit that was broken off
  uint64_t commits = 0, compactions = 0;
  int next = 0;
};

}  // namespace ckptfs
