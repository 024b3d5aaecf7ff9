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

// `channels` is that of the accumulators, which are padded. The cotangent is given as numbers of
// the accumulators' type, padded as they are.
template <int fixed_taps, int channels, class U>
void ScatterFew(const Block<U>& block, const U* cotangent, Range band, U* sums) {
  const auto band_size = static_cast<uint64_t>(band.last - band.first);
  for (int i = 0; i < block.count; ++i) {
    Vector<U, channels> term;
    std::memcpy(&term, cotangent + i * channels, sizeof(term));
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = block.pixel[k] - band.first;
      const U weight = block.weight[k];
      if (static_cast<uint64_t>(place) >= band_size || block.pixel[k] < 0 || !Counts(weight)) {
        continue;
      }
      U* to = sums + place * channels;
      Vector<U, channels> sum;
      std::memcpy(&sum, to, sizeof(sum));
      sum += weight * term;
      std::memcpy(to, &sum, sizeof(sum));
    }
  }
}

template <int fixed_taps, class U>
void ScatterOne(const Block<U>& block, const U* cotangent, Range band, U* sums) {
  const auto band_size = static_cast<uint64_t>(band.last - band.first);
  for (int i = 0; i < block.count; ++i) {
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = block.pixel[k] - band.first;
      const U weight = block.weight[k];
      if (static_cast<uint64_t>(place) >= band_size || block.pixel[k] < 0 || !Counts(weight)) {
        continue;
      }
      sums[place] += weight * cotangent[i];
    }
  }
}

template <int fixed_taps, class T, class U = Accumulator<T>>
void ScatterMany(const Block<U>& block, const T* cotangent, Range band, int64_t channels,
                 U* sums) {
  const auto band_size = static_cast<uint64_t>(band.last - band.first);
  for (int i = 0; i < block.count; ++i) {
    const T* __restrict from = cotangent + i * channels;
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = block.pixel[k] - band.first;
      const U weight = block.weight[k];
      if (static_cast<uint64_t>(place) >= band_size || block.pixel[k] < 0 || !Counts(weight)) {
        continue;
      }
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
  switch (geometry.channels) {
    case 1:
      WidenCotangent<1>(block, cotangent, terms);
      return ScatterOne<fixed_taps>(block, terms, band, sums);
    case 2:
      WidenCotangent<2>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 2>(block, terms, band, sums);
    case 3:
      WidenCotangent<3>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 4>(block, terms, band, sums);
    case 4:
      WidenCotangent<4>(block, cotangent, terms);
      return ScatterFew<fixed_taps, 4>(block, terms, band, sums);
    default:
      return ScatterMany<fixed_taps>(block, cotangent, band, geometry.channels, sums);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_SCATTER_H_
