#include "base/json.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace ckptfs {

Json toHex(uint64_t value) {
  char digits[16];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, 16).ptr;
  return "0x" + std::string(digits, end);
}

uint64_t fromHex(const Json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    uint64_t result = 0;
    const char* end = text.data() + text.size();
    if (text.size() > 2 && text.starts_with("0x")) {
      const auto parsed = std::from_chars(text.data() + 2, end, result, 16);
      if (parsed.ec == std::errc() && parsed.ptr == end) return result;
    }
  }
  throw Error(Code::damaged, "device state: expected a hexadecimal string, found " + value.dump());
}

}  // namespace ckptfs
