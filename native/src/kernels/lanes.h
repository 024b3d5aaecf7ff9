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

// Whether all numbers are equal.
template <class U>
STN_INLINE bool AllSame(WideInt<U> v) {
  const WideInt<U> first = WideInt<U>{} + v[0];
#if defined(__AVX512F__)
  if constexpr (sizeof(U) == 4) {
    return _mm512_cmpneq_epi32_mask((__m512i)v, (__m512i)first) == 0;
  } else {
    return _mm512_cmpneq_epi64_mask((__m512i)v, (__m512i)first) == 0;
  }
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)(v == first)) == -1;
#else
  for (int lane = 1; lane < kWide<U>; ++lane) {
    if (v[lane] != first[lane]) return false;
  }
  return true;
#endif
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

// The smallest and the largest number; these fit int, and so do their negatives.
template <class U>
STN_INLINE void Extremes(WideInt<U> v, int& lowest, int& highest) {
  using I = std::remove_reference_t<decltype(v[0])>;
  lowest = Smallest<I, kWide<U>>(v);
  highest = -Smallest<I, kWide<U>>(-v);
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_LANES_H_
