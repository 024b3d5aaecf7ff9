// Coordinates of the points of a regular lattice that an affine map has moved, and the gradient to
// the map's matrix.
//
// Coordinates are rounded as stn_jax rounds them: one within rounding error of a whole or half pixel
// is set to that pixel.

#ifndef STN_JAX_NATIVE_KERNELS_AFFINE_H_
#define STN_JAX_NATIVE_KERNELS_AFFINE_H_

#include <limits>

#include "block.h"

namespace stn::STN_VARIANT {

static_assert(kLanes - 1 <= kOverrun, "Whole vectors are read and written past the last point.");

// The nearest whole numbers, ties to even.
#if defined(__SSE4_1__) || defined(__ARM_NEON)
STN_INLINE float Rint(float value) { return __builtin_rintf(value); }
STN_INLINE double Rint(double value) { return __builtin_rint(value); }
template <class V>
STN_INLINE V Rint(V values) {
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = Rint(values[lane]);
  return values;
}
#else
// The baseline instruction set does not round to whole numbers. From `bound` on all numbers are
// whole, so the sum with it is rounded to one.
template <class V>
STN_INLINE V Rint(V values) {
  using U = std::remove_reference_t<decltype(values[0])>;
  constexpr U bound = 1 / std::numeric_limits<U>::epsilon();
  const V shift = values < 0 ? V{} - bound : V{} + bound;
  const V size = values < 0 ? -values : values;
  return size < bound ? (values + shift) - shift : values;
}
#endif

// The lattice in the type of coordinates.
template <int ndim, class U>
struct LatticeOf {
  const U* normalized[ndim];  // Along each axis, in array order.
  const U* pixel[ndim];
  U scale[ndim];     // Pixels of the image in a unit of length.
  U rounding[ndim];  // The rounding error of a coordinate at pixel 0.

  explicit LatticeOf(const Lattice& lattice) {
    constexpr U eps = std::numeric_limits<U>::epsilon();
    for (int axis = 0; axis < ndim; ++axis) {
      normalized[axis] = static_cast<const U*>(lattice.normalized[axis]);
      pixel[axis] = static_cast<const U*>(lattice.pixel[axis]);
      scale[axis] = static_cast<U>(lattice.scale[axis]);
      rounding[axis] = static_cast<U>(lattice.rounding_length[axis]) * (eps / 2);
    }
  }
};

// Calls `body(first, x, count, outer)` for each row of points of a range: the number of its first
// point, counted from the start of the range, that point's index along the last axis, the number of
// points, and the row's indices along the other axes.
template <int ndim, class Body>
STN_INLINE void ForRows(const Lattice& lattice, Range points, const Body& body) {
  const int64_t width = lattice.size[ndim - 1];
  int64_t outer[ndim] = {}, row = points.first / width, x = points.first % width;
  for (int axis = ndim - 2; axis >= 0; --axis) {
    outer[axis] = row % lattice.size[axis];
    row /= lattice.size[axis];
  }
  const int64_t all = points.last - points.first;
  for (int64_t point = 0; point < all; x = 0) {
    const int64_t count = width - x < all - point ? width - x : all - point;
    body(point, x, count, outer);
    point += count;
    for (int axis = ndim - 2; axis >= 0 && ++outer[axis] == lattice.size[axis]; --axis) {
      outer[axis] = 0;
    }
  }
}

// A coordinate from the displacement of its lattice point, in normalised units.
template <class V, class U>
STN_INLINE V Moved(V displacement, V pixel, U scale, U rounding) {
  // Products stay finite, and far outside.
  constexpr U farthest = static_cast<U>(int64_t{1} << 60);
  V product = (displacement < -farthest ? V{} - farthest : displacement) * scale;
  product = product > farthest ? V{} + farthest : product;
  const V sum = pixel + product;
  const V nearest = Rint(V(sum + sum)) * static_cast<U>(0.5);
  const V error = sum - nearest;
  const V size = sum < 0 ? -sum : sum;
  const V noise = size * std::numeric_limits<U>::epsilon() + rounding;
  return (error < 0 ? -error : error) <= noise ? nearest : sum;
}

// The coordinates of a row of points along one axis. `x` has their normalised coordinates along the
// last axis, `term` is the part of the displacement that the other axes give, one for each, and
// `pixel(i)` the unmoved pixels from the i-th point on.
template <int ndim, class U, class Pixel>
STN_INLINE void MoveRow(const U* row, const U* x, const U* term, const Pixel& pixel, int64_t count,
                        U scale, U rounding, U* out) {
  using V = Vector<U, kLanes>;
  // Whole vectors: the next row overwrites what lies behind this one.
  for (int64_t i = 0; i < count; i += kLanes) {
    V displacement = row[ndim] + row[0] * Load<kLanes>(x + i);
    for (int k = 1; k < ndim; ++k) displacement += term[k];
    Store<kLanes>(out + i, Moved(displacement, V(pixel(i)), scale, rounding));
  }
}

// Row `k` of the matrix [ndim, ndim + 1] gives coordinate k, x first; its last entry is constant.
template <int ndim, class U>
void Coordinates(const Lattice& all, const void* matrix, Range points, void* const* coordinates) {
  using V = Vector<U, kLanes>;
  const LatticeOf<ndim, U> lattice(all);
  const U* rows = static_cast<const U*>(matrix);
  ForRows<ndim>(all, points, [&](int64_t first, int64_t x, int64_t count, const int64_t* outer) {
    const U* normalized = lattice.normalized[ndim - 1] + x;
    for (int axis = 0; axis < ndim; ++axis) {
      const U* row = rows + (ndim - 1 - axis) * (ndim + 1);
      U* out = static_cast<U*>(coordinates[axis]) + first;
      const U scale = lattice.scale[axis], rounding = lattice.rounding[axis];
      U term[ndim] = {};
      for (int k = 1; k < ndim; ++k) {
        const int other = ndim - 1 - k;
        term[k] = row[k] * lattice.normalized[other][outer[other]];
      }
      if (axis == ndim - 1) {
        const U* pixel = lattice.pixel[axis] + x;
        MoveRow<ndim>(row, normalized, term,
                      [&](int64_t i) STN_INLINE_LAMBDA { return Load<kLanes>(pixel + i); }, count,
                      scale, rounding, out);
      } else {
        const V pixel = V{} + lattice.pixel[axis][outer[axis]];
        MoveRow<ndim>(row, normalized, term, [&](int64_t) STN_INLINE_LAMBDA { return pixel; },
                      count, scale, rounding, out);
      }
    }
  });
}

// The gradient to the matrix, from those to the coordinates of some points.
template <int ndim, class U>
void MatrixGradient(const Lattice& all, const void* const* slopes, Range points, void* gradient) {
  using V = Vector<U, kLanes>;
  const LatticeOf<ndim, U> lattice(all);
  V sums[ndim][ndim + 1] = {};
  ForRows<ndim>(all, points, [&](int64_t first, int64_t x, int64_t count, const int64_t* outer) {
    for (int axis = 0; axis < ndim; ++axis) {
      const U* from = static_cast<const U*>(slopes[axis]) + first;
      V sum = {}, sum_times_x = {};
      int64_t i = 0;
      for (; i + kLanes <= count; i += kLanes) {
        const V slope = Load<kLanes>(from + i);
        sum += slope;
        sum_times_x += slope * Load<kLanes>(lattice.normalized[ndim - 1] + x + i);
      }
      if (i < count) {
        const V slope = LoadFirst<kLanes>(from + i, count - i);
        sum += slope;
        sum_times_x += slope * Load<kLanes>(lattice.normalized[ndim - 1] + x + i);
      }
      V* row = sums[ndim - 1 - axis];
      row[0] += sum_times_x;
      row[ndim] += sum;
      for (int k = 1; k < ndim; ++k) {
        const int other = ndim - 1 - k;
        row[k] += sum * lattice.normalized[other][outer[other]];
      }
    }
  });
  U* out = static_cast<U*>(gradient);
  for (int k = 0; k < ndim; ++k) {
    for (int j = 0; j <= ndim; ++j) {
      out[k * (ndim + 1) + j] = SumOf<U, kLanes>(sums[k][j]) * lattice.scale[ndim - 1 - k];
    }
  }
}

template <class U>
void Coordinates(const Geometry& geometry, const Lattice& lattice, const void* matrix, Range points,
                 void* const* coordinates) {
  switch (geometry.ndim) {
    case 1:
      return Coordinates<1, U>(lattice, matrix, points, coordinates);
    case 2:
      return Coordinates<2, U>(lattice, matrix, points, coordinates);
    default:
      return Coordinates<3, U>(lattice, matrix, points, coordinates);
  }
}

template <class U>
void MatrixGradient(const Geometry& geometry, const Lattice& lattice, const void* const* slopes,
                    Range points, void* gradient) {
  switch (geometry.ndim) {
    case 1:
      return MatrixGradient<1, U>(lattice, slopes, points, gradient);
    case 2:
      return MatrixGradient<2, U>(lattice, slopes, points, gradient);
    default:
      return MatrixGradient<3, U>(lattice, slopes, points, gradient);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_AFFINE_H_
