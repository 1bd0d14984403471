#include "base/arrival.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "base/error.h"

namespace ckptfs {
namespace {

using FileId = std::pair<uint64_t, uint64_t>;

constexpr uint64_t kWordBits = 64;

uint64_t wordsFor(uint64_t pieces) {
  return (pieces + kWordBits - 1) / kWordBits;
}

uint64_t maskOf(uint64_t piece) {
  return uint64_t{1} << (piece % kWordBits);
}

/** The arrivals that there are. */
struct Registry {
  struct Entry {
    const Arrival* self;
    std::weak_ptr<Arrival> arrival;
  };
  std::mutex mutex;
  std::map<FileId, Entry> byFile;
  std::atomic<size_t> count{0};  // of byFile: nearly always none, and then nobody locks

  static Registry& instance() {
    static Registry* const registry = new Registry;  // used until the last thread has ended
    return *registry;
  }
};

}  // namespace

thread_local unsigned Arrival::Patience::depth_ = 0;

Arrival::Arrival(const FileId& id, uint64_t bytes, uint64_t modifiedNs, std::function<void()> bell)
    : id_(id),
      bytes_(bytes),
      pieces_((bytes + kPieceBytes - 1) / kPieceBytes),
      modifiedNs_(modifiedNs),
      server_(std::this_thread::get_id()),
      here_(wordsFor(pieces_)),
      missing_(pieces_),
      bell_(std::move(bell)),
      noted_(wordsFor(pieces_)),
      notedUrgent_(wordsFor(pieces_)) {}

Arrival::~Arrival() {
  end();
}

std::shared_ptr<Arrival> Arrival::begin(int fd, uint64_t modifiedNs, std::function<void()> bell) {
  struct stat info;
  if (fstat(fd, &info) != 0) throwErrno(errno, "cannot examine a file that is to arrive");
  const FileId id{info.st_dev, info.st_ino};
  const std::shared_ptr<Arrival> arrival(
      new Arrival(id, uint64_t(info.st_size), modifiedNs, std::move(bell)));
  Registry& registry = Registry::instance();
  const std::lock_guard lock(registry.mutex);
  if (!registry.byFile.emplace(id, Registry::Entry{arrival.get(), arrival}).second)
    throw Error(Code::exists, "the file is arriving already");
  registry.count = registry.byFile.size();
  return arrival;
}

std::shared_ptr<Arrival> Arrival::of(int fd) {
  Registry& registry = Registry::instance();
  if (registry.count == 0) return nullptr;
  struct stat info;
  if (fstat(fd, &info) != 0) return nullptr;
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.byFile.find({info.st_dev, info.st_ino});
  return found == registry.byFile.end() ? nullptr : found->second.arrival.lock();
}

void Arrival::failAll() {
  std::vector<std::shared_ptr<Arrival>> all;  // let go of without the lock, which an end takes
  {
    Registry& registry = Registry::instance();
    const std::lock_guard lock(registry.mutex);
    for (const auto& [id, entry] : registry.byFile) all.push_back(entry.arrival.lock());
  }
  for (const auto& arrival : all)
    if (arrival != nullptr) arrival->fail();
}

bool Arrival::allHere(uint64_t first, uint64_t end) const noexcept {
  for (uint64_t piece = first; piece < end; ++piece)
    if (!(here_[piece / kWordBits].load(std::memory_order_acquire) & maskOf(piece))) return false;
  return true;
}

bool Arrival::note(uint64_t first, uint64_t end, bool urgent) noexcept {
  std::vector<uint64_t>& noted = urgent ? notedUrgent_ : noted_;
  bool any = false;
  for (uint64_t piece = first; piece < end; ++piece) {
    if (allHere(piece, piece + 1) || (noted[piece / kWordBits] & maskOf(piece))) continue;
    Run* const last = any ? &runs_[runCount_ - 1] : nullptr;
    if (last != nullptr && last->first + last->count == piece)
      ++last->count;
    else if (runCount_ < runs_.size())
      runs_[runCount_++] = {piece, 1, urgent};
    else
      return any;
    noted[piece / kWordBits] |= maskOf(piece);
    any = true;
  }
  return any;
}

int Arrival::await(uint64_t offset, uint64_t bytes) noexcept {
  if (complete() || bytes == 0 || offset >= bytes_) return 0;
  const uint64_t first = offset / kPieceBytes;
  const uint64_t end = (offset + std::min(bytes, bytes_ - offset) - 1) / kPieceBytes + 1;
  if (allHere(first, end)) return 0;
  if (std::this_thread::get_id() == server_) return EDEADLK;
  std::unique_lock lock(mutex_);
  for (;;) {
    if (allHere(first, end)) return 0;
    if (failed_) return ECANCELED;
    if (note(first, end, !Patience::here()) && bell_) bell_();
    changed_.wait(lock);
  }
}

void Arrival::arrived(uint64_t offset, uint64_t bytes) {
  const uint64_t until = offset + std::min(bytes, bytes_ - std::min(offset, bytes_));
  if (offset % kPieceBytes != 0 || (until % kPieceBytes != 0 && until != bytes_))
    throw Error(Code::usage, "what has arrived is not in whole pieces");
  const std::lock_guard lock(mutex_);
  uint64_t fresh = 0;
  for (uint64_t piece = offset / kPieceBytes; piece * kPieceBytes < until; ++piece) {
    const uint64_t mask = maskOf(piece);
    if (!(here_[piece / kWordBits].fetch_or(mask, std::memory_order_release) & mask)) ++fresh;
  }
  missing_.fetch_sub(fresh, std::memory_order_release);
  changed_.notify_all();
}

std::vector<Arrival::Wanted> Arrival::takeWanted() {
  const std::lock_guard lock(mutex_);
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < runCount_; ++i) {
    const auto& [first, count, urgent] = runs_[i];
    const uint64_t offset = first * kPieceBytes;
    wanted.push_back({offset, std::min(count * kPieceBytes, bytes_ - offset), urgent});
  }
  if (runCount_ == runs_.size()) changed_.notify_all();
  runCount_ = 0;
  return wanted;
}

void Arrival::fail() noexcept {
  const std::lock_guard lock(mutex_);
  failed_ = true;
  changed_.notify_all();
}

void Arrival::end() noexcept {
  {
    Registry& registry = Registry::instance();
    const std::lock_guard lock(registry.mutex);
    const auto found = registry.byFile.find(id_);
    // After an earlier end() another one may have come.
    if (found != registry.byFile.end() && found->second.self == this) registry.byFile.erase(found);
    registry.count = registry.byFile.size();
  }
  const std::lock_guard lock(mutex_);
  bell_ = nullptr;
  failed_ = true;
  changed_.notify_all();
}

}  // namespace ckptfs
