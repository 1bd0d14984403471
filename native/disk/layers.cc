#include "disk/layers.h"

#include <algorithm>
#include <string>

#include "disk/disk.h"

namespace ckptfs {

Layers::Layers(std::shared_ptr<Parent> parent, const LogId& committed)
    : parent_(std::move(parent)), committed_(committed) {}

std::vector<std::shared_ptr<RedoLog>> Layers::oldestFirst() const {
  std::vector<std::shared_ptr<RedoLog>> logs;
  for (const Layer* layer : nodes()) logs.push_back(layer->log);
  return logs;
}

void Layers::requireFollows(const RedoLog& log, Code code) const {
  std::string fault;
  if (log.header().diskBytes != bytes())
    fault = "is for a disk of " + std::to_string(log.header().diskBytes) + " bytes, and " +
            parent_->path() + " has " + std::to_string(bytes());
  else if (log.header().parentId != topId())
    fault =
        "does not follow " + (top_ ? "redo log " + top_->log->path() : "disk " + parent_->path());
  else if (top_ && log.blockBytes() != top_->log->blockBytes())
    fault = "has another block size than " + top_->log->path();
  if (!fault.empty())
    throw Error(code, "redo log " + log.path() + " " + fault +
                          "; open the files of one checkpoint, in order");
}

Layers Layers::with(std::shared_ptr<RedoLog> log) const {
  Layers layers = *this;
  layers.add(std::move(log), number() + 1);
  return layers;
}

Layers Layers::below() const {
  Layers layers = *this;
  layers.top_ = top_->below;
  return layers;
}

Layers Layers::merged() const {
  std::vector<Top> tops;  // oldest first
  for (Top top = top_; top; top = top->below) tops.push_back(top);
  std::reverse(tops.begin(), tops.end());
  const auto known = merged_ ? std::find(tops.begin(), tops.end(), merged_->top) : tops.end();
  Merged merged;
  auto next = tops.begin();
  if (known != tops.end()) {
    merged = *merged_;
    next = std::next(known);
  }
  std::vector<SealedIndex> fresh;
  for (; next != tops.end() && merged.logs.size() < SealedIndex::kMaxLogs; ++next) {
    const auto index = (*next)->log->sealedIndex();
    if (!index) break;
    fresh.push_back(*index);
    merged.logs.push_back((*next)->log);
    merged.top = *next;
  }
  const size_t before = merged.logs.size() - fresh.size();
  if (before == 0)
    merged.index = SealedIndex::merge(fresh);
  else if (!fresh.empty())
    merged.index = SealedIndex::merge(merged.index, SealedIndex::merge(fresh), before);
  Layers layers = *this;
  layers.merged_ = merged.top ? std::make_shared<const Merged>(std::move(merged)) : nullptr;
  return layers;
}

Layers Layers::withIndexOf(const Layers& other) const {
  Layers layers = *this;
  layers.merged_ = other.merged_;
  return layers;
}

// Numbers go on: writes in flight belong to layers by their number.
void Layers::add(std::shared_ptr<RedoLog> log, uint64_t number) {
  top_ = std::make_shared<const Layer>(Layer{std::move(log), top_, number});
}

std::vector<const Layers::Layer*> Layers::nodes() const {
  std::vector<const Layer*> nodes;
  for (const Layer* layer = top_.get(); layer != nullptr; layer = layer->below.get())
    nodes.push_back(layer);
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

Layers Layers::part(size_t first, size_t count) const {
  const auto all = nodes();
  if (count == 0 || first >= all.size() || count > all.size() - first ||
      count > SealedIndex::kMaxLogs)
    throw Error(Code::usage, "disk " + parent_->path() + " has no such run of redo logs");
  Layers layers(parent_, all[first]->log->header().parentId);
  for (size_t i = first; i < first + count; ++i) {
    if (!all[i]->log->sealed())
      throw Error(Code::usage, "redo log " + all[i]->log->path() + " is still written");
    layers.add(all[i]->log, all[i]->number);
  }
  return layers;
}

Layers Layers::committed(size_t count, std::shared_ptr<Parent> parent) const {
  const auto all = nodes();
  Layers layers(std::move(parent), count > 0 ? all[count - 1]->log->header().id : committed_);
  for (size_t i = count; i < all.size(); ++i) layers.add(all[i]->log, all[i]->number);
  return layers;
}

Layers Layers::compacted(size_t first, size_t count, std::shared_ptr<RedoLog> log) const {
  const auto all = nodes();
  Layers layers(parent_, committed_);
  for (size_t i = 0; i < all.size(); ++i) {
    if (i < first || i >= first + count)
      layers.add(all[i]->log, all[i]->number);
    else if (i + 1 == first + count)
      layers.add(std::move(log), all[i]->number);
  }
  return layers;
}

// The last block may reach beyond the end of the disk; there it is zeros.
void Layers::readParent(uint64_t first, std::span<std::byte> into) const {
  const uint64_t offset = first * newest()->blockBytes();
  const uint64_t length = std::min<uint64_t>(into.size(), bytes() - offset);
  parent_->read(offset, into.first(length));
  std::fill(into.begin() + ptrdiff_t(length), into.end(), std::byte{0});
}

void Layers::readBlocks(uint64_t first, std::span<std::byte> into) const {
  readBlocks(top_.get(), first, into);
}

// Whole blocks from `layer` (null: the parent) down. Recursion goes as deep as there are layers
// above the merged ones.
void Layers::readBlocks(const Layer* layer, uint64_t first, std::span<std::byte> into) const {
  const uint64_t blockBytes = newest()->blockBytes();
  if (layer == nullptr) return readParent(first, into);
  const Merged* const merged = merged_ && merged_->top.get() == layer ? merged_.get() : nullptr;
  RedoIndex::Locations at;
  while (!into.empty()) {
    const uint64_t wanted = into.size() / blockBytes;
    const auto [kind, count] =
        merged ? merged->index.find(first, wanted, at) : layer->log->find(first, wanted, at);
    const auto part = into.first(count * blockBytes);
    if (kind == RedoIndex::Kind::absent)
      readBlocks(merged ? nullptr : layer->below.get(), first, part);
    else if (kind == RedoIndex::Kind::zeroes)
      std::fill(part.begin(), part.end(), std::byte{0});
    for (uint64_t done = 0; kind == RedoIndex::Kind::data && done < count;) {
      uint64_t together = 1;  // of one log
      while (done + together < count && at[done + together].log == at[done].log) ++together;
      const RedoLog& log = merged ? *merged->logs[at[done].log] : *layer->log;
      log.readAt(first + done, std::span(at).subspan(done, together),
                 part.subspan(done * blockBytes, together * blockBytes));
      done += together;
    }
    first += count;
    into = into.subspan(part.size());
  }
}

void Layers::read(uint64_t offset, std::span<std::byte> into) const {
  if (empty()) return parent_->read(offset, into);
  const uint32_t blockBytes = newest()->blockBytes();
  std::vector<std::byte> edge;
  while (!into.empty()) {
    const uint64_t first = offset / blockBytes, skip = offset % blockBytes;
    uint64_t length = into.size() / blockBytes * blockBytes;
    if (skip != 0 || length == 0) {
      // A checksum covers a whole block, so a part of one is cut from the whole.
      edge.resize(blockBytes);
      readBlocks(first, edge);
      length = std::min<uint64_t>(into.size(), blockBytes - skip);
      std::copy_n(edge.begin() + ptrdiff_t(skip), length, into.begin());
    } else {
      readBlocks(first, into.first(length));
    }
    offset += length;
    into = into.subspan(length);
  }
}

// `number` is that of `layer` among the logs that there are.
void Layers::mapBlocks(const Layer* layer, uint64_t number, uint64_t first, uint64_t count,
                       std::vector<LayerRun>& runs) const {
  const uint64_t blockBytes = empty() ? Disk::kSectorBytes : newest()->blockBytes();
  const auto add = [&](uint64_t offset, uint64_t length, bool zeroes) {
    LayerRun* const last = runs.empty() ? nullptr : &runs.back();
    if (last != nullptr && last->layer == number && last->zeroes == zeroes)
      last->bytes += length;
    else
      runs.push_back({offset, length, number, zeroes});
  };
  if (layer == nullptr) {
    const uint64_t end = std::min((first + count) * blockBytes, bytes());
    for (uint64_t offset = first * blockBytes; offset < end;) {
      const auto [length, hole] = parent_->run(offset, end - offset);
      add(offset, length, hole);
      offset += length;
    }
    return;
  }
  RedoIndex::Locations at;
  while (count > 0) {
    const RedoIndex::Run run = layer->log->find(first, count, at);
    const uint64_t offset = first * blockBytes;
    if (run.kind == RedoIndex::Kind::absent)
      mapBlocks(layer->below.get(), number - 1, first, run.count, runs);
    else
      add(offset, std::min(run.count * blockBytes, bytes() - offset),
          run.kind == RedoIndex::Kind::zeroes);
    first += run.count;
    count -= run.count;
  }
}

std::vector<LayerRun> Layers::map() const {
  const uint64_t blockBytes = empty() ? Disk::kSectorBytes : newest()->blockBytes();
  uint64_t logs = 0;
  for (const Layer* layer = top_.get(); layer != nullptr; layer = layer->below.get()) ++logs;
  std::vector<LayerRun> runs;
  mapBlocks(top_.get(), logs, 0, (bytes() + blockBytes - 1) / blockBytes, runs);
  return runs;
}

}  // namespace ckptfs
