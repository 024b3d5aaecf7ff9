// The gradients to weights and coordinates.
//
// First each pixel that a point has read is multiplied by the cotangent and summed over channels;
// then these products are weighted by the other axes' weights.

#ifndef STN_JAX_NATIVE_KERNELS_SLOPES_H_
#define STN_JAX_NATIVE_KERNELS_SLOPES_H_

#include "scatter.h"

namespace stn::STN_VARIANT {

// Pixel × cotangent, and 0 where the cotangent is, be the pixel NaN or infinite.
template <class V>
STN_INLINE V Product(V cotangent, V pixel) {
  return cotangent == 0 ? V{} : cotangent * pixel;
}

template <int fixed_taps, class T>
void MultiplyOne(Block<Accumulator<T>>& block, const Pixels<T>& pixels, const T* cotangent) {
  for (int i = 0; i < block.filled; i += kLanes) {
    const auto factor = i + kLanes <= block.count
                            ? Load<kLanes>(cotangent + i)
                            : LoadFirst<kLanes>(cotangent + i, block.count - i);
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      Store<kLanes>(block.product + k, Product(factor, OneChannel(pixels, block.pixel + k)));
    }
  }
}

template <int channels, int fixed_taps, class T>
void MultiplyFew(Block<Accumulator<T>>& block, const Pixels<T>& pixels, const T* cotangent) {
  using U = Accumulator<T>;
  for (int i = 0; i < block.filled; i += 4) {
    Vector<U, 4> factor[4];
    for (int j = 0; j < 4; ++j) {
      factor[j] = i + j < block.count ? LoadFirst<4>(cotangent + (i + j) * channels, channels)
                                      : Vector<U, 4>{};
    }
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      Vector<U, 4> terms[4];
      for (int j = 0; j < 4; ++j) {
        terms[j] = Product(factor[j], Load<4>(pixels.at(block.pixel[k + j], channels)));
      }
      Store<4>(block.product + k, Sums<U>(terms[0], terms[1], terms[2], terms[3]));
    }
  }
}

template <int fixed_taps, class T>
void MultiplyMany(Block<Accumulator<T>>& block, const Pixels<T>& pixels, int64_t channels,
                  const T* cotangent) {
  using U = Accumulator<T>;
  for (int i = 0; i < block.count; ++i) {
    const T* __restrict factor = cotangent + i * channels;
    for (int64_t tap = 0; tap < Taps<fixed_taps>(block); ++tap) {
      const int64_t k = tap * kBlock + i;
      const T* __restrict from = pixels.at(block.pixel[k], channels);
      Vector<U, kLanes> sums = {};
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        sums += Product(Load<kLanes>(factor + c), Load<kLanes>(from + c));
      }
      U sum = Sum<U>(sums);
      for (; c < channels; ++c) sum += Product(Widen(factor[c]), Widen(from[c]));
      block.product[k] = sum;
    }
  }
}

// Fills the block's products. Sends reads of the last pixel to its copy.
template <int fixed_taps, class T>
void Multiply(const Geometry& geometry, Block<Accumulator<T>>& block, const Pixels<T>& pixels,
              const T* cotangent) {
  switch (geometry.channels) {
    case 1:
      return MultiplyOne<fixed_taps>(block, pixels, cotangent);
    case 2:
      RedirectLast(geometry, block);
      return MultiplyFew<2, fixed_taps>(block, pixels, cotangent);
    case 3:
      RedirectLast(geometry, block);
      return MultiplyFew<3, fixed_taps>(block, pixels, cotangent);
    case 4:
      return MultiplyFew<4, fixed_taps>(block, pixels, cotangent);
    default:
      return MultiplyMany<fixed_taps>(block, pixels, geometry.channels, cotangent);
  }
}

// Sums of the products by the tap along one axis, weighted by the other axes: the gradient to that
// axis's weights, [taps of the axis][kBlock]. Products whose weight is 0 or NaN are left out.
template <int axis, int ndim, class U>
void WeightGradient(const Geometry& geometry, const Block<U>& block, U* sums) {
  const int filled = block.filled;
  for (int64_t i = 0; i < geometry.taps[axis] * kBlock; ++i) sums[i] = 0;
  int64_t taps[kMaxNdim] = {1, 1, 1};
  for (int a = 0; a < ndim; ++a) taps[a] = geometry.taps[a];
  const U* __restrict product = block.product;
  int64_t tap[kMaxNdim];
  for (tap[0] = 0; tap[0] < taps[0]; ++tap[0]) {
    for (tap[1] = 0; tap[1] < taps[1]; ++tap[1]) {
      for (tap[2] = 0; tap[2] < taps[2]; ++tap[2]) {
        U* __restrict to = sums + tap[axis] * kBlock;
        const U* __restrict weight[kMaxNdim] = {};
        for (int a = 0; a < ndim; ++a) weight[a] = block.axis_weight[a] + tap[a] * kBlock;
        for (int i = 0; i < filled; ++i) {
          U others = 1;
          for (int a = 0; a < ndim; ++a) {
            if (a != axis) others *= weight[a][i];
          }
          const U term = others * product[i];
          to[i] += Counts(others) ? term : 0;
        }
        product += kBlock;
      }
    }
  }
}

template <int ndim, class U>
void WeightGradient(const Geometry& geometry, const Block<U>& block, int axis, U* sums) {
  if (axis == 0) return WeightGradient<0, ndim>(geometry, block, sums);
  if constexpr (ndim > 1) {
    if (axis == 1) return WeightGradient<1, ndim>(geometry, block, sums);
  }
  if constexpr (ndim > 2) return WeightGradient<2, ndim>(geometry, block, sums);
}

template <class U>
void WeightGradient(const Geometry& geometry, const Block<U>& block, int axis, U* sums) {
  switch (geometry.ndim) {
    case 1:
      return WeightGradient<1>(geometry, block, axis, sums);
    case 2:
      return WeightGradient<2>(geometry, block, axis, sums);
    default:
      return WeightGradient<3>(geometry, block, axis, sums);
  }
}

// Writes the gradient to one axis's coordinates or weights at the points from `first` on.
template <class U>
void WriteSourceGradient(const Geometry& geometry, const Block<U>& block, int axis, int64_t first,
                         U* sums, U* out) {
  if (!geometry.from_coordinates) {
    WeightGradient(geometry, block, axis, sums);
    for (int64_t tap = 0; tap < geometry.taps[axis]; ++tap) {
      std::memcpy(out + tap * geometry.points + first, sums + tap * kBlock,
                  static_cast<size_t>(block.count) * sizeof(U));
    }
  } else if (geometry.kernel == Kernel::kNearest) {
    for (int i = 0; i < block.count; ++i) out[first + i] = 0;
  } else {
    WeightGradient(geometry, block, axis, sums);
    const U* __restrict moves = block.moves[axis];
    for (int i = 0; i < block.count; ++i) {
      out[first + i] = moves[i] != 0 ? sums[kBlock + i] - sums[i] : 0;
    }
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_SLOPES_H_
