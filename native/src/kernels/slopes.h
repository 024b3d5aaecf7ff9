// The gradients to weights and coordinates.
//
// First each pixel that a point has read is multiplied by the cotangent and summed over channels;
// then these products are weighted by the other axes' weights.

#ifndef STN_JAX_NATIVE_KERNELS_SLOPES_H_
#define STN_JAX_NATIVE_KERNELS_SLOPES_H_

#include "scatter.h"

namespace stn::STN_VARIANT {

// Pixel × cotangent; 0 where the cotangent is 0, even if the pixel is NaN or infinite.
template <class V>
STN_INLINE V Product(V cotangent, V pixel) {
  return cotangent * (cotangent == 0 ? V{} : pixel);
}

template <int fixed_taps, class T>
void MultiplyOne(Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
                 const T* cotangent) {
  using U = Accumulator<T>;
  const int count = block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  U* __restrict product = block.product;
  const T* __restrict image = pixels.image();
  const T* __restrict others = pixels.others();
  for (int i = span.first; i < span.last; i += kLanes) {
    const auto factor = i + kLanes <= count ? Load<kLanes>(cotangent + i)
                                            : LoadFirst<kLanes>(cotangent + i, count - i);
    int64_t tap = 0;
    for (; tap + 2 <= taps; tap += 2) {
      const int64_t k = tap * kBlock + i;
      Vector<U, kLanes> left, right;
      TwoTaps(image, others, pixel + k, left, right);
      Store<kLanes>(product + k, Product(factor, left));
      Store<kLanes>(product + k + kBlock, Product(factor, right));
    }
    if (tap < taps) {
      const int64_t k = tap * kBlock + i;
      Store<kLanes>(product + k, Product(factor, OneChannel(image, others, pixel + k)));
    }
  }
}

template <int channels, int fixed_taps, class T>
void MultiplyFew(Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
                 const T* cotangent) {
  using U = Accumulator<T>;
  const int count = block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  U* __restrict product = block.product;
  const Pixels<T> at = pixels;
  Vector<U, 4> channel = {0, 1, 2, 3};
  for (int i = span.first; i < span.last; i += 4) {
    Vector<U, 4> factor[4];
    for (int j = 0; j < 4; ++j) {
      const T* from = cotangent + (i + j) * channels;
      // The last points of the block must not read past their own channels.
      factor[j] = i + j + 1 < count ? (channel < channels ? Load<4>(from) : Vector<U, 4>{})
                                    : LoadFirst<4>(from, i + j < count ? channels : 0);
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k = tap * kBlock + i;
      Vector<U, 4> terms[4];
      for (int j = 0; j < 4; ++j) {
        terms[j] = Product(factor[j], Load<4>(at(pixel[k + j], channels)));
      }
      Store<4>(product + k, Sums<U>(terms[0], terms[1], terms[2], terms[3]));
    }
  }
}

// Four taps share each load of the cotangent.
template <int fixed_taps, class T>
void MultiplyMany(Block<Accumulator<T>>& block, Span span, const Pixels<T>& pixels,
                  int64_t channels, const T* cotangent) {
  using U = Accumulator<T>;
  const int last = span.last < block.count ? span.last : block.count;
  const int64_t taps = Taps<fixed_taps>(block);
  const int32_t* __restrict pixel = block.pixel;
  U* __restrict product = block.product;
  const Pixels<T> at = pixels;
  for (int i = span.first; i < last; ++i) {
    const T* __restrict factor = cotangent + i * channels;
    for (int64_t first = 0; first < taps; first += 4) {
      const int64_t k = first * kBlock + i;
      // If fewer than four taps are left, repeat the last one.
      const T* from[4];
      for (int64_t t = 0; t < 4; ++t) {
        const int64_t tap = first + t < taps ? t : taps - 1 - first;
        from[t] = at(pixel[k + tap * kBlock], channels);
      }
      Vector<U, kLanes> sums[4] = {};
      int64_t c = 0;
      for (; c + kLanes <= channels; c += kLanes) {
        const auto factors = Load<kLanes>(factor + c);
        for (int t = 0; t < 4; ++t) sums[t] += Product(factors, Load<kLanes>(from[t] + c));
      }
      Vector<U, 4> all =
          Sums<U>(Folded<U>(sums[0]), Folded<U>(sums[1]), Folded<U>(sums[2]), Folded<U>(sums[3]));
      for (; c < channels; ++c) {
        const Vector<U, 4> rest = {Widen(from[0][c]), Widen(from[1][c]), Widen(from[2][c]),
                                   Widen(from[3][c])};
        const U f = Widen(factor[c]);
        all += Product(Vector<U, 4>{f, f, f, f}, rest);
      }
      for (int64_t t = 0; t < 4 && first + t < taps; ++t) product[k + t * kBlock] = all[t];
    }
  }
}

// Fills the block's products.
template <int fixed_taps, class T>
void Multiply(const Geometry& geometry, Block<Accumulator<T>>& block, Span span,
              const Pixels<T>& pixels, const T* cotangent) {
  switch (geometry.channels) {
    case 1:
      return MultiplyOne<fixed_taps>(block, span, pixels, cotangent);
    case 2:
      return MultiplyFew<2, fixed_taps>(block, span, pixels, cotangent);
    case 3:
      return MultiplyFew<3, fixed_taps>(block, span, pixels, cotangent);
    case 4:
      return MultiplyFew<4, fixed_taps>(block, span, pixels, cotangent);
    default:
      return MultiplyMany<fixed_taps>(block, span, pixels, geometry.channels, cotangent);
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

// The gradients to the coordinates under a polynomial kernel, [axes][kBlock]: the gradient to each
// weight times the weight's slope.
template <class U>
void PolynomialSlopes(const Geometry& geometry, const Block<U>& block, U* slopes) {
  U sums[kMaxTaps * kBlock];
  for (int axis = 0; axis < geometry.ndim; ++axis) {
    U* __restrict to = slopes + axis * kBlock;
    WeightGradient(geometry, block, axis, sums);
    for (int i = 0; i < block.filled; ++i) to[i] = 0;
    for (int64_t tap = 0; tap < geometry.taps[axis]; ++tap) {
      const U* __restrict from = sums + tap * kBlock;
      const U* __restrict slope = block.axis_slope[axis] + tap * kBlock;
      const U* __restrict moves = block.moves[axis];
      for (int i = 0; i < block.filled; ++i) {
        const U term = slope[i] * from[i];
        to[i] += moves[i] != 0 && Counts(slope[i]) ? term : 0;
      }
    }
  }
}

// The gradient to one axis's coordinates under the linear kernel: the products at the upper taps
// minus those at the lower, weighted by the other axes. Products of weight 0 or NaN are left out.
template <int axis, int ndim, class U>
void LinearSlopes(const Block<U>& block, Span span, U* __restrict slopes) {
  constexpr int taps = 1 << ndim;
  constexpr int step = 1 << (ndim - 1 - axis);  // From a combination to that with the upper tap.
  const U* __restrict product = block.product;
  const U* __restrict moves = block.moves[axis];
  const U* __restrict weight[kMaxNdim];
  for (int a = 0; a < ndim; ++a) weight[a] = block.axis_weight[a];
  ForPoints(span, [&](int i) STN_INLINE_LAMBDA {
    U slope = 0;
    for (int tap = 0; tap < taps; ++tap) {
      if ((tap & step) != 0) continue;
      U others = 1;
      for (int a = 0; a < ndim; ++a) {
        if (a != axis) others *= weight[a][(tap >> (ndim - 1 - a) & 1) * kBlock + i];
      }
      // Linear weights are not negative.
      const U upper = others * product[(tap + step) * kBlock + i];
      const U term = upper - others * product[tap * kBlock + i];
      slope += others > 0 ? term : 0;
    }
    slopes[i] = moves[i] != 0 ? slope : 0;
  });
}

template <class U>
void LinearSlopes(int ndim, int axis, const Block<U>& block, Span span, U* slopes) {
  switch (ndim * kMaxNdim + axis) {
    case 1 * kMaxNdim:
      return LinearSlopes<0, 1>(block, span, slopes);
    case 2 * kMaxNdim:
      return LinearSlopes<0, 2>(block, span, slopes);
    case 2 * kMaxNdim + 1:
      return LinearSlopes<1, 2>(block, span, slopes);
    case 3 * kMaxNdim:
      return LinearSlopes<0, 3>(block, span, slopes);
    case 3 * kMaxNdim + 1:
      return LinearSlopes<1, 3>(block, span, slopes);
    default:
      return LinearSlopes<2, 3>(block, span, slopes);
  }
}

// Calls `body` with each axis as a compile-time constant.
template <int ndim, class Body>
STN_INLINE void ForAxes(const Body& body) {
  body(std::integral_constant<int, 0>());
  if constexpr (ndim > 1) body(std::integral_constant<int, 1>());
  if constexpr (ndim > 2) body(std::integral_constant<int, 2>());
}

// The same for all axes at once, for images of one channel, without storing the products. `slopes`
// is [axes][kBlock].
template <int ndim, class T, class U = Accumulator<T>>
void SlopesOne(const Block<U>& block, Span span, const Pixels<T>& pixels, const T* cotangent,
               U* __restrict slopes) {
  using V = Vector<U, kLanes>;
  constexpr int taps = 1 << ndim;
  for (int i = span.first; i < span.last; i += kLanes) {
    const V factor = i + kLanes <= block.count ? Load<kLanes>(cotangent + i)
                                               : LoadFirst<kLanes>(cotangent + i, block.count - i);
    V product[taps];
    for (int tap = 0; tap < taps; tap += 2) {
      V left, right;
      TwoTaps(pixels.image(), pixels.others(), block.pixel + tap * kBlock + i, left, right);
      product[tap] = Product(factor, left);
      product[tap + 1] = Product(factor, right);
    }
    ForAxes<ndim>([&](auto axis) {
      constexpr int step = 1 << (ndim - 1 - axis);
      V slope = {};
      for (int tap = 0; tap < taps; ++tap) {
        if ((tap & step) != 0) continue;
        V others = V{} + 1;
        for (int a = 0; a < ndim; ++a) {
          if (a == axis) continue;
          const int side = tap >> (ndim - 1 - a) & 1;
          others *= Load<kLanes>(block.axis_weight[a] + side * kBlock + i);
        }
        const V term = others * product[tap + step] - others * product[tap];
        slope += others > 0 ? term : V{};
      }
      const V moves = Load<kLanes>(block.moves[axis] + i);
      Store<kLanes>(slopes + axis * kBlock + i, moves != 0 ? slope : V{});
    });
  }
}

// The same for plain points.

// Pixels at the upper taps of an axis minus those at the lower, weighted by the other axes.
template <int axis, int ndim, class V, class Pixel, class Weight>
STN_INLINE V Slope(const Pixel& pixel, const Weight& weight) {
  constexpr int step = 1 << (ndim - 1 - axis);
  V slope = {};
  for (int tap = 0; tap < 1 << ndim; ++tap) {
    if ((tap & step) != 0) continue;
    V term = pixel(tap + step) - pixel(tap);
    if constexpr (ndim == 1) return term;
    for (int a = 0; a < ndim; ++a) {
      if (a != axis) term *= weight(a, tap >> (ndim - 1 - a) & 1);
    }
    slope += term;
  }
  return slope;
}

template <int ndim, class T, class U = Accumulator<T>>
void SlopesPlainOne(const Block<U>& block, Span span, const PlainRows<ndim>& rows, const T* image,
                    const T* cotangent, U* __restrict slopes) {
  using V = Vector<U, kLanes>;
  for (int i = span.first; i < span.last; i += kLanes) {
    V values[rows.taps] = {};
    PlainPixels(image, block.pixel + i, rows, values);
    const V factor = Load<kLanes>(cotangent + i);
    ForAxes<ndim>([&](auto axis) {
      const V slope = Slope<axis, ndim, V>(
          [&](int tap) { return values[tap]; },
          [&](int a, int tap) { return Load<kLanes>(block.axis_weight[a] + tap * kBlock + i); });
      Store<kLanes>(slopes + axis * kBlock + i, Product(factor, slope));
    });
  }
}

template <int ndim, int channels, class T, class U = Accumulator<T>>
void SlopesPlainFew(const Block<U>& block, Span span, const PlainRows<ndim>& rows, const T* image,
                    const T* cotangent, U* __restrict slopes) {
  using V = Vector<U, 4>;
  const V channel = {0, 1, 2, 3};
  for (int i = span.first; i < span.last; i += 4) {
    V terms[ndim][4];
    for (int j = 0; j < 4; ++j) {
      const int k = i + j;
      const T* from = image + static_cast<int64_t>(block.pixel[k]) * channels;
      const V all = Load<4>(cotangent + k * channels);
      const V factor = channel < channels ? all : V{};
      ForAxes<ndim>([&](auto axis) {
        const V slope = Slope<axis, ndim, V>(
            [&](int tap) { return Load<4>(from + rows.of(tap)); },
            [&](int a, int tap) { return block.axis_weight[a][tap * kBlock + k]; });
        terms[axis][j] = Product(factor, slope);
      });
    }
    for (int axis = 0; axis < ndim; ++axis) {
      const V* t = terms[axis];
      Store<4>(slopes + axis * kBlock + i, Sums<U>(t[0], t[1], t[2], t[3]));
    }
  }
}

template <int ndim, class T, class U = Accumulator<T>>
void SlopesPlain(const Geometry& geometry, const Block<U>& block, Span span,
                 const Pixels<T>& pixels, const T* cotangent, U* slopes) {
  const PlainRows<ndim> rows(geometry, geometry.channels);
  switch (geometry.channels) {
    case 1:
      return SlopesPlainOne(block, span, rows, pixels.image(), cotangent, slopes);
    case 2:
      return SlopesPlainFew<ndim, 2>(block, span, rows, pixels.image(), cotangent, slopes);
    case 3:
      return SlopesPlainFew<ndim, 3>(block, span, rows, pixels.image(), cotangent, slopes);
    case 4:
      return SlopesPlainFew<ndim, 4>(block, span, rows, pixels.image(), cotangent, slopes);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_SLOPES_H_
