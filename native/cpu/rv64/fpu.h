// IEEE 754 arithmetic as RISC-V's F and D want it, on the host's SSE unit. Pure functions.
//
// `T` is float or double. Every function ORs the exceptions it raises into `flags`, and returns the
// canonical NaN for any NaN. Rounding modes are RISC-V's numbers 0..4. x86 agrees with RISC-V in
// detecting tininess after rounding; what it lacks is RMM, done in a wider format.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace ckptfs::rv64::fpu {

constexpr unsigned kNearestEven = 0, kTowardsZero = 1, kDown = 2, kUp = 3, kNearestMax = 4,
                   kDynamic = 7;
constexpr uint32_t kInexact = 1, kUnderflow = 2, kOverflow = 4, kDivideByZero = 8, kInvalid = 16;

constexpr uint32_t kNanS = 0x7fc00000;
constexpr uint64_t kNanD = 0x7ff8000000000000;
constexpr uint64_t kBox = 0xffffffff00000000;

/** A register's value as T: a float that is not boxed in ones is NaN. */
template <class T>
T unbox(uint64_t bits) noexcept;
template <>
inline float unbox<float>(uint64_t bits) noexcept {
  return std::bit_cast<float>((bits & kBox) == kBox ? uint32_t(bits) : kNanS);
}
template <>
inline double unbox<double>(uint64_t bits) noexcept {
  return std::bit_cast<double>(bits);
}
inline uint64_t box(float value) noexcept {
  return kBox | std::bit_cast<uint32_t>(value);
}
inline uint64_t box(double value) noexcept {
  return std::bit_cast<uint64_t>(value);
}

template <class T>
T add(T a, T b, unsigned mode, uint32_t& flags) noexcept;
template <class T>
T multiply(T a, T b, unsigned mode, uint32_t& flags) noexcept;
template <class T>
T divide(T a, T b, unsigned mode, uint32_t& flags) noexcept;
template <class T>
T squareRoot(T a, unsigned mode, uint32_t& flags) noexcept;
/** a × b + c with one rounding. */
template <class T>
T multiplyAdd(T a, T b, T c, unsigned mode, uint32_t& flags) noexcept;

template <class T>
T minimum(T a, T b, uint32_t& flags) noexcept;
template <class T>
T maximum(T a, T b, uint32_t& flags) noexcept;
template <class T>
bool equal(T a, T b, uint32_t& flags) noexcept;
template <class T>
bool less(T a, T b, uint32_t& flags) noexcept;
template <class T>
bool lessOrEqual(T a, T b, uint32_t& flags) noexcept;
/** The mask of fclass. */
template <class T>
uint64_t classify(T a) noexcept;

/** Out of range saturates and is invalid; NaN gives the largest. I: int32_t, uint32_t, int64_t,
 * uint64_t. */
template <class I, class T>
I toInteger(T a, unsigned mode, uint32_t& flags) noexcept;
template <class T, class I>
T fromInteger(I a, unsigned mode, uint32_t& flags) noexcept;
float narrow(double a, unsigned mode, uint32_t& flags) noexcept;
double widen(float a, uint32_t& flags) noexcept;

}  // namespace ckptfs::rv64::fpu
