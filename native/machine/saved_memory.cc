#include "machine/saved_memory.h"

namespace ckptfs {

SavedMemory::SavedMemory(std::shared_ptr<Saver> saver, uint64_t bytes)
    : bytes_(bytes), saver_(std::move(saver)) {}

void SavedMemory::read(uint64_t offset, std::span<std::byte> into) const {
  std::shared_ptr<Saver> saver;
  std::shared_ptr<const MemoryImage> image;
  {
    const std::lock_guard lock(mutex_);
    if (error_) throw Error(*error_);
    saver = saver_;
    image = image_;
  }
  if (image)
    image->read(offset, into);
  else
    saver->read(offset, into);
}

void SavedMemory::complete(const std::string& directory) {
  auto image = std::make_shared<const MemoryImage>(directory);
  const std::lock_guard lock(mutex_);
  image_ = std::move(image);
  saver_.reset();
}

void SavedMemory::fail(const Error& error) noexcept {
  const std::lock_guard lock(mutex_);
  error_ = error;
  saver_.reset();
}

}  // namespace ckptfs
