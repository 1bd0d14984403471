#include "checkpoint/image/order_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "checkpoint/image/checkpoint_file.h"
#include "checkpoint/image/format.h"

namespace ckptfs {

using namespace format;

namespace {

constexpr char kMagic[8] = {'C', 'K', 'P', 'T', 'O', 'R', 'D', '\0'};
constexpr uint32_t kOrderVersion = 1;

struct OrderHeader {
  char magic[8];
  uint32_t version;
  uint32_t headerBytes;  // sizeof(OrderHeader)
  char id[32];           // of the checkpoint, filled up with zeros
  uint64_t blocks;       // u32 block ids that follow; then the checksum of all before it
};
static_assert(sizeof(OrderHeader) == 56);

uint64_t fileBytes(uint64_t blocks) {
  return sizeof(OrderHeader) + blocks * sizeof(uint32_t) + sizeof(uint64_t);
}

OrderHeader headerOf(const std::string& id, uint64_t blocks) {
  OrderHeader header = {};
  std::memcpy(header.magic, kMagic, sizeof header.magic);
  header.version = kOrderVersion;
  header.headerBytes = sizeof header;
  if (id.empty() || id.size() > sizeof header.id)
    throw Error(Code::usage, "a checkpoint id has 1 to 32 bytes, not " + std::to_string(id.size()));
  std::memcpy(header.id, id.data(), id.size());
  header.blocks = blocks;
  return header;
}

/** A file beside `path` that is removed unless it took its place. */
class Replacement {
 public:
  explicit Replacement(const std::string& path) : path_(path), temporary_(path + ".new-XXXXXX") {
    fd_ = mkostemp(temporary_.data(), O_CLOEXEC);
    if (fd_ < 0) throwErrno(errno, "cannot create a file beside " + path);
  }
  ~Replacement() {
    close(fd_);
    if (!placed_) unlink(temporary_.c_str());
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throwErrno(n < 0 ? errno : EIO, "cannot write " + temporary_);
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }
  void place() {
    if (fsync(fd_) != 0) throwErrno(errno, "cannot write " + temporary_ + " to its device");
    if (rename(temporary_.c_str(), path_.c_str()) != 0)
      throwErrno(errno, "cannot replace " + path_);
    placed_ = true;
  }

 private:
  const std::string path_;
  std::string temporary_;
  int fd_ = -1;
  bool placed_ = false;
};

}  // namespace

NeedOrder readOrderFile(const std::string& path, const std::string& id, uint64_t blocks) try {
  const CheckpointFile file = CheckpointFile::open(path);
  const uint64_t size = file.bytes();
  if (size < fileBytes(0) || size > fileBytes(blocks)) return {};
  std::vector<std::byte> bytes(size);
  file.read(0, bytes);
  const auto header = take<OrderHeader>(bytes);
  if (header.blocks > blocks || size != fileBytes(header.blocks)) return {};
  const OrderHeader expected = headerOf(id, header.blocks);
  if (std::memcmp(&header, &expected, sizeof header) != 0) return {};
  const std::span checked = std::span(bytes).first(size - sizeof(uint64_t));
  if (take<uint64_t>(bytes, checked.size()) != checksumOf(checked)) return {};
  NeedOrder order(header.blocks);
  if (!order.empty())
    std::memcpy(order.data(), bytes.data() + sizeof header, order.size() * sizeof(uint32_t));
  std::vector<bool> seen(blocks);
  for (const uint32_t block : order) {
    if (block >= blocks || seen[block]) return {};
    seen[block] = true;
  }
  return order;
} catch (const Error&) {
  return {};
}

void writeOrderFile(const std::string& path, const std::string& id,
                    std::span<const uint32_t> order) {
  std::vector<std::byte> bytes(fileBytes(order.size()));
  put(bytes, 0, headerOf(id, order.size()));
  if (!order.empty())
    std::memcpy(bytes.data() + sizeof(OrderHeader), order.data(), order.size_bytes());
  const std::span checked = std::span(bytes).first(bytes.size() - sizeof(uint64_t));
  put(bytes, checked.size(), checksumOf(checked));
  Replacement file(path);
  file.write(bytes);
  file.place();
}

}  // namespace ckptfs
