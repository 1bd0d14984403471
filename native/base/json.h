// JSON values of device state, and the exact spelling of 64-bit numbers in them.
//
// JavaScript reads a JSON number as a double, so registers and addresses are hexadecimal strings.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

namespace ckptfs {

using Json = nlohmann::ordered_json;

/** "0x..." without leading zeros. */
Json toHex(uint64_t value);
/** Inverse of toHex; throws Error(damaged) on anything else. */
uint64_t fromHex(const Json& value);

}  // namespace ckptfs
