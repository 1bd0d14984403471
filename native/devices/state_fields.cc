#include "devices/state_fields.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace ckptfs::field {
namespace {

[[noreturn]] void damaged(const char* key, const std::string& expected) {
  throw Error(Code::damaged, "device state: \"" + std::string(key) + "\" is not " + expected);
}

}  // namespace

const Json& at(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key))
    throw Error(Code::damaged, "device state: \"" + std::string(key) + "\" is missing");
  return object.at(key);
}

uint64_t number(const Json& object, const char* key, uint64_t max) {
  const Json& value = at(object, key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > max)
    damaged(key, "a number between 0 and " + std::to_string(max));
  return value.get<uint64_t>();
}

uint64_t hex(const Json& object, const char* key, uint64_t max) {
  const uint64_t value = fromHex(at(object, key));
  if (value > max) damaged(key, "within its range");
  return value;
}

bool flag(const Json& object, const char* key) {
  const Json& value = at(object, key);
  if (!value.is_boolean()) damaged(key, "true or false");
  return value.get<bool>();
}

std::string text(const Json& object, const char* key, size_t maxLength) {
  const Json& value = at(object, key);
  if (!value.is_string() || value.get_ref<const std::string&>().size() > maxLength)
    damaged(key, "a string of at most " + std::to_string(maxLength) + " bytes");
  return value.get<std::string>();
}

const Json& list(const Json& object, const char* key, size_t maxCount) {
  const Json& value = at(object, key);
  if (!value.is_array() || value.size() > maxCount)
    damaged(key, "a list of at most " + std::to_string(maxCount) + " elements");
  return value;
}

std::vector<uint64_t> numbers(const Json& object, const char* key, size_t maxCount, uint64_t max) {
  std::vector<uint64_t> result;
  for (const Json& value : list(object, key, maxCount)) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > max)
      damaged(key, "a list of numbers between 0 and " + std::to_string(max));
    result.push_back(value.get<uint64_t>());
  }
  return result;
}

Json fromBytes(std::span<const uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::vector<uint8_t> bytes(const Json& object, const char* key, size_t maxCount) {
  const std::string digits = text(object, key, maxCount * 2);
  if (digits.size() % 2 != 0) damaged(key, "a whole number of bytes");
  std::vector<uint8_t> result(digits.size() / 2);
  for (size_t i = 0; i < result.size(); ++i) {
    const char* first = digits.data() + 2 * i;
    const auto parsed = std::from_chars(first, first + 2, result[i], 16);
    if (parsed.ec != std::errc() || parsed.ptr != first + 2) damaged(key, "hexadecimal digits");
  }
  return result;
}

}  // namespace ckptfs::field
