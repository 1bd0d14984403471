#include "devices/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "devices/state_fields.h"

namespace ckptfs {
namespace {

/** Fills what the kernel gives; it never fails once the host's pool is initialized. */
size_t fillRandom(std::span<std::byte> into) noexcept {
  size_t done = 0;
  while (done < into.size()) {
    const ssize_t got = getrandom(into.data() + done, into.size() - done, 0);
    if (got < 0 && errno != EINTR) break;
    if (got > 0) done += size_t(got);
  }
  return done;
}

}  // namespace

VirtioRng::VirtioRng(const GuestRam& ram, InterruptLine line)
    : VirtioMmio({.deviceId = kDeviceId}, ram, std::move(line)) {}

bool VirtioRng::serve(const DescriptorChain& chain) noexcept {
  std::array<std::byte, kRequestLimitBytes> random;
  const size_t wanted = std::min<uint64_t>(chain.writableBytes, random.size());
  const auto bytes = std::span(random).first(fillRandom(std::span(random).first(wanted)));
  return scatter(ram_, chain.writable, 0, bytes) && push(0, chain.head, uint32_t(bytes.size()));
}

void VirtioRng::process(unsigned) noexcept {
  DescriptorChain chain;
  for (unsigned served = 0; served < kQueueSizeMax; ++served) {
    switch (peek(0, chain)) {
      case VirtQueue::Peek::empty:
      case VirtQueue::Peek::unavailable:
        return;
      case VirtQueue::Peek::broken:
        return needReset();
      case VirtQueue::Peek::chain:
        break;
    }
    if (!chain.readable.empty()) return needReset();  // its buffers are for writing only (5.4.6.1)
    if (!serve(chain)) return;                        // stays in the queue until retry()
    queue(0).take();
  }
}

std::unique_ptr<Frozen> VirtioRng::freeze() const {
  const Lock lock(mutex_);
  return std::make_unique<FrozenState<State>>(State{stillState()});
}

void VirtioRng::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  const Lock lock(mutex_);
  adopt(std::move(loaded.virtio));
}

void to_json(Json& json, const VirtioRng::State& state) {
  json = Json{{"virtio", state.virtio}};
}

void from_json(const Json& json, VirtioRng::State& state) {
  from_json(field::at(json, "virtio"), state.virtio);
}

}  // namespace ckptfs
