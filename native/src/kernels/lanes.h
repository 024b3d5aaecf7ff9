// Vectors as wide as the processor's registers, and operations across their numbers.

#ifndef STN_JAX_NATIVE_KERNELS_LANES_H_
#define STN_JAX_NATIVE_KERNELS_LANES_H_

#include <cstdlib>
#include <new>

#include "number.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace stn::STN_VARIANT {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#else
constexpr int kRegisterBytes = 32;
#endif

template <class U>
constexpr int kWide = kRegisterBytes / static_cast<int>(sizeof(U));

// A vector, and whole numbers of the same width.
template <class U>
using Wide = Vector<U, kWide<U>>;
template <class U>
using WideInt = Vector<std::conditional_t<sizeof(U) == 4, int32_t, int64_t>, kWide<U>>;

// Numbers in memory that vectors may be loaded from at once. A class of this namespace, since the
// linker would merge those of std::vector across instruction sets.
template <class V>
class Buffer {
 public:
  explicit Buffer(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(V) + kAlignment) & ~(kAlignment - 1);
    data_ = static_cast<V*>(std::aligned_alloc(kAlignment, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  V* data() { return data_; }
  const V* data() const { return data_; }

 private:
  static constexpr size_t kAlignment = 64;
  V* data_;
};

// Whether the processor picks numbers of a vector by their positions, all in one instruction.
#if defined(__AVX512F__)
template <class U>
constexpr bool kPicks = true;
#elif defined(__AVX2__)
template <class U>
constexpr bool kPicks = sizeof(U) == 4;
#else
template <class U>
constexpr bool kPicks = false;
#endif

// The numbers of a vector at the given positions. Only if `kPicks`.
template <class U>
STN_INLINE Wide<U> Pick(Wide<U> from, WideInt<U> position) {
#if !defined(__clang__)
  return __builtin_shuffle(from, position);
#elif defined(__AVX512F__)
  if constexpr (sizeof(U) == 4) {
    return (Wide<U>)_mm512_permutexvar_ps((__m512i)position, (__m512)from);
  } else {
    return (Wide<U>)_mm512_permutexvar_pd((__m512i)position, (__m512d)from);
  }
#elif defined(__AVX2__)
  return (Wide<U>)_mm256_permutevar8x32_ps((__m256)from, (__m256i)position);
#else
  (void)position;
  return from;
#endif
}

// The same of two vectors one behind the other.
template <class U>
STN_INLINE Wide<U> Pick(Wide<U> from, Wide<U> behind, WideInt<U> position) {
#if !defined(__clang__)
  return __builtin_shuffle(from, behind, position);
#elif defined(__AVX512F__)
  if constexpr (sizeof(U) == 4) {
    return (Wide<U>)_mm512_permutex2var_ps((__m512)from, (__m512i)position, (__m512)behind);
  } else {
    return (Wide<U>)_mm512_permutex2var_pd((__m512d)from, (__m512i)position, (__m512d)behind);
  }
#else
  return position < kWide<U> ? Pick<U>(from, position) : Pick<U>(behind, position);
#endif
}

// Of a pair of rows, the numbers that the first keeps or gets from the other so that squares of `half`
// numbers change places, and those of the second.
template <class U, int half>
struct PairOfRows {
  using I = std::conditional_t<sizeof(U) == 4, int32_t, int64_t>;
  static constexpr int width = kWide<U>;

  constexpr PairOfRows() {
    for (int i = 0; i < width; ++i) {
      first[i] = (i & half) != 0 ? width + i - half : i;
      second[i] = (i & half) != 0 ? width + i : i + half;
    }
  }

  I first[width] = {}, second[width] = {};
};

// Exchanges rows and columns of a square of numbers. Only if `kPicks`.
template <class U, int half = 1>
STN_INLINE void Transpose(Wide<U>* rows) {
  constexpr int width = kWide<U>;
  if constexpr (half < width) {
    static constexpr PairOfRows<U, half> pair;
    WideInt<U> first, second;
    std::memcpy(&first, pair.first, sizeof(first));
    std::memcpy(&second, pair.second, sizeof(second));
    for (int i = 0; i < width; ++i) {
      if ((i & half) != 0) continue;
      const Wide<U> one = rows[i], other = rows[i + half];
      rows[i] = Pick<U>(one, other, first);
      rows[i + half] = Pick<U>(one, other, second);
    }
    Transpose<U, 2 * half>(rows);
  }
}

// Whether no number has any of these bits.
template <class U>
STN_INLINE bool NoneHas(WideInt<U> v, WideInt<U> bits) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)v, (__m512i)bits) == 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)v, (__m256i)bits) != 0;
#else
  const WideInt<U> both = v & bits, zero = {};
  return std::memcmp(&both, &zero, sizeof(both)) == 0;
#endif
}

// Whether all numbers are 0.
template <class U>
STN_INLINE bool AllZero(WideInt<U> v) {
  return NoneHas<U>(v, v);
}

// Whether all numbers are equal.
template <class U>
STN_INLINE bool AllSame(WideInt<U> v) {
  return AllZero<U>(v ^ v[0]);
}

// The smallest number.
template <class U, int n>
STN_INLINE int Smallest(Vector<U, n> v) {
  if constexpr (n == 1) {
    return static_cast<int>(v[0]);
  } else {
    Vector<U, n / 2> a, b;
    std::memcpy(&a, &v, sizeof(a));
    std::memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof(a), sizeof(b));
    return Smallest<U, n / 2>(a < b ? a : b);
  }
}

// The larger and the smaller number of two vectors, in each lane; of the second if one is NaN, as the
// processor does it. Compilers do not always find the one instruction for this.
template <class U>
STN_INLINE Wide<U> Larger(Wide<U> a, Wide<U> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(U) == 4) {
    return (Wide<U>)_mm512_maskz_max_ps(-1, (__m512)a, (__m512)b);
  } else {
    return (Wide<U>)_mm512_maskz_max_pd(-1, (__m512d)a, (__m512d)b);
  }
#else
  return a > b ? a : b;
#endif
}
template <class U>
STN_INLINE Wide<U> Smaller(Wide<U> a, Wide<U> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(U) == 4) {
    return (Wide<U>)_mm512_maskz_min_ps(-1, (__m512)a, (__m512)b);
  } else {
    return (Wide<U>)_mm512_maskz_min_pd(-1, (__m512d)a, (__m512d)b);
  }
#else
  return a < b ? a : b;
#endif
}

// The largest whole numbers that are not above these; any number for NaN.
template <class U>
STN_INLINE WideInt<U> Floor(Wide<U> v) {
#if defined(__AVX512F__)
  constexpr int down = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(U) == 4) {
    return (WideInt<U>)_mm512_maskz_cvt_roundps_epi32(-1, (__m512)v, down);
  } else {
    return (WideInt<U>)_mm512_maskz_cvt_roundpd_epi64(-1, (__m512d)v, down);
  }
#else
  // The conversion of NaN has no defined result.
  const Wide<U> known = v == v ? v : Wide<U>{};
  const WideInt<U> truncated = __builtin_convertvector(known, WideInt<U>);
  return truncated + (__builtin_convertvector(truncated, Wide<U>) > known);
#endif
}

// The smallest and the largest number; these fit int, and so do their negatives.
template <class U>
STN_INLINE void Extremes(WideInt<U> v, int& lowest, int& highest) {
  using I = std::remove_reference_t<decltype(v[0])>;
  lowest = Smallest<I, kWide<U>>(v);
  highest = -Smallest<I, kWide<U>>(-v);
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_LANES_H_
