// The image's gradient: adds weight × cotangent to each pixel that a point has read.
//
// Points are added in their order, and the taps of a point in theirs. So a pixel's sum does not
// depend on how the image is cut into bands.

#ifndef STN_JAX_NATIVE_KERNELS_SCATTER_H_
#define STN_JAX_NATIVE_KERNELS_SCATTER_H_

#include "gather.h"

namespace stn::STN_VARIANT {

// True for weights that count: not 0 and not NaN.
template <class U>
STN_INLINE bool Counts(U weight) {
  return weight < 0 || weight > 0;
}

// The pixels of a block within a band.
template <class U>
class Places {
 public:
  Places(const Geometry& geometry, const Block<U>& block, Range band)
      : pixel_(block.pixel),
        weight_(block.weight),
        first_(band.first),
        size_(static_cast<uint64_t>(band.last - band.first)),
        last_(geometry.pixels - 1) {}

  STN_INLINE U weight(int64_t k) const { return weight_[k]; }

  // Where the band has the pixel, or -1 if it has not or nothing is added to it.
  STN_INLINE int64_t operator()(int64_t k) const {
    int64_t pixel = pixel_[k];
    if (__builtin_expect(pixel < 0, 0)) {
      if (pixel != kLast) return -1;
      pixel = last_;
    }
    const int64_t place = pixel - first_;
    return static_cast<uint64_t>(place) < size_ && Counts(weight_[k]) ? place : -1;
  }

 private:
  const int32_t* __restrict pixel_;
  const U* __restrict weight_;
  int64_t first_;
  uint64_t size_;
  int64_t last_;
};

// `width` numbers at each pixel; the cotangent is given as numbers of the accumulators' type.
template <int fixed_taps, int width, class U>
void ScatterFew(const Block<U>& block, Places<U> places, const U* cotangent, U* __restrict sums) {
  const int count = block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  for (int i = 0; i < count; ++i) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = places(k);
      if (place < 0) continue;
      U* to = sums + place * width;
      if constexpr (width == 1) {
        *to += places.weight(k) * cotangent[i];
      } else {
        Store<width>(to, Load<width>(to) + places.weight(k) * Load<width>(cotangent + i * width));
      }
    }
  }
}

template <int fixed_taps, class T, class U = Accumulator<T>>
void ScatterMany(const Block<U>& block, Places<U> places, const T* cotangent, int64_t channels,
                 U* sums) {
  const int count = block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  for (int i = 0; i < count; ++i) {
    const T* __restrict from = cotangent + i * channels;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = places(k);
      if (place < 0) continue;
      const U weight = places.weight(k);
      U* __restrict to = sums + place * channels;
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        Store<kLanes>(to + c, Load<kLanes>(to + c) + weight * Load<kLanes>(from + c));
      }
      for (; c < channels; ++c) to[c] += weight * Widen(from[c]);
    }
  }
}

// Copies a block's cotangent as numbers of the accumulators' type, 3 channels spread over 4.
template <int channels, class T>
void WidenCotangent(const Block<Accumulator<T>>& block, const T* from, Accumulator<T>* to) {
  constexpr int padded = channels == 3 ? 4 : channels;
  for (int i = 0; i < block.count; ++i) {
    for (int c = 0; c < channels; ++c) to[i * padded + c] = Widen(from[i * channels + c]);
    for (int c = channels; c < padded; ++c) to[i * padded + c] = 0;
  }
}

template <int fixed_taps, class T, class U = Accumulator<T>>
void Scatter(const Geometry& geometry, const Block<U>& block, const T* cotangent, Range band,
             U* sums) {
  U terms[kBlock * kFewChannels];
  const Places<U> places(geometry, block, band);
  switch (geometry.channels) {
    case 1:
      WidenCotangent<1>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 1>(block, places, terms, sums);
    case 2:
      WidenCotangent<2>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 2>(block, places, terms, sums);
    case 3:
      WidenCotangent<3>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 4>(block, places, terms, sums);
    case 4:
      WidenCotangent<4>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 4>(block, places, terms, sums);
    default:
      return ScatterMany<fixed_taps>(block, places, cotangent, geometry.channels, sums);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_SCATTER_H_
