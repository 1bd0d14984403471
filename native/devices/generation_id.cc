#include "devices/generation_id.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "devices/state_fields.h"

namespace ckptfs {
namespace {

using Id = std::array<uint8_t, GenerationId::kBytes>;

Id randomId() {
  Id id;
  if (getrandom(id.data(), id.size(), 0) != ssize_t(id.size()))
    throwErrno(errno, "cannot make the id of a generation");
  return id;
}

}  // namespace

GenerationId::GenerationId(InterruptLine line) : state_{.id = randomId()}, line_(std::move(line)) {}

void GenerationId::renew() {
  const Id id = randomId();
  const std::lock_guard lock(mutex_);
  state_.id = id;
  state_.unread = state_.known;
  update();
}

void GenerationId::update() noexcept {
  line_(state_.unread);
}

uint64_t GenerationId::read(uint64_t offset, unsigned size) noexcept {
  const std::lock_guard lock(mutex_);
  if (offset >= kBytes) return 0;
  uint64_t value = 0;
  const unsigned count = unsigned(std::min<uint64_t>(size, kBytes - offset));
  for (unsigned i = 0; i < count; ++i) value |= uint64_t{state_.id[offset + i]} << 8 * i;
  state_.known = true;
  state_.unread = false;
  update();
  return value;
}

void GenerationId::write(uint64_t, unsigned, uint64_t) noexcept {}

std::unique_ptr<Frozen> GenerationId::freeze() const {
  const std::lock_guard lock(mutex_);
  return std::make_unique<FrozenState<State>>(state_);
}

void GenerationId::thaw(const Json& json) {
  State loaded;
  from_json(json, loaded);
  const std::lock_guard lock(mutex_);
  state_ = loaded;
  update();
}

void to_json(Json& json, const GenerationId::State& state) {
  json = Json{{"id", field::fromBytes(state.id)}, {"known", state.known}, {"unread", state.unread}};
}

void from_json(const Json& json, GenerationId::State& state) {
  const auto id = field::bytes(json, "id", GenerationId::kBytes);
  if (id.size() != state.id.size())
    throw Error(Code::damaged, "device state: \"id\" of the generation is not of 16 bytes");
  std::copy(id.begin(), id.end(), state.id.begin());
  state.known = field::flag(json, "known");
  state.unread = field::flag(json, "unread");
}

}  // namespace ckptfs
