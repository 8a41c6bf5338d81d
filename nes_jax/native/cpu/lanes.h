// Vectors of numbers with one game in each lane, and the elementary functions on them.
//
// Every number of the interior-point method is such a vector, so that one instruction works on
// several games. The width is that of a register of the instruction set that the file is compiled
// for. A select is written `mask ? a : b`, and arithmetic is written as for numbers.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Returns the result of one instruction of x86, for vectors of its width. Compilers do not choose
// such an instruction themselves, because it treats a NaN differently from the operator in C++.
#define NES_ARGUMENTS_1(type, a, b) (type)(a)
#define NES_ARGUMENTS_2(type, a, b) (type)(a), (type)(b)
#define NES_WIDTH(bits, type, op, count, a, b)                                       \
  if constexpr (sizeof(V) * 8 == bits && kSingle)                                    \
    return (V)_mm##type##_##op##_ps(NES_ARGUMENTS_##count(__m##bits, a, b));         \
  if constexpr (sizeof(V) * 8 == bits && !kSingle)                                   \
    return (V)_mm##type##_##op##_pd(NES_ARGUMENTS_##count(__m##bits##d, a, b));
#if defined(__AVX512F__)
#define NES_INSTRUCTION(op, count, a, b)  \
  NES_WIDTH(512, 512, op, count, a, b)    \
  NES_WIDTH(256, 256, op, count, a, b)    \
  NES_WIDTH(128, , op, count, a, b)
#elif defined(__AVX2__)
#define NES_INSTRUCTION(op, count, a, b)  \
  NES_WIDTH(256, 256, op, count, a, b)    \
  NES_WIDTH(128, , op, count, a, b)
#elif defined(__x86_64__)
#define NES_INSTRUCTION(op, count, a, b) NES_WIDTH(128, , op, count, a, b)
#else
#define NES_INSTRUCTION(op, count, a, b)
#endif

namespace nes {

// Size of a vector register, and the number of these registers.
#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kRegisterBytes = 16, kRegisters = 32;
#else
constexpr int kRegisterBytes = 16, kRegisters = 16;
#endif

// Number of lanes of a register.
template <class T>
constexpr int kLanes = kRegisterBytes / int(sizeof(T));

// Vector of W numbers.
template <class T, int W>
struct Vector {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};

// Functions on vectors of W numbers.
template <class T, int W>
struct Lanes {
  using V = typename Vector<T, W>::type;
  using I = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  // Vector of masks. A mask has all bits set, or none.
  using M = typename Vector<I, W>::type;
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
  static constexpr bool kSingle = sizeof(T) == 4;
  static constexpr int kMantissa = kSingle ? 23 : 52, kBias = kSingle ? 127 : 1023;

  // Vector of equal numbers.
  static inline V all(T x) { return V{} + x; }

  // Larger and smaller of two numbers. A NaN in b is returned, and a NaN in a is not.
  static inline V max(V a, V b) {
    NES_INSTRUCTION(max, 2, a, b)
    return a > b ? a : b;
  }
  static inline V min(V a, V b) {
    NES_INSTRUCTION(min, 2, a, b)
    return a < b ? a : b;
  }
  // Magnitude.
  static inline V abs(V a) {
    constexpr I sign = I(1) << (8 * sizeof(T) - 1);
    return (V)((M)a & ~sign);
  }

  // Reciprocal, with an error of a few units in the last place.
  static inline V reciprocal(V x) {
#if defined(__AVX512F__)
    // Newton's steps improve an approximation. A division would take several times as long.
    if constexpr (sizeof(V) == 64 && kSingle) {
      const V y = (V)_mm512_rcp14_ps((__m512)x);
      return y + y * (T(1) - x * y);
    }
    if constexpr (sizeof(V) == 64 && !kSingle) {
      V y = (V)_mm512_rcp14_pd((__m512d)x);
      y = y + y * (T(1) - x * y);
      return y + y * (T(1) - x * y);
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(V) == 32 && kSingle) {
      const V y = (V)_mm256_rcp_ps((__m256)x);
      return y + y * (T(1) - x * y);
    }
#endif
    return T(1) / x;
  }

  // Square root.
  static inline V sqrt(V x) {
    NES_INSTRUCTION(sqrt, 1, x, x)
    V y = x;
    for (int l = 0; l < W; ++l) y[l] = std::sqrt(x[l]);
    return y;
  }
  // Reciprocal of the square root.
  static inline V inverse_sqrt(V x) { return reciprocal(sqrt(x)); }

  // Natural logarithm of a positive normal number x = 2^k (1 + f) with |f| < 0.42. The series of
  // artanh gives log(1 + f) = 2 artanh(f / (2 + f)).
  static inline V log(V x) {
    constexpr I half_root = kSingle ? I(0x3f3504f3) : I(0x3fe6a09e667f3bcdLL);
    const M bits = (M)x, exponent = (bits - half_root) >> kMantissa;
    const V f = (V)(bits - (exponent << kMantissa)) - T(1);
    const V k = __builtin_convertvector(exponent, V);
    const V s = f / (f + T(2)), square = s * s;
    constexpr int terms = kSingle ? 5 : 11;
    V series = all(T(1) / T(2 * terms + 1));
#pragma GCC unroll 16
    for (int i = terms - 1; i >= 1; --i) series = series * square + T(1) / T(2 * i + 1);
    const V tail = s * square * series * T(2) + k * ln2_low();
    return k * ln2_high() + (T(2) * s + tail);
  }

  // Exponential function of x = k log 2 + r. The argument is clipped so that the result is a normal
  // number.
  static inline V exp(V x) {
    constexpr T least = kSingle ? T(-87) : T(-708), largest = kSingle ? T(88) : T(709);
    x = min(max(all(least), x), all(largest));
    // Adding this number and subtracting it again rounds to an integer. The integer is in the last
    // bits of the sum.
    constexpr T round = kSingle ? T(12582912) : T(6755399441055744);
    const V shifted = x * T(1.44269504088896340736) + round, k = shifted - round;
    const V r = (x - k * ln2_high()) - k * ln2_low();
    constexpr int terms = kSingle ? 8 : 13;
    double factor = 1;
    for (int i = 1; i <= terms; ++i) factor /= i;
    V series = all(T(factor));
#pragma GCC unroll 16
    for (int i = terms; i >= 1; --i) factor *= i, series = series * r + T(factor);
    return series * (V)(((M)shifted + I(kBias)) << kMantissa);
  }

  // Function exp(-x) - 1 + x without cancellation near 0, for numbers that are not far below 0.
  static inline V exp_excess(V x) {
    V series = all(T(0));
#pragma GCC unroll 16
    for (int i = kSingle ? 9 : 16; i >= 2; --i) series = (T(1) - series) * x * (T(1) / T(i));
    return abs(x) < T(0.7) ? series * x : exp(-x) - T(1) + x;
  }

  // Largest k with 2^k <= x, for a positive normal number x.
  static inline M exponent(V x) { return ((M)x >> kMantissa) - I(kBias); }
  // The k with x / sqrt(2) < 2^k <= x sqrt(2), for a positive normal number x.
  static inline M nearest_exponent(V x) { return exponent(x * T(1.4142135623730951)); }
  // Power 2^k.
  static inline V power_of_two(M k) { return (V)((k + I(kBias)) << kMantissa); }

 private:
  // log 2 as a sum of two numbers. The product of the first with an exponent is exact.
  static constexpr T ln2_high() { return kSingle ? T(0.693359375) : T(6.93147180369123816490e-01); }
  static constexpr T ln2_low() {
    return kSingle ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  }
};

// Makes the thread treat subnormal numbers as zero during the lifetime of the object. Arithmetic on
// subnormal numbers would take a hundred times as long.
class FlushSubnormals {
 public:
  FlushSubnormals() {
#if defined(__x86_64__)
    before_ = _mm_getcsr();
    _mm_setcsr(before_ | 0x8040);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" ::"r"(before_ | (uint64_t(1) << 24)));
#endif
  }
  ~FlushSubnormals() {
#if defined(__x86_64__)
    _mm_setcsr(before_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" ::"r"(before_));
#endif
  }

 private:
#if defined(__aarch64__)
  uint64_t before_ = 0;
#else
  unsigned before_ = 0;
#endif
};

}  // namespace nes
