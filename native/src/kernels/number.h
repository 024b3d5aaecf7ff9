// Numbers and short vectors of them, in the instruction set that this file is compiled for.
//
// Everything here is in the namespace of the variant, so that the linker does not merge functions
// of different variants.

#ifndef STN_JAX_NATIVE_KERNELS_NUMBER_H_
#define STN_JAX_NATIVE_KERNELS_NUMBER_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef STN_VARIANT
#error "The build defines STN_VARIANT: baseline, avx2 or avx512."
#endif
#define STN_INLINE inline __attribute__((always_inline))
#define STN_INLINE_LAMBDA __attribute__((always_inline))

namespace stn::STN_VARIANT {

using Half = _Float16;

struct BFloat16 {
  uint16_t bits;
};

// The type of computations on images of a type.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// `n` numbers that one or a few instructions handle together.
template <class U, int n>
struct VectorOf {
  typedef U type __attribute__((vector_size(n * sizeof(U))));
};
template <class U, int n>
using Vector = typename VectorOf<U, n>::type;

STN_INLINE float Widen(float value) { return value; }
STN_INLINE double Widen(double value) { return value; }
STN_INLINE float Widen(Half value) { return static_cast<float>(value); }
STN_INLINE float Widen(BFloat16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to the nearest, ties to even. NaN is handled apart, since the addition could turn it into
// infinity.
// Works on one number and on vectors.
template <class Bits, class Mask>
STN_INLINE Bits RoundedToBFloat16(Bits bits, Mask is_nan) {
  Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Bits quiet = (bits >> 16) | 0x40;
  return is_nan ? quiet : rounded;
}

template <class T>
STN_INLINE T Narrow(Accumulator<T> value) {
  return static_cast<T>(value);
}
template <>
STN_INLINE BFloat16 Narrow<BFloat16>(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return {static_cast<uint16_t>(RoundedToBFloat16(bits, value != value))};
}

// Reads `n` numbers from memory.
template <int n, class T>
STN_INLINE Vector<Accumulator<T>, n> Load(const T* from) {
  Vector<Accumulator<T>, n> result;
  if constexpr (std::is_same_v<T, BFloat16>) {
    Vector<uint16_t, n> halves;
    std::memcpy(&halves, from, sizeof(halves));
    result = (Vector<float, n>)(__builtin_convertvector(halves, Vector<uint32_t, n>) << 16);
#if defined(__F16C__)
  } else if constexpr (std::is_same_v<T, Half> && n == 8) {
    result = (Vector<float, n>)_mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  } else if constexpr (std::is_same_v<T, Half> && n == 4) {
    result = (Vector<float, n>)_mm_cvtph_ps(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
  } else if constexpr (std::is_same_v<T, Half>) {
    for (int i = 0; i < n; ++i) result[i] = Widen(from[i]);
  } else {
    std::memcpy(&result, from, sizeof(result));
  }
  return result;
}

// Writes `n` numbers, rounded once.
template <int n, class T>
STN_INLINE void Store(T* to, Vector<Accumulator<T>, n> values) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    auto bits = (Vector<uint32_t, n>)values;
    auto halves =
        __builtin_convertvector(RoundedToBFloat16(bits, values != values), Vector<uint16_t, n>);
    std::memcpy(to, &halves, sizeof(halves));
#if defined(__F16C__)
  } else if constexpr (std::is_same_v<T, Half> && n == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)values, 0));
  } else if constexpr (std::is_same_v<T, Half> && n == 4) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph((__m128)values, 0));
#endif
  } else if constexpr (std::is_same_v<T, Half>) {
    for (int i = 0; i < n; ++i) to[i] = Narrow<Half>(values[i]);
  } else {
    std::memcpy(to, &values, sizeof(values));
  }
}

// Reads the first `count` of `n` numbers; the others are 0.
template <int n, class T>
STN_INLINE Vector<Accumulator<T>, n> LoadFirst(const T* from, int64_t count) {
  Vector<Accumulator<T>, n> result = {};
  for (int i = 0; i < n; ++i) {
    if (i < count) result[i] = Widen(from[i]);
  }
  return result;
}

// Writes the first `count` of `n` numbers.
template <int n, class T>
STN_INLINE void StoreFirst(T* to, Vector<Accumulator<T>, n> values, int64_t count) {
  for (int i = 0; i < n; ++i) {
    if (i < count) to[i] = Narrow<T>(values[i]);
  }
}

// The sum of the numbers, by halves.
template <class U, int n>
STN_INLINE U SumOf(Vector<U, n> v) {
  if constexpr (n == 1) {
    return v[0];
  } else {
    Vector<U, n / 2> a, b;
    std::memcpy(&a, &v, sizeof(a));
    std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof(a), sizeof(b));
    return SumOf<U, n / 2>(a + b);
  }
}

// The sums of the numbers at distances of four.
template <class U>
STN_INLINE Vector<U, 4> Folded(Vector<U, 8> v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}

// The sums of four vectors, in their order.
template <class U>
STN_INLINE Vector<U, 4> Sums(Vector<U, 4> a, Vector<U, 4> b, Vector<U, 4> c, Vector<U, 4> d) {
  Vector<U, 4> ac = __builtin_shufflevector(a, c, 0, 4, 1, 5) +  //
                    __builtin_shufflevector(a, c, 2, 6, 3, 7);
  Vector<U, 4> bd = __builtin_shufflevector(b, d, 0, 4, 1, 5) +  //
                    __builtin_shufflevector(b, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ac, bd, 0, 4, 1, 5) + __builtin_shufflevector(ac, bd, 2, 6, 3, 7);
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_NUMBER_H_
