// The values at the points of a block: sums of weight × pixel.

#ifndef STN_JAX_NATIVE_KERNELS_GATHER_H_
#define STN_JAX_NATIVE_KERNELS_GATHER_H_

#include "plain.h"

namespace stn::STN_VARIANT {

// In the functions below `fixed_taps` is the number of taps if known at compile time. If it is 0,
// the block holds the number.
template <int fixed_taps, class U>
STN_INLINE int64_t Taps(const Block<U>& block) {
  return fixed_taps > 0 ? fixed_taps : block.taps;
}

// The only channel of the pixels that several points read.
template <class T>
STN_INLINE Vector<Accumulator<T>, kLanes> OneChannel(const T* image, const T* others,
                                                     const int32_t* pixel) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pixel));
    const __m256i is_fill = _mm256_cmpeq_epi32(index, _mm256_set1_epi32(kFill));
    const __m256 outside =
        _mm256_and_ps(_mm256_castsi256_ps(is_fill), _mm256_set1_ps(others[kFill]));
    // Lanes whose sign is set are read.
    const __m256i inside = _mm256_xor_si256(index, _mm256_set1_epi32(-1));
    return (Vector<float, kLanes>)_mm256_mask_i32gather_ps(outside, image, index,
                                                           _mm256_castsi256_ps(inside), 4);
  }
#endif
  Vector<Accumulator<T>, kLanes> values;
  for (int lane = 0; lane < kLanes; ++lane) {
    values[lane] = Widen((pixel[lane] < 0 ? others : image)[pixel[lane]]);
  }
  return values;
}

#if defined(__AVX2__)
// Whether all points of a vector read a pixel and its right neighbour.
STN_INLINE bool AreNeighbours(const int32_t* left, const int32_t* right) {
  const __m256i l = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(left));
  const __m256i r = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(right));
  const __m256i differ = _mm256_xor_si256(_mm256_sub_epi32(r, l), _mm256_set1_epi32(1));
  // A negative entry of `l` is a pixel outside.
  const __m256i bad = _mm256_or_si256(differ, _mm256_srai_epi32(l, 31));
  return _mm256_testz_si256(bad, bad) != 0;
}
#endif

// The same for two taps: two pixels side by side are read by one load.
template <class T>
STN_INLINE void TwoTaps(const T* image, const T* others, const int32_t* pixel,
                        Vector<Accumulator<T>, kLanes>& left,
                        Vector<Accumulator<T>, kLanes>& right) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if (AreNeighbours(pixel, pixel + kBlock)) {
      EightPairs(image, pixel, left, right);
      return;
    }
  }
#endif
  left = OneChannel(image, others, pixel);
  right = OneChannel(image, others, pixel + kBlock);
}

// One channel: a vector holds points.
template <int fixed_taps, class T>
void GatherOne(const Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
               T* __restrict out) {
  using U = Accumulator<T>;
  const int count = block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  const U* __restrict weight = block.weight;
  const T* __restrict image = pixels.image();
  const T* __restrict others = pixels.others();
  for (int i = span.first; i < span.last; i += kLanes) {
    Vector<U, kLanes> sum = {};
    int64_t tap = 0;
    for (; tap + 2 <= taps; tap += 2) {
      const int64_t k = tap * kBlock + i;
      Vector<U, kLanes> left, right;
      TwoTaps(image, others, pixel + k, left, right);
      sum += Load<kLanes>(weight + k) * left;
      sum += Load<kLanes>(weight + k + kBlock) * right;
    }
    if (tap < taps) {
      const int64_t k = tap * kBlock + i;
      sum += Load<kLanes>(weight + k) * OneChannel(image, others, pixel + k);
    }
    if (i + kLanes <= count) {
      Store<kLanes>(out + i, sum);
    } else {
      StoreFirst<kLanes>(out + i, sum, count - i);
    }
  }
}

// Two to four channels: a vector of four holds the channels of a point, and then those of its
// neighbour.
template <int channels, int fixed_taps, class T>
void GatherFew(const Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
               T* __restrict out) {
  using U = Accumulator<T>;
  const int count = block.count, last = span.last < count ? span.last : count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  const U* __restrict weight = block.weight;
  const Pixels<T> at = pixels;
  for (int i = span.first; i < last; ++i) {
    Vector<U, 4> sum = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k = tap * kBlock + i;
      sum += weight[k] * Load<4>(at(pixel[k], channels));
    }
    if (channels == 4 || i + 1 < count) {
      Store<4>(out + i * channels, sum);
    } else {
      StoreFirst<4>(out + i * channels, sum, channels);
    }
  }
}

// Any number of channels: vectors hold channels of a point.
template <int fixed_taps, class T>
void GatherMany(const Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
                int64_t channels, T* __restrict out) {
  using U = Accumulator<T>;
  constexpr int kWide = 4 * kLanes;
  const int last = span.last < block.count ? span.last : block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  const U* __restrict weight = block.weight;
  const Pixels<T> at = pixels;
  for (int i = span.first; i < last; ++i) {
    T* __restrict to = out + i * channels;
    int64_t c = 0;
    for (; c + kWide <= channels; c += kWide) {
      Vector<U, kLanes> sum[4] = {};
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t k = tap * kBlock + i;
        const T* __restrict from = at(pixel[k], channels) + c;
        for (int j = 0; j < 4; ++j) sum[j] += weight[k] * Load<kLanes>(from + j * kLanes);
      }
      for (int j = 0; j < 4; ++j) Store<kLanes>(to + c + j * kLanes, sum[j]);
    }
    for (; c + kLanes <= channels; c += kLanes) {
      Vector<U, kLanes> sum = {};
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t k = tap * kBlock + i;
        sum += weight[k] * Load<kLanes>(at(pixel[k], channels) + c);
      }
      Store<kLanes>(to + c, sum);
    }
    for (; c < channels; ++c) {
      U sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t k = tap * kBlock + i;
        sum += weight[k] * Widen(at(pixel[k], channels)[c]);
      }
      to[c] = Narrow<T>(sum);
    }
  }
}

// Points that read only the fill value.
template <class T>
void WriteFill(int64_t channels, Span span, const T* __restrict fill, T* __restrict out) {
  if (channels == 1) {
    for (int i = span.first; i < span.last; ++i) out[i] = fill[0];
    return;
  }
  for (int i = span.first; i < span.last; ++i) {
    for (int64_t c = 0; c < channels; ++c) out[i * channels + c] = fill[c];
  }
}

// The points must already redirect pixels of weight 0 to zeros.
template <int fixed_taps, class T>
void Gather(const Geometry& geometry, const Block<Accumulator<T>>& block, Span span,
            const Pixels<T>& pixels, T* out) {
  switch (geometry.channels) {
    case 1:
      return GatherOne<fixed_taps>(block, span, pixels, out);
    case 2:
      return GatherFew<2, fixed_taps>(block, span, pixels, out);
    case 3:
      return GatherFew<3, fixed_taps>(block, span, pixels, out);
    case 4:
      return GatherFew<4, fixed_taps>(block, span, pixels, out);
    default:
      return GatherMany<fixed_taps>(block, span, pixels, geometry.channels, out);
  }
}

// The same for plain points.

template <int ndim, class T>
void GatherPlainOne(const Block<Accumulator<T>>& block, Span span, const PlainRows<ndim>& rows,
                    const T* image, T* __restrict out) {
  using U = Accumulator<T>;
  for (int i = span.first; i < span.last; i += kLanes) {
    Vector<U, kLanes> values[rows.taps] = {}, sum = {};
    PlainPixels(image, block.pixel + i, rows, values);
    for (int tap = 0; tap < rows.taps; ++tap) {
      sum += Load<kLanes>(block.weight + tap * kBlock + i) * values[tap];
    }
    Store<kLanes>(out + i, sum);
  }
}

template <int ndim, int channels, class T>
void GatherPlainFew(const Block<Accumulator<T>>& block, Span span, const PlainRows<ndim>& rows,
                    const T* image, T* __restrict out) {
  using U = Accumulator<T>;
  const U* __restrict weight = block.weight;
  auto value = [&](int i) STN_INLINE_LAMBDA {
    const T* from = image + static_cast<int64_t>(block.pixel[i]) * channels;
    Vector<U, 4> sum = {};
    for (int tap = 0; tap < rows.taps; ++tap) {
      sum += weight[tap * kBlock + i] * Load<4>(from + rows.of(tap));
    }
    return sum;
  };
  // A vector written past the last point's channels could overwrite another task's output.
  const int last = span.last < block.count || channels == 4 ? span.last : span.last - 1;
  for (int i = span.first; i < last; ++i) Store<4>(out + i * channels, value(i));
  if (last < span.last) StoreFirst<4>(out + last * channels, value(last), channels);
}

template <int ndim, class T>
void GatherPlain(const Geometry& geometry, const Block<Accumulator<T>>& block, Span span,
                 const Pixels<T>& pixels, T* out) {
  const PlainRows<ndim> rows(geometry, geometry.channels);
  switch (geometry.channels) {
    case 1:
      return GatherPlainOne(block, span, rows, pixels.image(), out);
    case 2:
      return GatherPlainFew<ndim, 2>(block, span, rows, pixels.image(), out);
    case 3:
      return GatherPlainFew<ndim, 3>(block, span, rows, pixels.image(), out);
    case 4:
      return GatherPlainFew<ndim, 4>(block, span, rows, pixels.image(), out);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_GATHER_H_
