#include "cpu/rv64/fpu.h"

#include <immintrin.h>

#include <cmath>
#include <concepts>

namespace ckptfs::rv64::fpu {
namespace {

using Quad = __float128;  // 113 bits: holds the product of two doubles exactly

constexpr unsigned kMasked = 0x1f80;  // MXCSR: no traps, no flags, denormals honoured
constexpr unsigned kHostMode[] = {0x0000, 0x6000, 0x2000, 0x4000};

uint32_t flagsOf(unsigned mxcsr) noexcept {
  uint32_t flags = 0;
  if (mxcsr & 0x01) flags |= kInvalid;
  if (mxcsr & 0x04) flags |= kDivideByZero;
  if (mxcsr & 0x08) flags |= kOverflow;
  if (mxcsr & 0x10) flags |= kUnderflow;
  if (mxcsr & 0x20) flags |= kInexact;
  return flags;
}

// An opaque use of a value that stays in order with other volatile operations, of which reading and
// writing MXCSR are two: so the compiler cannot move or fold arithmetic across them.
template <class V>
void pin(V& value) noexcept {
  if constexpr (std::integral<V>)
    asm volatile("" : "+r"(value));
  else
    asm volatile("" : "+x"(value));
}

/** compute(operands...) in a rounding mode of the host, with its exceptions. */
template <class Compute, class... Operands>
auto rounded(unsigned mode, uint32_t& flags, Compute compute, Operands... operands) noexcept {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(kMasked | kHostMode[mode]);
  (pin(operands), ...);
  auto result = compute(operands...);
  pin(result);
  flags |= flagsOf(_mm_getcsr());
  _mm_setcsr(saved);
  return result;
}

template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr Bits kNan = kNanS, kQuiet = 1u << 22, kSign = 1u << 31;
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr Bits kNan = kNanD, kQuiet = uint64_t{1} << 51, kSign = uint64_t{1} << 63;
};

template <class T>
auto bitsOf(T value) noexcept {
  return std::bit_cast<typename Format<T>::Bits>(value);
}
template <class T>
T fromBits(typename Format<T>::Bits bits) noexcept {
  return std::bit_cast<T>(bits);
}
template <class T>
bool isNan(T a) noexcept {
  return (bitsOf(a) & ~Format<T>::kSign) > bitsOf(std::numeric_limits<T>::infinity());
}
template <class T>
bool isSignaling(T a) noexcept {
  return isNan(a) && (bitsOf(a) & Format<T>::kQuiet) == 0;
}
template <class T>
T canonical(T a) noexcept {
  return isNan(a) ? fromBits<T>(Format<T>::kNan) : a;
}

/** Rounds to nearest, ties away from zero, a finite value whose exact result is not a T. `wide` is
 *  the exact result truncated to 113 bits: that decides as well as the exact one, because every
 *  bound it is compared with has fewer bits. */
template <class T>
T nearestMax(Quad wide, uint32_t& flags) noexcept {
  using Limits = std::numeric_limits<T>;
  uint32_t ignored = 0;
  const bool negative = wide < 0;
  const Quad magnitude = negative ? -wide : wide;
  const T low = rounded(
      kTowardsZero, ignored, [](Quad q) { return T(q); }, magnitude);
  const T high = fromBits<T>(bitsOf(low) + 1);  // infinity above the largest
  const Quad step = low == Limits::max() ? Quad(low) - Quad(fromBits<T>(bitsOf(low) - 1))
                                         : Quad(high) - Quad(low);
  const T result = magnitude >= Quad(low) + step / 2 ? high : low;
  flags |= kInexact;
  if (result == Limits::infinity()) flags |= kOverflow;
  // Tiny: below the smallest normal even when rounded with an exponent range without end.
  const Quad smallest = Limits::min();
  if (magnitude < smallest - smallest * Quad(Limits::epsilon()) / 4) flags |= kUnderflow;
  return negative ? -result : result;
}

/** compute in any of the five modes. `computeWide` is the same on Quads; if the host's result is
 *  exact or not finite for other reasons than overflow, it is right in every mode. */
template <class T, class Compute, class Wide, class... Operands>
T anyMode(unsigned mode, uint32_t& flags, Compute compute, Wide computeWide,
          Operands... operands) noexcept {
  if (mode != kNearestMax) return canonical<T>(rounded(mode, flags, compute, operands...));
  uint32_t raised = 0;
  const T even = canonical<T>(rounded(kNearestEven, raised, compute, operands...));
  if ((raised & kInexact) == 0) {
    flags |= raised;
    return even;
  }
  uint32_t ignored = 0;
  return nearestMax<T>(rounded(kTowardsZero, ignored, computeWide, Quad(operands)...), flags);
}

template <class T>
bool orderedBefore(T a, T b) noexcept {  // numbers only; -0 before +0
  return a < b || (a == b && std::signbit(a) && !std::signbit(b));
}

template <class T>
T pick(T a, T b, bool first, uint32_t& flags) noexcept {
  if (isSignaling(a) || isSignaling(b)) flags |= kInvalid;
  if (isNan(a)) return canonical(b);
  if (isNan(b)) return a;
  return first ? a : b;
}

}  // namespace

template <class T>
T add(T a, T b, unsigned mode, uint32_t& flags) noexcept {
  const auto sum = [](auto x, auto y) { return x + y; };
  return anyMode<T>(mode, flags, sum, sum, a, b);
}

template <class T>
T multiply(T a, T b, unsigned mode, uint32_t& flags) noexcept {
  const auto product = [](auto x, auto y) { return x * y; };
  return anyMode<T>(mode, flags, product, product, a, b);
}

template <class T>
T divide(T a, T b, unsigned mode, uint32_t& flags) noexcept {
  const auto quotient = [](auto x, auto y) { return x / y; };
  return anyMode<T>(mode, flags, quotient, quotient, a, b);
}

template <class T>
T squareRoot(T a, unsigned mode, uint32_t& flags) noexcept {
  // No square root is a tie (its square would need more bits than T has): RMM is RNE.
  if (mode == kNearestMax) mode = kNearestEven;
  const auto root = [](T x) {
    if constexpr (std::same_as<T, float>)
      return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
    else
      return _mm_cvtsd_f64(_mm_sqrt_pd(_mm_set1_pd(x)));
  };
  return canonical<T>(rounded(mode, flags, root, a));
}

template <class T>
T multiplyAdd(T a, T b, T c, unsigned mode, uint32_t& flags) noexcept {
  // RISC-V: infinity times zero is invalid even when a quiet NaN is added.
  if ((std::isinf(a) && b == 0) || (a == 0 && std::isinf(b))) flags |= kInvalid;
  const auto fused = [](T x, T y, T z) { return std::fma(x, y, z); };
  const auto wide = [](Quad x, Quad y, Quad z) { return x * y + z; };  // the product is exact
  return anyMode<T>(mode, flags, fused, wide, a, b, c);
}

template <class T>
T minimum(T a, T b, uint32_t& flags) noexcept {
  return pick(a, b, orderedBefore(a, b), flags);
}

template <class T>
T maximum(T a, T b, uint32_t& flags) noexcept {
  return pick(a, b, orderedBefore(b, a), flags);
}

template <class T>
bool equal(T a, T b, uint32_t& flags) noexcept {
  if (isSignaling(a) || isSignaling(b)) flags |= kInvalid;
  return a == b;
}

template <class T>
bool less(T a, T b, uint32_t& flags) noexcept {
  if (isNan(a) || isNan(b)) {
    flags |= kInvalid;
    return false;
  }
  return a < b;
}

template <class T>
bool lessOrEqual(T a, T b, uint32_t& flags) noexcept {
  if (isNan(a) || isNan(b)) {
    flags |= kInvalid;
    return false;
  }
  return a <= b;
}

template <class T>
uint64_t classify(T a) noexcept {
  if (isNan(a)) return isSignaling(a) ? 1 << 8 : 1 << 9;
  const auto magnitude = bitsOf(a) & ~Format<T>::kSign;
  unsigned rank = 0;  // distance from zero: zero, subnormal, normal, infinity
  if (magnitude >= bitsOf(std::numeric_limits<T>::infinity()))
    rank = 3;
  else if (magnitude >= bitsOf(std::numeric_limits<T>::min()))
    rank = 2;
  else if (magnitude != 0)
    rank = 1;
  return std::signbit(a) ? 1u << (3 - rank) : 1u << (4 + rank);
}

template <class I, class T>
I toInteger(T a, unsigned mode, uint32_t& flags) noexcept {
  using Limits = std::numeric_limits<I>;
  const double value = isNan(a) ? 0 : double(a);  // exact
  const bool huge = std::fabs(value) >= 0x1p64;
  __int128 whole = huge ? 0 : __int128(value);
  const double rest = huge ? 0 : value - double(whole);  // exact: zero beyond 2^53
  const double size = std::fabs(rest);
  bool away = false;  // one further from zero
  switch (mode) {
    case kNearestEven:
      away = size > 0.5 || (size == 0.5 && (whole & 1) != 0);
      break;
    case kDown:
      away = rest < 0;
      break;
    case kUp:
      away = rest > 0;
      break;
    case kNearestMax:
      away = size >= 0.5;
      break;
    default:
      break;
  }
  if (away) whole += rest < 0 ? -1 : 1;
  const bool above = isNan(a) || (huge && value > 0) || whole > __int128(Limits::max());
  const bool below = (huge && value < 0) || whole < __int128(Limits::min());
  if (above || below) {
    flags |= kInvalid;
    return above ? Limits::max() : Limits::min();
  }
  if (rest != 0) flags |= kInexact;
  return I(whole);
}

template <class T, class I>
T fromInteger(I a, unsigned mode, uint32_t& flags) noexcept {
  const auto convert = [](I i) { return T(i); };
  if (mode != kNearestMax) return rounded(mode, flags, convert, a);
  uint32_t raised = 0;
  const T even = rounded(kNearestEven, raised, convert, a);
  return raised == 0 ? even : nearestMax<T>(Quad(a), flags);
}

float narrow(double a, unsigned mode, uint32_t& flags) noexcept {
  return anyMode<float>(
      mode, flags, [](double x) { return float(x); }, [](Quad x) { return x; }, a);
}

double widen(float a, uint32_t& flags) noexcept {
  if (isSignaling(a)) flags |= kInvalid;
  return canonical(double(a));
}

#define INSTANTIATE(T)                                           \
  template T add(T, T, unsigned, uint32_t&) noexcept;            \
  template T multiply(T, T, unsigned, uint32_t&) noexcept;       \
  template T divide(T, T, unsigned, uint32_t&) noexcept;         \
  template T squareRoot(T, unsigned, uint32_t&) noexcept;        \
  template T multiplyAdd(T, T, T, unsigned, uint32_t&) noexcept; \
  template T minimum(T, T, uint32_t&) noexcept;                  \
  template T maximum(T, T, uint32_t&) noexcept;                  \
  template bool equal(T, T, uint32_t&) noexcept;                 \
  template bool less(T, T, uint32_t&) noexcept;                  \
  template bool lessOrEqual(T, T, uint32_t&) noexcept;           \
  template uint64_t classify(T) noexcept;                        \
  CONVERSIONS(T, int32_t)                                        \
  CONVERSIONS(T, uint32_t)                                       \
  CONVERSIONS(T, int64_t)                                        \
  CONVERSIONS(T, uint64_t)
#define CONVERSIONS(T, I)                                   \
  template I toInteger<I>(T, unsigned, uint32_t&) noexcept; \
  template T fromInteger<T>(I, unsigned, uint32_t&) noexcept;
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace ckptfs::rv64::fpu
