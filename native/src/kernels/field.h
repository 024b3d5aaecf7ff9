// A velocity field, a cubic spline of a lattice of velocities: its pixels with a margin, and the cells
// in which points lie.

#ifndef STN_JAX_NATIVE_KERNELS_FIELD_H_
#define STN_JAX_NATIVE_KERNELS_FIELD_H_

#include "lanes.h"

namespace stn::STN_VARIANT {

constexpr int kFieldTaps = 4;  // Of a cubic spline along an axis.

// Pixels that are added before and behind the lattice, with the values at its edge. A coordinate is
// clipped to kBeyond pixels outside, where all its taps have the edge's value.
constexpr int kBeyond = 2;
constexpr int kBefore = kBeyond + 1, kBehind = kBeyond + 2;

// Coordinates are clipped to this at least.
constexpr int kLowest = -kBeyond;

// The lattice with its margin: an array [planes, rows, columns] for each coordinate of the velocity.
template <int ndim, class U>
class Field {
  static constexpr int last = ndim - 1;

 public:
  Field(const Geometry& geometry, const U* lattice)
      : numbers_(Numbers(geometry)), values_(numbers_ * ndim + kWide<U>) {
    int64_t step = 1;
    for (int axis = last; axis >= 0; --axis) {
      size_[axis] = static_cast<int>(geometry.size[axis]);
      high_[axis] = static_cast<U>(size_[axis] - 1 + kBeyond);
      step_[axis] = static_cast<int>(step);
      step *= Length(geometry, axis);
    }
    for (int tap = 0; tap < kFieldTaps; ++tap) {
      for (int power = 0; power < kFieldTaps; ++power) {
        coefficient_[tap][power] =
            power < geometry.powers ? static_cast<U>(geometry.coefficients[tap][power]) : 0;
      }
    }
    ForPixels([&](int64_t number, int64_t pixel) {
      for (int c = 0; c < ndim; ++c) {
        values_.data()[c * numbers_ + number] = lattice[pixel * ndim + c];
      }
    });
    // A register may be loaded from the last row on.
    for (int i = 0; i < kWide<U>; ++i) values_.data()[numbers_ * ndim + i] = 0;
  }

  int size(int axis) const { return size_[axis]; }
  // Coordinates are clipped to this at most.
  U high(int axis) const { return high_[axis]; }
  // Numbers from a pixel to the next along an axis.
  int step(int axis) const { return step_[axis]; }
  // Pixels with the margin.
  int64_t numbers() const { return numbers_; }
  const U* coordinate(int c) const { return values_.data() + c * numbers_; }
  // The polynomial of a tap, the constant first.
  const U* coefficients(int tap) const { return coefficient_[tap]; }
  // Whether a row with its margin fits a register.
  bool fits_register() const { return kBefore + size_[last] + kBehind <= kWide<U>; }

  // Calls `body(number, pixel)` for each pixel, with its number in the field and the number of the
  // pixel of the lattice that gives its value.
  template <class Body>
  void ForPixels(const Body& body) const {
    const int64_t columns = last == 0 ? numbers_ : step_[last - 1];
    for (int64_t start = 0; start < numbers_; start += columns) {
      int64_t row = 0, rest = start;
      for (int axis = 0; axis < last; ++axis) {
        row = row * size_[axis] + Inside(rest / step_[axis] - kBefore, axis);
        rest %= step_[axis];
      }
      for (int64_t i = 0; i < columns; ++i) {
        body(start + i, row * size_[last] + Inside(i - kBefore, last));
      }
    }
  }

 private:
  int64_t Inside(int64_t i, int axis) const {
    return i < 0 ? 0 : i < size_[axis] ? i : size_[axis] - 1;
  }

  // Pixels along an axis with the margin. Rows fill a register, or end with a whole register behind
  // the last cell's first pixel.
  static int64_t Length(const Geometry& geometry, int axis) {
    const int64_t inner = kBefore + geometry.size[axis];
    if (axis != last) return inner + kBehind;
    return inner + kBehind <= kWide<U> ? kWide<U> : inner + kBeyond + kWide<U>;
  }

  static int64_t Numbers(const Geometry& geometry) {
    int64_t numbers = 1;
    for (int axis = 0; axis < ndim; ++axis) numbers *= Length(geometry, axis);
    return numbers;
  }

  int size_[ndim], step_[ndim];
  U high_[ndim];
  U coefficient_[kFieldTaps][kFieldTaps];
  int64_t numbers_;
  Buffer<U> values_;
};

// The numbers of an array at the given positions.
template <class U>
STN_INLINE Wide<U> NumbersAt(const U* from, WideInt<U> number) {
  Wide<U> result;
  for (int lane = 0; lane < kWide<U>; ++lane) result[lane] = from[number[lane]];
  return result;
}

// The gradient to a field. The numbers of a vector are summed apart, so that no addition waits for
// another: [pixels of the field][axes].
template <int ndim, class U>
class FieldSums {
  using V = Wide<U>;

 public:
  FieldSums(const Field<ndim, U>& field, bool wanted)
      : field_(field), wanted_(wanted), sums_(wanted ? field.numbers() * ndim : 0) {
    if (wanted) std::memset(sums_.data(), 0, static_cast<size_t>(field.numbers() * ndim) * sizeof(V));
  }

  bool wanted() const { return wanted_; }
  V* at(int64_t number) { return sums_.data() + number * ndim; }

  // Adds a row of taps for each point of a vector, whose first pixel's number is given.
  STN_INLINE void AddPoints(WideInt<U> number, V weight, const V* taps, const V* term) {
    U* sums = reinterpret_cast<U*>(sums_.data());
    constexpr int width = kWide<U>;
    for (int tap = 0; tap < kFieldTaps; ++tap) {
      const V product = weight * taps[tap];
      for (int lane = 0; lane < width; ++lane) {
        U* to = sums + (number[lane] + tap) * ndim * width + lane;
        for (int axis = 0; axis < ndim; ++axis) to[axis * width] += product[lane] * term[axis][lane];
      }
    }
  }

  // Adds up the sums for each pixel of the lattice.
  void Write(const Geometry& geometry, U* out) const {
    std::memset(out, 0, static_cast<size_t>(geometry.pixels * ndim) * sizeof(U));
    field_.ForPixels([&](int64_t number, int64_t pixel) {
      for (int c = 0; c < ndim; ++c) {
        // Coordinate x is the last axis.
        out[pixel * ndim + c] += SumOf<U, kWide<U>>(sums_.data()[number * ndim + (ndim - 1 - c)]);
      }
    });
  }

 private:
  const Field<ndim, U>& field_;
  bool wanted_;
  Buffer<V> sums_;
};

// The cells of the points of a vector. Arrays are in array order.
template <int ndim, class U>
struct Place {
  using V = Wide<U>;
  using I = WideInt<U>;

  STN_INLINE Place(const Field<ndim, U>& field, const V* position) {
    for (int axis = 0; axis < ndim; ++axis) {
      // NaN stays, and gets a valid cell.
      const V low = V{} + static_cast<U>(kLowest), high = V{} + field.high(axis);
      const V clipped = Smaller<U>(high, Larger<U>(low, position[axis]));
      I cell = Floor<U>(clipped);
      t[axis] = clipped - __builtin_convertvector(cell, V);
      cell -= kLowest;
      first[axis] = cell > 0 ? cell : I{};
    }
  }

  I first[ndim];  // The first tap's index in the field, margin included.
  V t[ndim];      // How far into the cell.
};

// The weights of the taps at points that lie `t` into their cells.
template <class U, int ndim>
STN_INLINE void TapWeights(const Field<ndim, U>& field, Wide<U> t, Wide<U>* weight) {
  for (int tap = 0; tap < kFieldTaps; ++tap) {
    const U* c = field.coefficients(tap);
    weight[tap] = c[0] + t * (c[1] + t * (c[2] + t * c[3]));
  }
}

// The weights of the taps of a vector's points.
template <int ndim, class U, bool with_slopes>
struct Located : Place<ndim, U> {
  using V = Wide<U>;

  STN_INLINE Located(const Field<ndim, U>& field, const V* position)
      : Place<ndim, U>(field, position) {
    for (int axis = 0; axis < ndim; ++axis) {
      const V t = this->t[axis];
      TapWeights<U>(field, t, weight[axis]);
      for (int tap = 0; with_slopes && tap < kFieldTaps; ++tap) {
        const U* c = field.coefficients(tap);
        slope[axis][tap] = c[1] + t * (2 * c[2] + t * (3 * c[3]));
      }
    }
  }

  V weight[ndim][kFieldTaps];
  V slope[ndim][kFieldTaps];  // The weights' derivatives to the coordinate.
};

// Gives each of the `count` pixels from the first tap of a vector's points on the weight of the tap
// that it is for a point, or 0. `offset` is the number of the point's own first tap.
template <class U>
STN_INLINE void SpreadTaps(WideInt<U> offset, const Wide<U>* taps, int count, Wide<U>* weight) {
  using V = Wide<U>;
  for (int k = 0; k < count; ++k) weight[k] = V{};
  for (int k = 0; k + kFieldTaps <= count; ++k) {
    const auto here = offset == k;
    for (int tap = 0; tap < kFieldTaps; ++tap) {
      weight[k + tap] = here ? taps[tap] : weight[k + tap];
    }
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_FIELD_H_
