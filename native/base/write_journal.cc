#include "base/write_journal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"

namespace ckptfs {
namespace {

std::atomic<WriteJournal*> active{nullptr};

std::string parentOf(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

}  // namespace

/** One power cut: what of the entries before its moment is there afterwards. */
class WriteJournal::Cut {
 public:
  Cut(const WriteJournal& journal, size_t moment, uint64_t seed)
      : journal_(journal), moment_(moment), lossless_(seed == 0), random_(seed) {
    // Some cuts lose much, some little.
    share_ = std::array{0.0, 0.1, 0.5, 0.9, 1.0}[random_() % 5];
  }

  void writeTo(const std::string& into) {
    for (const auto& [path, file] : names()) {
      const Bytes bytes = contents(file);
      std::ofstream out(into + path.substr(journal_.directory_.size()), std::ios::binary);
      out.write(reinterpret_cast<const char*>(bytes.data()),
                static_cast<std::streamsize>(bytes.size()));
      if (!out.good()) throw Error(Code::io, "cannot write what a power cut leaves to " + into);
    }
  }

 private:
  /** A moment between the two, both included; the later one where nothing is lost. */
  size_t between(size_t earliest, size_t latest) {
    return lossless_ ? latest : earliest + random_() % (latest - earliest + 1);
  }
  bool survives() { return lossless_ || std::uniform_real_distribution<>(0, 1)(random_) < share_; }

  /** Names are those of one moment since each directory was made durable. */
  std::map<std::string, FileId> names() {
    std::map<std::string, size_t> durable;
    for (size_t i = 0; i < moment_; ++i)
      if (const Entry& e = journal_.entries_[i]; e.what == What::syncDirectory)
        durable[e.path] = std::max(durable[e.path], e.since);
    std::map<std::string, size_t> until;
    const auto untilOf = [&](const std::string& path) {
      const std::string directory = parentOf(path);
      const auto [at, added] = until.try_emplace(directory, 0);
      if (added) at->second = between(durable[directory], moment_);
      return at->second;
    };
    std::map<std::string, FileId> names = journal_.namesBefore_;
    for (size_t i = 0; i < moment_; ++i) {
      const Entry& e = journal_.entries_[i];
      const bool named = e.what == What::create || e.what == What::rename;
      if (!named || i >= untilOf(e.path)) continue;
      if (e.what == What::create) names[e.path] = e.file;
      if (e.what != What::rename) continue;
      if (const auto from = names.find(e.from); from != names.end()) {
        names[e.path] = from->second;
        names.erase(e.from);
      }
    }
    return names;
  }

  Bytes contents(const FileId& file) {
    const std::vector<Entry>& entries = journal_.entries_;
    size_t durable = 0;
    for (size_t i = 0; i < moment_; ++i)
      if (entries[i].what == What::sync && entries[i].file == file)
        durable = std::max(durable, entries[i].since);
    const size_t sizesUntil = between(durable, moment_);
    Bytes bytes;
    if (const auto before = journal_.before_.find(file); before != journal_.before_.end())
      bytes = before->second;
    uint64_t size = bytes.size();
    for (size_t i = 0; i < moment_; ++i) {
      const Entry& e = entries[i];
      if (e.file != file) continue;
      if (e.what == What::create) {  // a new file may have the number of one that is gone
        bytes.clear();
        size = 0;
      }
      if (e.what == What::truncate && i < sizesUntil) {
        bytes.resize(e.offset);
        size = e.offset;
      }
      if (e.what != What::write) continue;
      if (i < sizesUntil) size = std::max<uint64_t>(size, e.offset + e.bytes->size());
      for (uint64_t at = 0; at < e.bytes->size();) {
        const uint64_t offset = e.offset + at;
        const uint64_t piece = std::min(e.bytes->size() - at, kSectorBytes - offset % kSectorBytes);
        if (i < durable || survives()) {
          bytes.resize(std::max<uint64_t>(bytes.size(), offset + piece));
          std::copy_n(e.bytes->begin() + static_cast<ptrdiff_t>(at), piece,
                      bytes.begin() + static_cast<ptrdiff_t>(offset));
        }
        at += piece;
      }
    }
    // A file may be longer than what of it has got there, or end before it.
    bytes.resize(size);
    return bytes;
  }

  const WriteJournal& journal_;
  const size_t moment_;
  const bool lossless_;
  std::mt19937_64 random_;
  double share_ = 1;
};

WriteJournal::WriteJournal(std::string directory) : directory_(std::move(directory)) {
  WriteJournal* none = nullptr;
  if (!active.compare_exchange_strong(none, this))
    throw Error(Code::busy, "there is a journal of writes already");
  for (const auto& found : std::filesystem::recursive_directory_iterator(directory_)) {
    if (!found.is_regular_file()) continue;
    const std::string path = found.path().string();
    struct stat status;
    std::ifstream in(path, std::ios::binary);
    Bytes bytes(found.file_size());
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in.good() || stat(path.c_str(), &status) != 0)
      throw Error(Code::io, "cannot read " + path);
    namesBefore_[path] = {status.st_dev, status.st_ino};
    files_.insert(namesBefore_[path]);
    before_[namesBefore_[path]] = std::move(bytes);
  }
}

WriteJournal::~WriteJournal() {
  active = nullptr;
}

size_t WriteJournal::now() const {
  const std::lock_guard lock(lock_);
  return entries_.size();
}

void WriteJournal::cut(size_t moment, uint64_t seed, const std::string& into) const {
  const std::lock_guard lock(lock_);
  Cut(*this, moment, seed).writeTo(into);
}

WriteJournal::FileId WriteJournal::idOf(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) throwErrno(errno, "cannot tell a file from others");
  return {status.st_dev, status.st_ino};
}

bool WriteJournal::mine(const std::string& path) const {
  return path == directory_ || path.starts_with(directory_ + "/");
}

void WriteJournal::note(Entry entry) {
  WriteJournal* const journal = active;
  if (journal == nullptr) return;
  const std::lock_guard lock(journal->lock_);
  if (entry.what == What::create) journal->files_.insert(entry.file);
  const bool own =
      entry.path.empty() ? journal->files_.contains(entry.file) : journal->mine(entry.path);
  if (own) journal->entries_.push_back(std::move(entry));
}

void WriteJournal::created(int fd, const std::string& path) {
  const WriteJournal* const journal = active;
  if (journal != nullptr && journal->mine(path))
    note({.what = What::create, .file = idOf(fd), .path = path});
}

void WriteJournal::wrote(int fd, uint64_t offset, std::span<const std::byte> bytes) {
  if (active.load() == nullptr) return;
  note({.what = What::write,
        .file = idOf(fd),
        .offset = offset,
        .bytes = std::make_shared<const Bytes>(bytes.begin(), bytes.end())});
}

void WriteJournal::zeroed(int fd, uint64_t offset, uint64_t bytes) {
  if (active.load() != nullptr) wrote(fd, offset, Bytes(bytes));
}

void WriteJournal::truncated(int fd, uint64_t bytes) {
  if (active.load() != nullptr) note({.what = What::truncate, .file = idOf(fd), .offset = bytes});
}

void WriteJournal::renamed(const std::string& from, const std::string& to) {
  note({.what = What::rename, .path = to, .from = from});
}

size_t WriteJournal::syncing() noexcept {
  const WriteJournal* const journal = active;
  return journal != nullptr ? journal->now() : 0;
}

void WriteJournal::synced(int fd, size_t since) {
  if (active.load() != nullptr) note({.what = What::sync, .file = idOf(fd), .since = since});
}

void WriteJournal::syncedDirectory(const std::string& directory, size_t since) {
  note({.what = What::syncDirectory, .path = directory, .since = since});
}

}  // namespace ckptfs
