// The image's gradient: adds weight × cotangent to each pixel that a point has read.
//
// Blocks are added in order. Within a block, the order of points and taps is fixed. So a pixel's
// sum does not depend on the division of the image into bands.

#ifndef STN_JAX_NATIVE_KERNELS_SCATTER_H_
#define STN_JAX_NATIVE_KERNELS_SCATTER_H_

#include "gather.h"

namespace stn::STN_VARIANT {

// Whether a weight is neither 0 nor NaN.
template <class U>
STN_INLINE bool Counts(U weight) {
  return (weight < 0) | (weight > 0);
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

  // The position of the pixel in the band; -1 if it lies outside or its weight does not count.
  // Without branches, which would be mispredicted at the border of an image.
  STN_INLINE int64_t operator()(int64_t k) const {
    const int64_t pixel = pixel_[k] == kLast ? last_ : pixel_[k];
    // Pixels outside have negative numbers, which are large without their sign.
    const int64_t place = pixel - first_;
    const bool counts = (static_cast<uint64_t>(place) < size_) & Counts(weight_[k]);
    return counts ? place : -1;
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
void ScatterFew(const Block<U>& block, Span span, Places<U> places, const U* cotangent, U* sums) {
  const int64_t taps = Taps<fixed_taps>(block);
  const int last = span.last < block.count ? span.last : block.count;
  U nowhere[width] = {};
  for (int i = span.first; i < last; ++i) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k = tap * kBlock + i;
      const int64_t place = places(k);
      U* to = place < 0 ? nowhere : sums + place * width;
      if constexpr (width == 1) {
        *to += places.weight(k) * cotangent[i];
      } else {
        Store<width>(to, Load<width>(to) + places.weight(k) * Load<width>(cotangent + i * width));
      }
    }
  }
}

template <int fixed_taps, class T, class U = Accumulator<T>>
void ScatterMany(const Block<U>& block, Span span, Places<U> places, const T* cotangent,
                 int64_t channels, U* sums) {
  const int last = span.last < block.count ? span.last : block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  for (int i = span.first; i < last; ++i) {
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

// Copies the cotangent of a block's points in the accumulators' type; 3 channels are padded to 4.
template <int channels, class T>
void WidenCotangent(int count, const T* from, Accumulator<T>* to) {
  constexpr int padded = channels == 3 ? 4 : channels;
  for (int i = 0; i < count; ++i) {
    for (int c = 0; c < channels; ++c) to[i * padded + c] = Widen(from[i * channels + c]);
    for (int c = channels; c < padded; ++c) to[i * padded + c] = 0;
  }
}

template <class T>
void WidenCotangent(const Geometry& geometry, const Block<Accumulator<T>>& block, const T* from,
                    Accumulator<T>* to) {
  switch (geometry.channels) {
    case 1:
      return WidenCotangent<1>(block.count, from, to);
    case 2:
      return WidenCotangent<2>(block.count, from, to);
    case 3:
      return WidenCotangent<3>(block.count, from, to);
    case 4:
      return WidenCotangent<4>(block.count, from, to);
  }
}

// `terms` is the cotangent widened, if the channels are few.
template <int fixed_taps, class T, class U = Accumulator<T>>
void Scatter(const Geometry& geometry, const Block<U>& block, Span span, const T* cotangent,
             const U* terms, Range band, U* sums) {
  const Places<U> places(geometry, block, band);
  switch (geometry.channels) {
    case 1:
      return ScatterFew<fixed_taps, 1>(block, span, places, terms, sums);
    case 2:
      return ScatterFew<fixed_taps, 2>(block, span, places, terms, sums);
    case 3:
    case 4:
      return ScatterFew<fixed_taps, 4>(block, span, places, terms, sums);
    default:
      return ScatterMany<fixed_taps>(block, span, places, cotangent, geometry.channels, sums);
  }
}

// The same for plain points. Neighbouring points add to the same pixels, and each addition would
// wait for the one before. So consecutive additions take points that are a vector's width apart.
template <int ndim, int width, class U>
void ScatterPlain(const Geometry& geometry, const Block<U>& block, Span span, const U* terms,
                  Range band, U* __restrict sums) {
  const PlainRows<ndim> rows(geometry, width);
  const int64_t reach = rows.of(rows.taps - 1) / width;
  const int64_t size = band.last - band.first;
  const U* __restrict weight = block.weight;
  auto add = [&](U* to, int64_t k, int i) STN_INLINE_LAMBDA {
    if constexpr (width == 1) {
      *to += weight[k] * terms[i];
    } else {
      Store<width>(to, Load<width>(to) + weight[k] * Load<width>(terms + i * width));
    }
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = span.first + lane; i < span.last; i += kLanes) {
      const int64_t first = block.pixel[i] - band.first;
      U* to = sums + first * width;
      if (__builtin_expect(first >= 0 && first + reach < size, 1)) {
        for (int tap = 0; tap < rows.taps; ++tap) add(to + rows.of(tap), tap * kBlock + i, i);
        continue;
      }
      for (int tap = 0; tap < rows.taps; ++tap) {
        const int64_t place = first + rows.of(tap) / width;
        if (place >= 0 && place < size) add(to + rows.of(tap), tap * kBlock + i, i);
      }
    }
  }
}

// Of fewer plain points, neighbours follow one another too soon: a load of two pixels that overlaps
// two recent stores waits for both.
constexpr int kFewestOfPairs = 4 * kLanes;

// The same for one channel: a pixel and its right neighbour are added to together.
template <int ndim, class U>
void ScatterPairs(const Geometry& geometry, const Block<U>& block, Span span,
                  const U* __restrict terms, Range band, U* __restrict sums) {
  using V = Vector<U, kLanes>;
  using Pair = Vector<U, 2>;
  const PlainRows<ndim> rows(geometry, 1);
  const int64_t reach = rows.of(rows.taps - 1);
  const int64_t size = band.last - band.first;
  // The cotangent weighted for both pixels of a row, and the weight of each row.
  U pairs[2 * kBlock], row_weight[rows.count][kBlock];
  const U* const* along = block.axis_weight;
  for (int i = span.first; i < span.last; i += kLanes) {
    const V term = Load<kLanes>(terms + i);
    const V left = term * Load<kLanes>(along[ndim - 1] + i);
    const V right = term * Load<kLanes>(along[ndim - 1] + kBlock + i);
    Store<kLanes>(pairs + 2 * i, V(__builtin_shufflevector(left, right, 0, 8, 1, 9, 2, 10, 3, 11)));
    Store<kLanes>(pairs + 2 * i + kLanes,
                  V(__builtin_shufflevector(left, right, 4, 12, 5, 13, 6, 14, 7, 15)));
    for (int row = 0; row < rows.count; ++row) {
      V weight = V{} + 1;
      for (int axis = 0; axis < ndim - 1; ++axis) {
        weight *= Load<kLanes>(along[axis] + (row >> (ndim - 2 - axis) & 1) * kBlock + i);
      }
      Store<kLanes>(row_weight[row] + i, weight);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = span.first + lane; i < span.last; i += kLanes) {
      const int64_t first = block.pixel[i] - band.first;
      U* to = sums + first;
      Pair both;
      std::memcpy(&both, pairs + 2 * i, sizeof(both));
      if (__builtin_expect(first >= 0 && first + reach < size, 1)) {
        // All loads come before the stores: a processor takes rows whose distance is a multiple of
        // 4,096 bytes for the same, and lets a load wait for the store before it.
        Pair sum[rows.count];
        for (int row = 0; row < rows.count; ++row) {
          std::memcpy(&sum[row], to + rows.offset[row], sizeof(Pair));
          sum[row] += row_weight[row][i] * both;
        }
        for (int row = 0; row < rows.count; ++row) {
          std::memcpy(to + rows.offset[row], &sum[row], sizeof(Pair));
        }
        continue;
      }
      for (int row = 0; row < rows.count; ++row) {
        for (int side = 0; side < 2; ++side) {
          const int64_t place = first + rows.offset[row] + side;
          if (place >= 0 && place < size) sums[place] += row_weight[row][i] * both[side];
        }
      }
    }
  }
}

template <int ndim, class U>
void ScatterPlain(const Geometry& geometry, const Block<U>& block, Span span, const U* terms,
                  Range band, U* sums) {
  switch (geometry.channels) {
    case 1:
      if (span.last - span.first >= kFewestOfPairs) {
        return ScatterPairs<ndim>(geometry, block, span, terms, band, sums);
      }
      return ScatterPlain<ndim, 1>(geometry, block, span, terms, band, sums);
    case 2:
      return ScatterPlain<ndim, 2>(geometry, block, span, terms, band, sums);
    default:
      return ScatterPlain<ndim, 4>(geometry, block, span, terms, band, sums);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_SCATTER_H_
