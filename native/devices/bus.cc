#include "devices/bus.h"

#include <algorithm>
#include <sstream>

#include "base/error.h"

namespace ckptfs {

void Bus::attach(uint64_t base, uint64_t length, MmioDevice* device) {
  std::ostringstream name;
  name << "device window 0x" << std::hex << base << " of 0x" << length << " bytes ";
  if (length == 0 || length - 1 > UINT64_MAX - base)
    throw Error(Code::usage, name.str() + "is empty or wraps around the address space");
  // Differences of bases, never sums, so that a window may end at the top of the address space.
  const auto after = std::find_if(windows_.begin(), windows_.end(),
                                  [&](const Window& w) { return w.base > base; });
  const bool hitsNext = after != windows_.end() && after->base - base < length;
  const bool hitsPrevious =
      after != windows_.begin() && base - std::prev(after)->base < std::prev(after)->length;
  if (hitsNext || hitsPrevious)
    throw Error(Code::usage, name.str() + "overlaps another device; choose a free window");
  windows_.insert(after, Window{base, length, device});
}

const Bus::Window* Bus::find(uint64_t address, unsigned size) const noexcept {
  const auto after =
      std::upper_bound(windows_.begin(), windows_.end(), address,
                       [](uint64_t wanted, const Window& w) { return wanted < w.base; });
  if (after == windows_.begin()) return nullptr;
  const Window& window = *std::prev(after);
  const uint64_t offset = address - window.base;
  return offset < window.length && size <= window.length - offset ? &window : nullptr;
}

bool Bus::read(uint64_t address, unsigned size, uint64_t& value) const noexcept {
  const Window* window = find(address, size);
  if (!window) return false;
  value = window->device->read(address - window->base, size);
  return true;
}

bool Bus::write(uint64_t address, unsigned size, uint64_t value) const noexcept {
  const Window* window = find(address, size);
  if (!window) return false;
  window->device->write(address - window->base, size, value);
  return true;
}

}  // namespace ckptfs
