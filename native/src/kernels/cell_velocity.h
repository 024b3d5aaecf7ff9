// The velocity at points, from the polynomial of each cell of a plane lattice.
//
// In a cell, a cubic spline is a polynomial of degree 3 along each axis, with 16 coefficients for each
// coordinate of the velocity. The points of a vector that lie in one cell need no weights, and share
// all coefficients. Otherwise one load gives a coefficient of many cells of a row, out of which each
// point picks its own; mostly the points lie in one row or two.

#ifndef STN_JAX_NATIVE_KERNELS_CELL_VELOCITY_H_
#define STN_JAX_NATIVE_KERNELS_CELL_VELOCITY_H_

#include "cell_sums.h"

namespace stn::STN_VARIANT {

// The most numbers that the polynomials of a field may take.
constexpr int64_t kMostCoefficients = 1 << 16;

template <class U>
class CellVelocity {
 public:
  static constexpr int ndim = 2;

 private:
  using V = Wide<U>;
  using I = WideInt<U>;
  static constexpr int width = kWide<U>;
  static constexpr int numbers = ndim * kFieldTaps * kFieldTaps;  // Coefficients of a cell.
  // Blocks of `width` cells of a row start at every so many cells, a power of 2.
  static constexpr int block_step = width / 2;
  static constexpr int block_shift = width == 16 ? 3 : width == 8 ? 2 : 1;
  static_assert(block_step == 1 << block_shift);

 public:
  // Vectors stored for each vector of points: its position, and the slopes of both coordinates.
  static constexpr int kept = ndim + ndim * ndim;

  // Whether to use the polynomials; for few points they take longer than they save.
  static bool Serves(const Geometry& geometry) {
    if (geometry.ndim != ndim) return false;
    const int64_t all = Cells(geometry, 0) * Blocks(geometry) * numbers * width;
    return all <= kMostCoefficients && all <= 16 * geometry.steps * geometry.points;
  }

  CellVelocity(const Geometry& geometry, const Item& item)
      : field_(geometry, static_cast<const U*>(item.image)),
        sums_(field_, item.d_image != nullptr),
        blocks_(Blocks(geometry)),
        row_step_(blocks_ * numbers * width),
        coefficients_(Cells(geometry, 0) * row_step_) {
    const int rows = static_cast<int>(Cells(geometry, 0)) + kFieldTaps - 1;
    const int cells = static_cast<int>(Cells(geometry, 1));
    constexpr int step = ndim * kFieldTaps * width;
    // The polynomials along x of each row of pixels: [rows][coordinates][powers][cells].
    Buffer<U> along(rows * step);
    for (int64_t block = 0; block < blocks_; ++block) {
      const int first = static_cast<int>(block) * block_step;
      const int count = cells - first < width ? cells - first : width;
      std::memset(along.data(), 0, static_cast<size_t>(rows * step) * sizeof(U));
      for (int r = 0; r < rows; ++r) {
        U* to = along.data() + r * step;
        for (int c = 0; c < ndim; ++c) {
          const U* row = field_.coordinate(1 - c) + r * field_.step(0) + first;
          for (int power = 0; power < kFieldTaps; ++power, to += width) {
            for (int x = 0; x < count; ++x) to[x] = Coefficient(power, row + x, 1);
          }
        }
      }
      for (int y = 0; y + kFieldTaps <= rows; ++y) {
        for (int c = 0; c < ndim; ++c) {
          const U* from = along.data() + y * step + c * kFieldTaps * width;
          for (int power = 0; power < kFieldTaps; ++power) {
            U* to = coefficients_.data() + y * row_step_ + block * numbers * width +
                    Number(c, power, 0);
            for (int i = 0; i < kFieldTaps * width; ++i) to[i] = Coefficient(power, from + i, step);
          }
        }
      }
    }
  }

  // Where a vector of points finds its coefficients.
  struct Spot {
    V t[ndim];     // How far into the cells.
    const U* one;  // The shared cell, the row of cells, or the first of two rows.
    const U* other;
    I number;  // Each point's cell, in both rows or in the whole field.
    enum { kShared, kOneRow, kTwoRows, kByPoint } how;
  };

  STN_INLINE void Find(const V* position, Spot& spot) const {
    const Place<ndim, U> place(field_, position);
    for (int axis = 0; axis < ndim; ++axis) spot.t[axis] = place.t[axis];
    const int64_t y = place.first[0][0], x = place.first[1][0];
    // The block that has the first point's cell in its middle.
    const int64_t middle = x - block_step / 2;
    const int64_t block = blocks_ == 1 || middle < 0 ? 0 : middle >> block_shift;
    const int first = static_cast<int>(block) * block_step;
    const U* from = coefficients_.data() + y * row_step_ + block * numbers * width;
    const I row = place.first[0] - static_cast<int>(y);
    const I column = place.first[1] - first;
    // Points in two rows, the second of which may be the first point's: then others have a negative
    // row, which this bit tells, since rows are few.
    const bool is_second = !NoneHas<U>(row, I{} + (1 << 30));
    const bool is_shared = AllZero<U>(row | (place.first[1] ^ static_cast<int>(x)));
    const bool fits = AllZero<U>((column & ~(width - 1)) | ((row + is_second) & ~1));
    spot.one = is_shared ? from + (x - first) : from - (is_second ? row_step_ : 0);
    spot.other = spot.one + row_step_;
    spot.number = column + (row + is_second) * width;
    if (is_shared) {
      spot.how = Spot::kShared;
    } else if (kPicks<U> && fits) {
      spot.how = AllZero<U>(row) ? Spot::kOneRow : Spot::kTwoRows;
    } else {
      spot.how = Spot::kByPoint;
    }
    if (spot.how == Spot::kByPoint) {
      spot.number = place.first[0] * static_cast<int>(row_step_) + place.first[1];
      // A cell's number in its block is less by the block's first.
      if (blocks_ > 1) {
        spot.number += (place.first[1] >> block_shift) * (numbers * width - block_step);
      }
    }
  }

  STN_INLINE void At(const Spot& spot, V* velocity) const {
    Evaluate<false>(spot, velocity, nullptr);
  }

  // The same, and keeps numbers for `PullBack`.
  STN_INLINE void AtAndKeep(const Spot& spot, V* velocity, V* keep) const {
    Evaluate<true>(spot, velocity, keep + ndim);
  }

  // The gradient to the positions, from that to the velocities there. Puts the terms of the gradient to
  // the field in the place of the slopes.
  STN_INLINE void PullBack(V* keep, const V* of_velocity, V* of_position) const {
    const V* position = keep;
    V* slope = keep + ndim;
    // The velocity at a NaN coordinate has no gradient.
    const auto known = (position[0] == position[0]) & (position[1] == position[1]);
    V term[ndim];
    for (int axis = 0; axis < ndim; ++axis) term[axis] = known ? of_velocity[axis] : V{};
    for (int axis = 0; axis < ndim; ++axis) {
      const auto moves = known & (position[axis] > kLowest) & (position[axis] < field_.high(axis));
      const V sum = term[0] * slope[axis] + term[1] * slope[ndim + axis];
      of_position[axis] = moves ? sum : V{};
    }
    for (int axis = 0; axis < ndim; ++axis) slope[axis] = term[axis];
  }

  // Adds a vector of points at several places to the gradient to the field, after `PullBack`. The kept
  // vectors of one place lie `step` vectors behind those of the one before.
  void AddPlaces(const V* keep, int64_t count, int64_t step) {
    if (sums_.wanted()) sums_.Add(keep, count, step, ndim);
  }

  void WriteSums(const Geometry& geometry, U* out) const { sums_.Write(geometry, out); }

 private:
  static int64_t Cells(const Geometry& geometry, int axis) {
    return geometry.size[axis] + 2 * kBeyond;
  }

  static int64_t Blocks(const Geometry& geometry) {
    const int64_t cells = Cells(geometry, 1);
    return cells <= width ? 1 : ((cells - 1) >> block_shift) + 1;
  }

  // The coefficient of a power in a cell, from the four numbers at its taps.
  STN_INLINE U Coefficient(int power, const U* from, int step) const {
    U sum = field_.coefficients(0)[power] * from[0];
    for (int tap = 1; tap < kFieldTaps; ++tap) {
      sum += field_.coefficients(tap)[power] * from[tap * step];
    }
    return sum;
  }

  // Where the coefficients of y^i x^j start in a block.
  static constexpr int Number(int c, int i, int j) {
    return ((c * kFieldTaps + i) * kFieldTaps + j) * width;
  }

  template <bool with_slopes>
  STN_INLINE void Evaluate(const Spot& spot, V* velocity, V* slope) const {
    if (spot.how == Spot::kShared) {
      const U* cell = spot.one;
      const auto shared = [&](int c, int i, int j) STN_INLINE_LAMBDA {
        return cell[Number(c, i, j)];
      };
      Polynomial<with_slopes>(spot.t, shared, velocity, slope);
    } else if (kPicks<U> && spot.how == Spot::kOneRow) {
      const U* one = spot.one;
      const I number = spot.number;
      const auto picked = [&](int c, int i, int j) STN_INLINE_LAMBDA {
        return Pick<U>(Load<width>(one + Number(c, i, j)), number);
      };
      Polynomial<with_slopes>(spot.t, picked, velocity, slope);
    } else if (kPicks<U> && spot.how == Spot::kTwoRows) {
      const U* one = spot.one;
      const U* other = spot.other;
      const I number = spot.number;
      const auto picked = [&](int c, int i, int j) STN_INLINE_LAMBDA {
        const int start = Number(c, i, j);
        return Pick<U>(Load<width>(one + start), Load<width>(other + start), number);
      };
      Polynomial<with_slopes>(spot.t, picked, velocity, slope);
    } else {
      ByPoint<with_slopes>(spot, velocity, slope);
    }
  }

  template <bool with_slopes>
  __attribute__((noinline)) void ByPoint(const Spot& spot, V* velocity, V* slope) const {
    const auto own = [&](int c, int i, int j) STN_INLINE_LAMBDA {
      return NumbersAt<U>(coefficients_.data() + Number(c, i, j), spot.number);
    };
    Polynomial<with_slopes>(spot.t, own, velocity, slope);
  }

  // The polynomials with the coefficients `at(c, i, j)` of y^i x^j, and their slopes: of each
  // coordinate c along y and along x.
  template <bool with_slopes, class Coefficients>
  static STN_INLINE void Polynomial(const V* t, const Coefficients& at, V* velocity, V* slope) {
    const V y = t[0], x = t[1];
    for (int c = 0; c < ndim; ++c) {
      V value = {}, along_y = {}, along_x = {};
      for (int i = kFieldTaps - 1; i >= 0; --i) {
        V row = x * at(c, i, 3) + at(c, i, 2), tilt = {};
        if (with_slopes) tilt = x * at(c, i, 3) + row;
        row = x * row + at(c, i, 1);
        if (with_slopes) tilt = x * tilt + row;
        row = x * row + at(c, i, 0);
        if (i == kFieldTaps - 1) {
          value = row;
          along_x = tilt;
        } else {
          if (with_slopes) {
            along_y = i == kFieldTaps - 2 ? value : y * along_y + value;
            along_x = y * along_x + tilt;
          }
          value = y * value + row;
        }
      }
      velocity[c] = value;
      if (with_slopes) {
        slope[c * ndim] = along_y;
        slope[c * ndim + 1] = along_x;
      }
    }
  }

  const Field<ndim, U> field_;
  CellSums<U> sums_;
  int64_t blocks_;    // Of a row of cells.
  int64_t row_step_;  // Numbers from a row of cells to the next.
  Buffer<U> coefficients_;  // [rows][blocks][coordinates][powers of y][powers of x][cells]
};

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_CELL_VELOCITY_H_
