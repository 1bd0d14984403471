// Checked reading of the fields of a device's saved State.
//
// A State comes from a file, so nothing about it is trusted: every function throws Error(damaged)
// when the key is missing, the type is wrong or the value is out of range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"

namespace ckptfs::field {

/** The member `key` of an object. */
const Json& at(const Json& object, const char* key);
/** A JSON number between 0 and `max`. */
uint64_t number(const Json& object, const char* key, uint64_t max);
/** A hexadecimal string (toHex) between 0 and `max`. */
uint64_t hex(const Json& object, const char* key, uint64_t max = UINT64_MAX);
bool flag(const Json& object, const char* key);
std::string text(const Json& object, const char* key, size_t maxLength);
/** An array of at most `maxCount` elements. */
const Json& list(const Json& object, const char* key, size_t maxCount);
/** An array of at most `maxCount` numbers between 0 and `max`. */
std::vector<uint64_t> numbers(const Json& object, const char* key, size_t maxCount, uint64_t max);

/** Bytes are saved as one string of two hexadecimal digits each. */
Json fromBytes(std::span<const uint8_t> bytes);
std::vector<uint8_t> bytes(const Json& object, const char* key, size_t maxCount);

}  // namespace ckptfs::field
