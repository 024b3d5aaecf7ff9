// The velocity at points, from the pixels of a lattice around each.
//
// A vector of points mostly lies in few cells of the lattice: then one load of each row of the lattice
// serves all of them, and each picks its pixels out of the register. Other vectors read pixel by
// pixel. Pixels of a row that a point does not need have weight 0, so the field must be finite.

#ifndef STN_JAX_NATIVE_KERNELS_LATTICE_VELOCITY_H_
#define STN_JAX_NATIVE_KERNELS_LATTICE_VELOCITY_H_

#include "field.h"

namespace stn::STN_VARIANT {

// Of the axes but the last, by how many cells the points of a vector may differ at most.
constexpr int kMostSpread = 4;

// Consecutive pixels along an axis that include the taps of all points of a vector, and their weights:
// for a point whose tap a pixel is not, 0.
template <class U, int most>
struct SharedTaps {
  using V = Wide<U>;
  int lowest;  // The first of these pixels.
  int count;
  V weight[most], slope[most];
};

template <int n, class U>
class LatticeVelocity {
 public:
  static constexpr int ndim = n;

 private:
  using V = Wide<U>;
  using I = WideInt<U>;
  static constexpr int last = ndim - 1;
  static constexpr int width = kWide<U>;
  // Cells by which the points of a vector may differ along the last axis.
  static constexpr int most_columns = kPicks<U> ? width : kFieldTaps;
  static constexpr int most_rows = kFieldTaps + kMostSpread;

 public:
  // Vectors that are kept of a vector of points: the position.
  static constexpr int kept = ndim;

  LatticeVelocity(const Geometry& geometry, const Item& item)
      : field_(geometry, static_cast<const U*>(item.image)),
        sums_(field_, item.d_image != nullptr) {}

  struct Spot {
    V position[ndim];
  };

  STN_INLINE void Find(const V* position, Spot& spot) const {
    for (int axis = 0; axis < ndim; ++axis) spot.position[axis] = position[axis];
  }

  STN_INLINE void At(const Spot& spot, V* velocity) const {
    const Located<ndim, U, false> cells(field_, spot.position);
    int lowest;
    Rows rows;
    if (!kPicks<U> || !FitRegister(cells, lowest) || !ShareRows<false>(cells, rows)) {
      return VelocityByPoint(cells, velocity);
    }
    const I offset = cells.first[last] - lowest;
    for (int c = 0; c < ndim; ++c) {
      // The x axis is the last.
      const U* field = field_.coordinate(last - c);
      V sum = {};
      for (int p = 0; p < rows.plane.count; ++p) {
        V plane = {};
        for (int r = 0; r < rows.row.count; ++r) {
          const V row = Load<width>(field + RowStart(rows, p, r) + lowest);
          V along = cells.weight[last][0] * Pick<U>(row, offset);
          for (int tap = 1; tap < kFieldTaps; ++tap) {
            along += cells.weight[last][tap] * Pick<U>(row, offset + tap);
          }
          plane += rows.row.weight[r] * along;
        }
        sum = ndim == 3 ? sum + rows.plane.weight[p] * plane : plane;
      }
      velocity[c] = sum;
    }
  }

  STN_INLINE void AtAndKeep(const Spot& spot, V* velocity, V*) const { At(spot, velocity); }

  // The gradient to the positions, from that to the velocities there. Adds to the gradient to the field.
  STN_INLINE void PullBack(const V* position, const V* of_velocity, V* of_position) {
    // The velocity at a NaN coordinate has no gradient.
    auto known = position[0] == position[0];
    for (int axis = 1; axis < ndim; ++axis) known &= position[axis] == position[axis];
    V place[ndim], term[ndim];
    for (int axis = 0; axis < ndim; ++axis) {
      place[axis] = known ? position[axis] : V{};
      term[axis] = known ? of_velocity[axis] : V{};
    }
    const Located<ndim, U, true> cells(field_, place);
    Rows rows;
    SharedTaps<U, most_columns> columns;
    if (kPicks<U> && ShareRows<true>(cells, rows) && ShareTaps<false>(cells, last, columns)) {
      SlopesOfRows(cells, rows, columns.lowest, term, of_position);
      if (sums_.wanted()) AddRows(rows, columns, term);
    } else {
      PullByPoint(cells, term, of_position);
    }
    for (int axis = 0; axis < ndim; ++axis) {
      const auto moves = known & (position[axis] > kLowest) & (position[axis] < field_.high(axis));
      of_position[axis] = moves ? of_position[axis] : V{};
    }
  }

  void AddPlaces(const V*, int64_t, int64_t) {}

  void WriteSums(const Geometry& geometry, U* out) const { sums_.Write(geometry, out); }

 private:
  // The rows of a vector's points along the axes but the last.
  struct Rows {
    SharedTaps<U, most_rows> plane, row;  // Of two axes, `plane` has one pixel of weight 1.
  };

  // Finds the pixels that include all taps along an axis; false if these are too many.
  template <bool with_slopes, class Cells, int most>
  STN_INLINE bool ShareTaps(const Cells& cells, int axis, SharedTaps<U, most>& span) const {
    const I first = cells.first[axis];
    if (AllSame<U>(first)) {
      span.lowest = static_cast<int>(first[0]);
      span.count = kFieldTaps;
      for (int tap = 0; tap < kFieldTaps; ++tap) {
        span.weight[tap] = cells.weight[axis][tap];
        if (with_slopes) span.slope[tap] = cells.slope[axis][tap];
      }
      return true;
    }
    int highest;
    Extremes<U>(first, span.lowest, highest);
    span.count = highest - span.lowest + kFieldTaps;
    if (span.count > most) return false;
    const I offset = first - span.lowest;
    SpreadTaps<U>(offset, cells.weight[axis], span.count, span.weight);
    if (with_slopes) SpreadTaps<U>(offset, cells.slope[axis], span.count, span.slope);
    return true;
  }

  template <bool with_slopes, class Cells>
  STN_INLINE bool ShareRows(const Cells& cells, Rows& rows) const {
    if constexpr (ndim == 3) {
      return ShareTaps<with_slopes>(cells, 0, rows.plane) &&
             ShareTaps<with_slopes>(cells, 1, rows.row);
    }
    rows.plane.lowest = 0;
    rows.plane.count = 1;
    rows.plane.weight[0] = V{} + 1;
    return ShareTaps<with_slopes>(cells, 0, rows.row);
  }

  STN_INLINE int64_t RowStart(const Rows& rows, int p, int r) const {
    const int64_t plane = ndim == 3 ? int64_t{rows.plane.lowest + p} * field_.step(0) : 0;
    return plane + int64_t{rows.row.lowest + r} * field_.step(last - 1);
  }

  // Finds the first pixel of a register that holds, of a row, the taps of all points; false if there
  // is none.
  template <class Cells>
  STN_INLINE bool FitRegister(const Cells& cells, int& lowest) const {
    lowest = 0;
    if (field_.fits_register()) return true;
    const I first = cells.first[last];
    int highest;
    Extremes<U>(first, lowest, highest);
    return highest - lowest + kFieldTaps <= width;
  }

  // The number in the field of each point's first pixel of a row of its cell.
  template <class Cells>
  STN_INLINE I RowOfPoint(const Cells& cells, int p, int r) const {
    I number = cells.first[last] + (cells.first[last - 1] + r) * field_.step(last - 1);
    if constexpr (ndim == 3) number += (cells.first[0] + p) * field_.step(0);
    return number;
  }

  template <class Cells>
  __attribute__((noinline)) void VelocityByPoint(const Cells& cells, V* velocity) const {
    for (int c = 0; c < ndim; ++c) {
      const U* field = field_.coordinate(last - c);
      V sum = {};
      for (int p = 0; p < (ndim == 3 ? kFieldTaps : 1); ++p) {
        V plane = {};
        for (int r = 0; r < kFieldTaps; ++r) {
          const I number = RowOfPoint(cells, p, r);
          V along = {};
          for (int tap = 0; tap < kFieldTaps; ++tap) {
            along += cells.weight[last][tap] * NumbersAt<U>(field, number + tap);
          }
          plane += cells.weight[last - 1][r] * along;
        }
        sum = ndim == 3 ? sum + cells.weight[0][p] * plane : plane;
      }
      velocity[c] = sum;
    }
  }

  // Sums over the taps of a row: with the weights along it, and with their slopes.
  struct AlongRow {
    V value = {}, slope = {};

    template <class Cells>
    STN_INLINE void Add(const Cells& cells, int tap, V pixel) {
      value += cells.weight[last][tap] * pixel;
      slope += cells.slope[last][tap] * pixel;
    }
  };

  // The slopes along all axes, summed row by row.
  struct Slopes {
    V along[ndim] = {};

    STN_INLINE void AddRow(const AlongRow& row, V weight, V slope) {
      along[last - 1] += slope * row.value;
      along[last] += weight * row.slope;
    }

    // Of a plane, from sums over its rows: with weights, with slopes, and of the rows' slopes.
    STN_INLINE void AddPlane(const Slopes& plane, V value, V weight, V slope) {
      along[0] += slope * value;
      along[last - 1] += weight * plane.along[last - 1];
      along[last] += weight * plane.along[last];
    }
  };

  template <class Cells>
  STN_INLINE void SlopesOfRows(const Cells& cells, const Rows& rows, int lowest, const V* term,
                               V* of_position) const {
    const I offset = cells.first[last] - lowest;
    Slopes sum;
    for (int p = 0; p < rows.plane.count; ++p) {
      Slopes plane;
      V value = {};
      for (int r = 0; r < rows.row.count; ++r) {
        const U* from = field_.coordinate(0) + RowStart(rows, p, r) + lowest;
        V row[ndim];
        for (int c = 0; c < ndim; ++c) row[c] = Load<width>(from + (last - c) * field_.numbers());
        AlongRow along;
        for (int tap = 0; tap < kFieldTaps; ++tap) {
          V pixel = term[0] * Pick<U>(row[0], offset + tap);
          for (int c = 1; c < ndim; ++c) pixel += term[c] * Pick<U>(row[c], offset + tap);
          along.Add(cells, tap, pixel);
        }
        plane.AddRow(along, rows.row.weight[r], rows.row.slope[r]);
        if (ndim == 3) value += rows.row.weight[r] * along.value;
      }
      if constexpr (ndim == 3) {
        sum.AddPlane(plane, value, rows.plane.weight[p], rows.plane.slope[p]);
      } else {
        sum = plane;
      }
    }
    for (int axis = 0; axis < ndim; ++axis) of_position[axis] = sum.along[axis];
  }

  STN_INLINE void AddRows(const Rows& rows, const SharedTaps<U, most_columns>& columns,
                          const V* term) {
    for (int p = 0; p < rows.plane.count; ++p) {
      for (int r = 0; r < rows.row.count; ++r) {
        const V weight = ndim == 3 ? rows.plane.weight[p] * rows.row.weight[r] : rows.row.weight[r];
        V* sums = sums_.at(RowStart(rows, p, r) + columns.lowest);
        for (int k = 0; k < columns.count; ++k) {
          const V product = weight * columns.weight[k];
          for (int axis = 0; axis < ndim; ++axis) sums[k * ndim + axis] += product * term[axis];
        }
      }
    }
  }

  template <class Cells>
  __attribute__((noinline)) void PullByPoint(const Cells& cells, const V* term, V* of_position) {
    Slopes sum;
    for (int p = 0; p < (ndim == 3 ? kFieldTaps : 1); ++p) {
      Slopes plane;
      V value = {};
      for (int r = 0; r < kFieldTaps; ++r) {
        const I number = RowOfPoint(cells, p, r);
        V weight = cells.weight[last - 1][r];
        AlongRow along;
        for (int tap = 0; tap < kFieldTaps; ++tap) {
          V pixel = {};
          for (int c = 0; c < ndim; ++c) {
            pixel += term[c] * NumbersAt<U>(field_.coordinate(last - c), number + tap);
          }
          along.Add(cells, tap, pixel);
        }
        plane.AddRow(along, weight, cells.slope[last - 1][r]);
        if (ndim == 3) {
          value += weight * along.value;
          weight *= cells.weight[0][p];
        }
        if (sums_.wanted()) sums_.AddPoints(number, weight, cells.weight[last], term);
      }
      if constexpr (ndim == 3) {
        sum.AddPlane(plane, value, cells.weight[0][p], cells.slope[0][p]);
      } else {
        sum = plane;
      }
    }
    for (int axis = 0; axis < ndim; ++axis) of_position[axis] = sum.along[axis];
  }

  const Field<ndim, U> field_;
  FieldSums<ndim, U> sums_;
};

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_LATTICE_VELOCITY_H_
