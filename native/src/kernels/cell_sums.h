// The gradient to a plane lattice of velocities, from the places where its spline was taken.
//
// Along its path a point mostly stays in a few cells. So the terms of all stages are first summed for
// each point apart, in a window of pixels around its cells: no addition waits for another, and no
// pixel that the point does not need takes part. The windows are then added to the lattice.

#ifndef STN_JAX_NATIVE_KERNELS_CELL_SUMS_H_
#define STN_JAX_NATIVE_KERNELS_CELL_SUMS_H_

#include "field.h"

namespace stn::STN_VARIANT {

template <class U>
class CellSums {
  using V = Wide<U>;
  using I = WideInt<U>;
  static constexpr int ndim = 2;
  static constexpr int width = kWide<U>;
  // A window has at most this many pixels along an axis: the taps, and one more.
  static constexpr int most = kFieldTaps + 1;
  static constexpr int most_places = 32;  // With the same window.
  static constexpr int together = 8;      // Places whose terms are added in registers.

 public:
  CellSums(const Field<ndim, U>& field, bool wanted)
      : field_(field), wanted_(wanted), sums_(wanted ? Numbers() : 0) {
    if (wanted) std::memset(sums_.data(), 0, static_cast<size_t>(Numbers()) * sizeof(U));
  }

  bool wanted() const { return wanted_; }

  // Adds the terms of a vector of points at several places. A place is a position, and so many vectors
  // behind it are the terms.
  void Add(const V* place, int64_t count, int64_t step, int terms_behind) {
    if (count > most_places) {
      for (; count > 0; place += most_places * step, count -= most_places) {
        Add(place, count < most_places ? count : most_places, step, terms_behind);
      }
      return;
    }
    Places at;
    I low[ndim] = {}, spread[ndim] = {};
    for (int s = 0; s < count; ++s) {
      const V* position = place + s * step;
      const auto known = (position[0] == position[0]) & (position[1] == position[1]);
      V safe[ndim];
      for (int axis = 0; axis < ndim; ++axis) safe[axis] = known ? position[axis] : V{};
      const Place<ndim, U> own(field_, safe);
      for (int axis = 0; axis < ndim; ++axis) {
        const I first = own.first[axis];
        at.first[s][axis] = first;
        at.t[s][axis] = own.t[axis];
        if (s == 0) low[axis] = first;
        const I high = low[axis] + spread[axis];
        const I lowest = low[axis] < first ? low[axis] : first;
        low[axis] = lowest;
        spread[axis] = (high > first ? high : first) - lowest;
      }
    }
    if (!NoneHas<U>(spread[0] | spread[1], I{} + ~1)) {
      const int64_t half = count / 2;
      Add(place, half, step, terms_behind);
      Add(place + half * step, count - half, step, terms_behind);
      return;
    }
    const V* term = place + terms_behind;
    const int n = static_cast<int>(count);
    if (AllZero<U>(spread[0])) {
      if (AllZero<U>(spread[1])) return AddWindow<kFieldTaps, kFieldTaps>(at, low, n, term, step);
      return AddWindow<kFieldTaps, most>(at, low, n, term, step);
    }
    if (AllZero<U>(spread[1])) return AddWindow<most, kFieldTaps>(at, low, n, term, step);
    AddWindow<most, most>(at, low, n, term, step);
  }

  // Adds up the sums for each pixel of the lattice.
  void Write(const Geometry& geometry, U* out) const {
    std::memset(out, 0, static_cast<size_t>(geometry.pixels * ndim) * sizeof(U));
    field_.ForPixels([&](int64_t number, int64_t pixel) {
      // Coordinate x is the last axis.
      out[pixel * ndim] += sums_.data()[number * ndim + 1];
      out[pixel * ndim + 1] += sums_.data()[number * ndim];
    });
  }

 private:
  struct Places {
    I first[most_places][ndim];
    V t[most_places][ndim];
  };

  // Sums of the pixels of a window, for each point: first [rows][four columns][axes], then the last
  // column, if there are five. So a load reads numbers that one store wrote.
  template <int rows, int columns>
  struct Window {
    static constexpr int count = rows * columns * ndim;
    static constexpr int padded = (count + width - 1) / width * width;

    STN_INLINE V* at(int row, int column) {
      const bool is_last = column == kFieldTaps;
      return sums + (is_last ? rows * kFieldTaps + row : row * kFieldTaps + column) * ndim;
    }

    // Writes the numbers of each point together, [points][padded].
    STN_INLINE void ByPoint(U* to) {
      for (int i = 0; i < padded; i += width) {
        if constexpr (kPicks<U>) {
          V square[width];
          for (int k = 0; k < width; ++k) square[k] = i + k < count ? sums[i + k] : V{};
          Transpose<U>(square);
          for (int lane = 0; lane < width; ++lane) {
            Store<width>(to + lane * padded + i, square[lane]);
          }
        } else {
          for (int lane = 0; lane < width; ++lane) {
            const int end = i + width < count ? i + width : count;
            for (int k = i; k < end; ++k) to[lane * padded + k] = sums[k][lane];
          }
        }
      }
    }

    V sums[count];
  };

  // Sums of the field [pixels][axes], and those behind that a window with pixels of weight 0 reaches.
  int64_t Numbers() const { return (field_.numbers() + field_.step(0) + most) * ndim; }

  template <int rows, int columns>
  __attribute__((noinline)) void AddWindow(const Places& at, const I* low, int count,
                                           const V* term, int64_t step) {
    Window<rows, columns> window;
    for (int start = 0; start < count; start += together) {
      V product[together][rows][ndim], along[together][columns];
      for (int s = 0; s < together; ++s) {
        // Places behind the last have no terms.
        const bool exists = start + s < count;
        const int here = exists ? start + s : start;
        const V* terms = term + here * step;
        V row[rows];
        Weights<rows>(at, here, 0, low[0], row);
        Weights<columns>(at, here, 1, low[1], along[s]);
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < ndim; ++c) product[s][r][c] = exists ? row[r] * terms[c] : V{};
        }
      }
      for (int r = 0; r < rows; ++r) {
        V sum[columns][ndim];
        for (int k = 0; k < columns; ++k) {
          for (int c = 0; c < ndim; ++c) sum[k][c] = start > 0 ? window.at(r, k)[c] : V{};
        }
        for (int s = 0; s < together; ++s) {
          for (int k = 0; k < columns; ++k) {
            for (int c = 0; c < ndim; ++c) sum[k][c] += along[s][k] * product[s][r][c];
          }
        }
        for (int k = 0; k < columns; ++k) {
          for (int c = 0; c < ndim; ++c) window.at(r, k)[c] = sum[k][c];
        }
      }
    }
    Flush(low, window);
  }

  // The weights of `n` pixels from the lowest on. A point's first tap is the lowest, or the one behind.
  template <int n>
  STN_INLINE void Weights(const Places& at, int s, int axis, I low, V* weight) const {
    V taps[kFieldTaps];
    TapWeights<U>(field_, at.t[s][axis], taps);
    if constexpr (n == kFieldTaps) {
      for (int tap = 0; tap < n; ++tap) weight[tap] = taps[tap];
    } else {
      const auto here = at.first[s][axis] == low;
      weight[0] = here ? taps[0] : V{};
      for (int tap = 1; tap < kFieldTaps; ++tap) weight[tap] = here ? taps[tap] : taps[tap - 1];
      weight[kFieldTaps] = here ? V{} : taps[kFieldTaps - 1];
    }
  }

  // Adds each point's window to the field.
  template <int rows, int columns>
  STN_INLINE void Flush(const I* low, Window<rows, columns>& window) {
    const I number = (low[0] * field_.step(0) + low[1]) * ndim;
    constexpr int four = kFieldTaps * ndim;
    U numbers[width][window.padded];
    window.ByPoint(numbers[0]);
    for (int lane = 0; lane < width; ++lane) {
      U* to = sums_.data() + number[lane];
      const U* from = numbers[lane];
      for (int r = 0; r < rows; ++r, to += ndim * field_.step(0)) {
        Store<four>(to, Load<four>(to) + Load<four>(from + r * four));
        if constexpr (columns > kFieldTaps) {
          Store<ndim>(to + four, Load<ndim>(to + four) + Load<ndim>(from + rows * four + r * ndim));
        }
      }
    }
  }

  const Field<ndim, U>& field_;
  bool wanted_;
  Buffer<U> sums_;
};

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_CELL_SUMS_H_
