// Device states of any text: an accepted one is what the devices then have, and they go on from it
// without harm.
//
// Input: JSON text. Besides the usual mutations of text, single values of it are replaced, so that
// most inputs stay JSON of the right shape.
#include <random>

#include "base/error.h"
#include "fuzz/device_fixture.h"

using namespace ckptfs;
using namespace ckptfs::fuzz;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t maxSize);

namespace {

void collect(Json& value, std::vector<Json*>& leaves) {
  if (value.is_structured() && !value.empty())
    for (Json& inner : value) collect(inner, leaves);
  leaves.push_back(&value);
}

Json mutated(const Json& value, std::mt19937_64& random) {
  const auto bits = [&] { return random() >> random() % 64; };
  switch (random() % 8) {
    case 0:
      return bits();
    case 1:
      return toHex(bits());
    case 2:
      return value.is_string() ? Json(toHex(uint64_t{1} << random() % 64))
                               : Json(random() % 2 == 0);
    case 3:
      return Json::array();
    case 4:
      return -static_cast<int64_t>(bits() >> 1);
    case 5: {
      if (!value.is_array() || value.empty()) return value.is_number() ? Json(random() % 5) : value;
      Json more = value;
      more.push_back(value.back());
      return more;
    }
    case 6: {
      if (!value.is_array() || value.empty()) return nullptr;
      Json less = value;
      less.erase(less.size() - 1);
      return less;
    }
    default:
      if (value.is_boolean()) return !value.get<bool>();
      if (value.is_number_integer())
        return value.get<int64_t>() ^ int64_t(uint64_t{1} << random() % 20);
      return toHex(memory_map::kRamBase + random() % (DeviceFixture::kRamBytes + 64));
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t maxSize,
                                          unsigned int seed) {
  std::mt19937_64 random(seed);
  if (random() % 8 == 0) return LLVMFuzzerMutate(data, size, maxSize);
  Json state = Json::parse(data, data + size, nullptr, false);
  if (state.is_discarded()) return LLVMFuzzerMutate(data, size, maxSize);
  std::vector<Json*> leaves;
  collect(state, leaves);
  Json& chosen = *leaves[random() % leaves.size()];
  chosen = mutated(chosen, random);
  const std::string text = state.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > maxSize) return LLVMFuzzerMutate(data, size, maxSize);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static DeviceFixture fixture;
  const Json input = Json::parse(data, data + size, nullptr, false);
  if (input.is_discarded()) return 0;
  try {
    fixture.thaw(input);
  } catch (const Error& error) {
    FUZZ_CHECK(error.code() == Code::damaged || error.code() == Code::unsupported);
    return 0;
  }
  const Json state = fixture.state();
  fixture.thaw(state);
  FUZZ_CHECK(fixture.state() == state);
  fixture.use({data, size});
  return 0;
}
