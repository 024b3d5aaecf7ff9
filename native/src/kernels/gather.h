// The values at the points of a block: sums of weight × pixel.

#ifndef STN_JAX_NATIVE_KERNELS_GATHER_H_
#define STN_JAX_NATIVE_KERNELS_GATHER_H_

#include "pixels.h"

namespace stn::STN_VARIANT {

// In the functions below `fixed_taps` is the number of taps where it is known at compile time, or
// 0: then the block knows it.
template <int fixed_taps, class U>
STN_INLINE int64_t Taps(const Block<U>& block) {
  return fixed_taps > 0 ? fixed_taps : block.taps;
}

// The same pixel's only channel at several points.
template <class T>
STN_INLINE Vector<Accumulator<T>, kLanes> OneChannel(const Pixels<T>& pixels,
                                                     const int32_t* pixel) {
  Vector<Accumulator<T>, kLanes> values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = Widen(*pixels.at(pixel[lane], 1));
  return values;
}

// One channel: a vector holds points.
template <int fixed_taps, class T>
void GatherOne(const Block<Accumulator<T>>& block, const Pixels<T>& pixels, T* out) {
  using U = Accumulator<T>;
  for (int i = 0; i < block.filled; i += kLanes) {
    Vector<U, kLanes> sum = {};
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      sum += Load<kLanes>(block.weight + k) * OneChannel(pixels, block.pixel + k);
    }
    if (i + kLanes <= block.count) {
      Store<kLanes>(out + i, sum);
    } else {
      StoreFirst<kLanes>(out + i, sum, block.count - i);
    }
  }
}

// Two to four channels: a vector holds the channels of a point, and its neighbour's first.
template <int channels, int fixed_taps, class T>
void GatherFew(const Block<Accumulator<T>>& block, const Pixels<T>& pixels, T* out) {
  using U = Accumulator<T>;
  for (int i = 0; i < block.count; ++i) {
    Vector<U, 4> sum = {};
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      sum += block.weight[k] * Load<4>(pixels.at(block.pixel[k], channels));
    }
    if (channels == 4 || i + 1 < block.count) {
      Store<4>(out + i * channels, sum);
    } else {
      StoreFirst<4>(out + i * channels, sum, channels);
    }
  }
}

// Any number of channels: vectors hold channels of a point.
template <int fixed_taps, class T>
void GatherMany(const Block<Accumulator<T>>& block, const Pixels<T>& pixels, int64_t channels,
                T* out) {
  using U = Accumulator<T>;
  for (int i = 0; i < block.count; ++i) {
    const int64_t taps = Taps<fixed_taps>(block);
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Vector<U, kLanes> sum = {};
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t k = tap * kBlock + i;
        sum += block.weight[k] * Load<kLanes>(pixels.at(block.pixel[k], channels) + c);
      }
      Store<kLanes>(out + i * channels + c, sum);
    }
    for (; c < channels; ++c) {
      U sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t k = tap * kBlock + i;
        sum += block.weight[k] * Widen(pixels.at(block.pixel[k], channels)[c]);
      }
      out[i * channels + c] = Narrow<T>(sum);
    }
  }
}

template <int fixed_taps, class T>
void Gather(const Geometry& geometry, Block<Accumulator<T>>& block, const Pixels<T>& pixels,
            T* out) {
  LeaveOutWeightless(block);
  switch (geometry.channels) {
    case 1:
      return GatherOne<fixed_taps>(block, pixels, out);
    case 2:
      RedirectLast(geometry, block);
      return GatherFew<2, fixed_taps>(block, pixels, out);
    case 3:
      RedirectLast(geometry, block);
      return GatherFew<3, fixed_taps>(block, pixels, out);
    case 4:
      return GatherFew<4, fixed_taps>(block, pixels, out);
    default:
      return GatherMany<fixed_taps>(block, pixels, geometry.channels, out);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_GATHER_H_
