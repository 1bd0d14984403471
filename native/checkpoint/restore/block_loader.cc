#include "checkpoint/restore/block_loader.h"

#include <unistd.h>

#include <cerrno>

namespace ckptfs {

namespace {

// Threads that need compressed blocks at the same moment; a few more only wait for each other.
constexpr size_t kScratches = 4;

/** 0 or an errno. */
int writeAll(int fd, const std::byte* from, uint64_t bytes, uint64_t offset) noexcept {
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, from, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    from += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return 0;
}

}  // namespace

BlockLoader::BlockLoader(GuestMemory& memory, const MemoryImage& image, size_t buffers)
    : memory_(memory),
      image_(image),
      pool_(buffers, format::maxIoBlockBytes(image.map().geometry)),
      scratches_(kScratches) {
  for (Scratch& scratch : scratches_)
    scratch.bytes = std::make_unique_for_overwrite<std::byte[]>(memory.geometry().blockBytes());
}

BlockLoader::Buffer* BlockLoader::pin(uint32_t ioBlock, BlockId block) noexcept {
  bool mustLoad = false;
  Buffer& buffer = pool_.acquire(ioBlock, mustLoad);
  if (!mustLoad) return &buffer;
  BlockFault fault;
  const bool loaded = image_.loadIoBlock(ioBlock, block, buffer.bytes(), fault);
  pool_.loaded(buffer, loaded);
  if (loaded) return &buffer;
  record(fault);
  return nullptr;
}

bool BlockLoader::place(BlockId block, const Buffer& buffer, std::byte* scratch) noexcept {
  const Geometry& geometry = memory_.geometry();
  BlockFault fault;
  const std::byte* const raw =
      image_.contents(block, buffer.bytes(), {scratch, geometry.blockBytes()}, fault);
  if (raw != nullptr) {
    fault.err = writeAll(memory_.fd(), raw, geometry.blockBytes(), geometry.offsetOf(block));
    if (fault.err == 0) return true;
    fault.what = "guest memory cannot take it: the host has no memory left";
  }
  record(fault);
  return false;
}

bool BlockLoader::place(BlockId block) noexcept {
  Buffer* const buffer = pin(image_.map().blocks[block].ioBlock, block);
  if (buffer == nullptr) return false;
  bool placed = false;
  {
    Scratch& scratch = scratches_[GuestMemory::threadIndex() % kScratches];
    const std::lock_guard lock(scratch.lock);
    placed = place(block, *buffer, scratch.bytes.get());
  }
  pool_.release(*buffer, !placed);  // a damaged one is read again by a retry
  return placed;
}

void BlockLoader::record(const BlockFault& fault) noexcept {
  const std::lock_guard lock(lock_);
  if (!fault_) fault_ = fault;
}

std::optional<BlockFault> BlockLoader::fault() const noexcept {
  const std::lock_guard lock(lock_);
  return fault_;
}

void BlockLoader::forget() noexcept {
  const std::lock_guard lock(lock_);
  fault_.reset();
}

}  // namespace ckptfs
