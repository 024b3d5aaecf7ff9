// Paths of points along a velocity field, a cubic spline of a lattice of velocities.
//
// All points of a block take a stage of a Runge-Kutta step together. A vector of points mostly lies
// in few cells of the lattice: then one load of each row of the lattice serves all of them, and each
// picks its pixels out of the register. Other vectors read pixel by pixel. Pixels of a row that a
// point does not need have weight 0, so the field must be finite.

#include "paths.h"

#include "lanes.h"

namespace stn::STN_VARIANT {
namespace {

constexpr int kTaps = 4;  // Of a cubic spline along an axis.

// The classic Runge-Kutta rule: how far a stage goes along the slope of the one before, and the
// weight of its own slope.
constexpr int kStages = 4;
constexpr double kAlong[kStages] = {0, 0.5, 0.5, 1};
constexpr double kShare[kStages] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};

// Pixels that are added before and behind the lattice, with the values at its edge. A coordinate is
// clipped to kBeyond pixels outside, where all its taps have the edge's value.
constexpr int kBeyond = 2;
constexpr int kBefore = kBeyond + 1, kBehind = kBeyond + 2;

// Of the axes but the last, by how many cells the points of a vector may differ at most.
constexpr int kMostSpread = 4;

// Vectors of a block.
template <class U>
constexpr int kVectors = kBlock / kWide<U>;

// The lattice with its margin: an array [planes, rows, columns] for each coordinate of the velocity.
template <int ndim, class U>
class Field {
 public:
  Field(const Geometry& geometry, const U* lattice)
      : numbers_(Numbers(geometry)), values_(numbers_ * ndim) {
    int64_t step = 1;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      size_[axis] = static_cast<int>(geometry.size[axis]);
      step_[axis] = static_cast<int>(step);
      step *= Length(geometry, axis);
    }
    ForPixels([&](int64_t number, int64_t pixel) {
      for (int c = 0; c < ndim; ++c) {
        values_.data()[c * numbers_ + number] = lattice[pixel * ndim + c];
      }
    });
  }

  int size(int axis) const { return size_[axis]; }
  // Numbers from a pixel to the next along an axis.
  int step(int axis) const { return step_[axis]; }
  // Pixels with the margin.
  int64_t numbers() const { return numbers_; }
  const U* coordinate(int c) const { return values_.data() + c * numbers_; }

  // Calls `body(number, pixel)` for each pixel, with its number in the field and the number of the
  // pixel of the lattice that gives its value.
  template <class Body>
  void ForPixels(const Body& body) const {
    for (int64_t number = 0; number < numbers_; ++number) {
      int64_t pixel = 0, rest = number;
      for (int axis = 0; axis < ndim; ++axis) {
        int64_t i = rest / step_[axis] - kBefore;
        rest %= step_[axis];
        i = i < 0 ? 0 : i < size_[axis] ? i : size_[axis] - 1;
        pixel = pixel * size_[axis] + i;
      }
      body(number, pixel);
    }
  }

 private:
  // Pixels along an axis with the margin. Rows end with a whole register behind the last cell's first
  // pixel.
  static int64_t Length(const Geometry& geometry, int axis) {
    const int64_t behind = axis == ndim - 1 ? kBeyond + kWide<U> : kBehind;
    return kBefore + geometry.size[axis] + behind;
  }

  static int64_t Numbers(const Geometry& geometry) {
    int64_t numbers = 1;
    for (int axis = 0; axis < ndim; ++axis) numbers *= Length(geometry, axis);
    return numbers;
  }

  int size_[ndim], step_[ndim];
  int64_t numbers_;
  Buffer<U> values_;
};

// Where the points of a vector lie: their cells, and the weights of their taps. Arrays are in array
// order.
template <int ndim, class U>
struct Located {
  using V = Wide<U>;
  using I = WideInt<U>;
  I first[ndim];         // The first tap's index in the field, margin included.
  V weight[ndim][kTaps];
  V slope[ndim][kTaps];  // The weights' derivatives to the coordinate.
};

// Consecutive pixels along an axis that include the taps of all points of a vector, and their weights:
// for a point whose tap a pixel is not, 0.
template <class U, int most>
struct SharedTaps {
  using V = Wide<U>;
  int lowest;  // The first of these pixels.
  int count;
  V weight[most], slope[most];
};

template <int ndim, class U>
class Paths {
  using V = Wide<U>;
  using I = WideInt<U>;
  static constexpr int last = ndim - 1;
  static constexpr int width = kWide<U>;
  // Coordinates are clipped to this at least.
  static constexpr U kLow = -kBeyond;
  // Cells by which the points of a vector may differ along the last axis.
  static constexpr int most_columns = kPicks<U> ? width : kTaps;
  static constexpr int most_rows = kTaps + kMostSpread;

 public:
  Paths(const Geometry& geometry, const Item& item)
      : geometry_(geometry), item_(item), field_(geometry, static_cast<const U*>(item.image)) {
    for (int tap = 0; tap < kTaps; ++tap) {
      for (int power = 0; power < kTaps; ++power) {
        coefficient_[tap][power] =
            power < geometry.powers ? static_cast<U>(geometry.coefficients[tap][power]) : 0;
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      high_[axis] = static_cast<U>(field_.size(axis) - 1 + kBeyond);
    }
    fits_register_ = kBefore + field_.size(last) + kBehind <= width;
    for (int stage = 0; stage < kStages; ++stage) {
      along_[stage] = static_cast<U>(kAlong[stage] / static_cast<double>(geometry.steps));
      share_[stage] = static_cast<U>(kShare[stage] / static_cast<double>(geometry.steps));
    }
  }

  void Forward(Range points) {
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      Take(start, points.last);
      Run(nullptr);
      for (int c = 0; c < ndim; ++c) {
        // Coordinate x is the last axis.
        Write(static_cast<U*>(item_.out) + start * ndim + c, ndim, moved_[last - c]);
      }
    }
  }

  void Pull(Range points) {
    Buffer<V> positions(geometry_.steps * kStages * ndim * kVectors<U>);
    Buffer<V> sums(item_.d_image != nullptr ? field_.numbers() * ndim : 0);
    if (item_.d_image != nullptr) {
      sums_ = sums.data();
      std::memset(sums_, 0, static_cast<size_t>(field_.numbers() * ndim) * sizeof(V));
    }
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      Take(start, points.last);
      Run(positions.data());
      for (int c = 0; c < ndim; ++c) {
        Read(static_cast<const U*>(item_.cotangent) + start * ndim + c, ndim, cotangent_[last - c]);
      }
      RunBack(positions.data());
      for (int axis = 0; axis < ndim; ++axis) {
        if (item_.d_source[axis] == nullptr) continue;
        Write(static_cast<U*>(item_.d_source[axis]) + start, 1, pulled_[axis]);
      }
    }
    if (item_.d_image != nullptr) WriteSums();
  }

 private:
  // Reads the coordinates of a block of points. Points behind the last have coordinate 0.
  void Take(int64_t start, int64_t end) {
    count_ = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    for (int axis = 0; axis < ndim; ++axis) {
      Read(static_cast<const U*>(item_.source[axis]) + start, 1, start_[axis]);
    }
  }

  void Read(const U* from, int step, V* to) const {
    U numbers[kBlock] = {};
    for (int i = 0; i < count_; ++i) numbers[i] = from[i * step];
    std::memcpy(to, numbers, sizeof(numbers));
  }

  void Write(U* to, int step, const V* from) const {
    U numbers[kBlock];
    std::memcpy(numbers, from, sizeof(numbers));
    for (int i = 0; i < count_; ++i) to[i * step] = numbers[i];
  }

  // Moves a block of points along their paths. Writes the places where the velocity was taken,
  // [steps][stages][axes][vectors], if wanted.
  void Run(V* positions) {
    V slope[ndim][kVectors<U>] = {}, total[ndim][kVectors<U>];
    std::memset(moved_, 0, sizeof(moved_));
    for (int64_t step = 0; step < geometry_.steps; ++step) {
      std::memcpy(total, moved_, sizeof(total));
      for (int stage = 0; stage < kStages; ++stage) {
        for (int v = 0; v < kVectors<U>; ++v) {
          V position[ndim], velocity[ndim];
          for (int axis = 0; axis < ndim; ++axis) {
            position[axis] =
                start_[axis][v] + (moved_[axis][v] + along_[stage] * slope[axis][v]);
            if (positions != nullptr) positions[axis * kVectors<U> + v] = position[axis];
          }
          VelocityAt(position, velocity);
          for (int axis = 0; axis < ndim; ++axis) {
            slope[axis][v] = velocity[axis];
            total[axis][v] += share_[stage] * velocity[axis];
          }
        }
        if (positions != nullptr) positions += ndim * kVectors<U>;
      }
      std::memcpy(moved_, total, sizeof(total));
    }
  }

  // Pulls the cotangents back along the paths, to the starts and to the field.
  void RunBack(const V* positions) {
    std::memset(pulled_, 0, sizeof(pulled_));
    for (int64_t step = geometry_.steps - 1; step >= 0; --step) {
      V arrived[ndim][kVectors<U>], later[ndim][kVectors<U>] = {};
      for (int axis = 0; axis < ndim; ++axis) {
        for (int v = 0; v < kVectors<U>; ++v) {
          arrived[axis][v] = cotangent_[axis][v] + pulled_[axis][v];
        }
      }
      for (int stage = kStages - 1; stage >= 0; --stage) {
        const V* places = positions + (step * kStages + stage) * ndim * kVectors<U>;
        const U along = stage + 1 < kStages ? along_[stage + 1] : 0;
        for (int v = 0; v < kVectors<U>; ++v) {
          V position[ndim], of_velocity[ndim], of_position[ndim];
          for (int axis = 0; axis < ndim; ++axis) {
            position[axis] = places[axis * kVectors<U> + v];
            of_velocity[axis] = share_[stage] * arrived[axis][v] + along * later[axis][v];
          }
          PullBack(position, of_velocity, of_position);
          for (int axis = 0; axis < ndim; ++axis) {
            later[axis][v] = of_position[axis];
            pulled_[axis][v] += of_position[axis];
          }
        }
      }
    }
  }

  template <bool with_slopes>
  STN_INLINE void Locate(const V* position, Located<ndim, U>& cells) const {
    for (int axis = 0; axis < ndim; ++axis) {
      V clipped = position[axis] < kLow ? V{} + kLow : position[axis];
      clipped = clipped > high_[axis] ? V{} + high_[axis] : clipped;
      // NaN gets a valid cell and NaN weights.
      const V safe = clipped == clipped ? clipped : V{};
      I cell = __builtin_convertvector(safe, I);
      cell += __builtin_convertvector(cell, V) > safe;  // From truncation to floor.
      cells.first[axis] = cell + (kBefore - 1);
      const V t = clipped - __builtin_convertvector(cell, V);
      for (int tap = 0; tap < kTaps; ++tap) {
        const U* c = coefficient_[tap];
        cells.weight[axis][tap] = c[0] + t * (c[1] + t * (c[2] + t * c[3]));
        if (with_slopes) cells.slope[axis][tap] = c[1] + t * (2 * c[2] + t * (3 * c[3]));
      }
    }
  }

  // Finds the pixels that include all taps along an axis; false if these are too many.
  template <bool with_slopes, int most>
  STN_INLINE bool ShareTaps(const Located<ndim, U>& cells, int axis,
                            SharedTaps<U, most>& span) const {
    const I first = cells.first[axis];
    if (AllSame<U>(first)) {
      span.lowest = static_cast<int>(first[0]);
      span.count = kTaps;
      for (int tap = 0; tap < kTaps; ++tap) {
        span.weight[tap] = cells.weight[axis][tap];
        if (with_slopes) span.slope[tap] = cells.slope[axis][tap];
      }
      return true;
    }
    int highest;
    Extremes<U>(first, span.lowest, highest);
    span.count = highest - span.lowest + kTaps;
    if (span.count > most) return false;
    const I offset = first - span.lowest;
    for (int k = 0; k < span.count; ++k) {
      V weight = {}, slope = {};
      for (int tap = 0; tap < kTaps; ++tap) {
        weight = offset == k - tap ? cells.weight[axis][tap] : weight;
        if (with_slopes) slope = offset == k - tap ? cells.slope[axis][tap] : slope;
      }
      span.weight[k] = weight;
      if (with_slopes) span.slope[k] = slope;
    }
    return true;
  }

  // The rows of a vector's points along the axes but the last.
  struct Rows {
    SharedTaps<U, most_rows> plane, row;  // Of two axes, `plane` has one pixel of weight 1.
  };

  template <bool with_slopes>
  STN_INLINE bool ShareRows(const Located<ndim, U>& cells, Rows& rows) const {
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

  STN_INLINE void VelocityAt(const V* position, V* velocity) const {
    Located<ndim, U> cells;
    Locate<false>(position, cells);
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
          for (int tap = 1; tap < kTaps; ++tap) {
            along += cells.weight[last][tap] * Pick<U>(row, offset + tap);
          }
          plane += rows.row.weight[r] * along;
        }
        sum = ndim == 3 ? sum + rows.plane.weight[p] * plane : plane;
      }
      velocity[c] = sum;
    }
  }

  // Finds the first pixel of a register that holds, of a row, the taps of all points; false if there
  // is none.
  STN_INLINE bool FitRegister(const Located<ndim, U>& cells, int& lowest) const {
    lowest = 0;
    if (fits_register_) return true;
    const I first = cells.first[last];
    int highest;
    Extremes<U>(first, lowest, highest);
    return highest - lowest + kTaps <= width;
  }

  // The number in the field of each point's first pixel of a row of its cell.
  STN_INLINE I RowOfPoint(const Located<ndim, U>& cells, int p, int r) const {
    I number = cells.first[last] + (cells.first[last - 1] + r) * field_.step(last - 1);
    if constexpr (ndim == 3) number += (cells.first[0] + p) * field_.step(0);
    return number;
  }

  static STN_INLINE V At(const U* from, I number) {
    V result;
    for (int lane = 0; lane < width; ++lane) result[lane] = from[number[lane]];
    return result;
  }

  __attribute__((noinline)) void VelocityByPoint(const Located<ndim, U>& cells, V* velocity) const {
    for (int c = 0; c < ndim; ++c) {
      const U* field = field_.coordinate(last - c);
      V sum = {};
      for (int p = 0; p < (ndim == 3 ? kTaps : 1); ++p) {
        V plane = {};
        for (int r = 0; r < kTaps; ++r) {
          const I number = RowOfPoint(cells, p, r);
          V along = {};
          for (int tap = 0; tap < kTaps; ++tap) {
            along += cells.weight[last][tap] * At(field, number + tap);
          }
          plane += cells.weight[last - 1][r] * along;
        }
        sum = ndim == 3 ? sum + cells.weight[0][p] * plane : plane;
      }
      velocity[c] = sum;
    }
  }

  // The gradient to the positions, from that to the velocities there; adds to the sums of the field.
  STN_INLINE void PullBack(const V* position, const V* of_velocity, V* of_position) {
    // The velocity at a NaN coordinate has no gradient.
    auto known = position[0] == position[0];
    for (int axis = 1; axis < ndim; ++axis) known &= position[axis] == position[axis];
    V place[ndim], term[ndim];
    for (int axis = 0; axis < ndim; ++axis) {
      place[axis] = known ? position[axis] : V{};
      term[axis] = known ? of_velocity[axis] : V{};
    }
    Located<ndim, U> cells;
    Locate<true>(place, cells);
    Rows rows;
    SharedTaps<U, most_columns> columns;
    if (kPicks<U> && ShareRows<true>(cells, rows) && ShareTaps<false>(cells, last, columns)) {
      SlopesOfRows(cells, rows, columns.lowest, term, of_position);
      if (item_.d_image != nullptr) AddRows(rows, columns, term);
    } else {
      PullByPoint(cells, term, of_position);
    }
    for (int axis = 0; axis < ndim; ++axis) {
      const auto moves = known & (position[axis] > kLow) & (position[axis] < high_[axis]);
      of_position[axis] = moves ? of_position[axis] : V{};
    }
  }

  // Sums over the taps of a row: with the weights along it, and with their slopes.
  struct AlongRow {
    V value = {}, slope = {};

    STN_INLINE void Add(const Located<ndim, U>& cells, int tap, V pixel) {
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

  STN_INLINE void SlopesOfRows(const Located<ndim, U>& cells, const Rows& rows, int lowest,
                               const V* term, V* of_position) const {
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
        for (int tap = 0; tap < kTaps; ++tap) {
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

  // The sums keep the numbers of a vector apart, [pixels of the field][axes].
  STN_INLINE void AddRows(const Rows& rows, const SharedTaps<U, most_columns>& columns,
                          const V* term) {
    for (int p = 0; p < rows.plane.count; ++p) {
      for (int r = 0; r < rows.row.count; ++r) {
        const V weight = ndim == 3 ? rows.plane.weight[p] * rows.row.weight[r] : rows.row.weight[r];
        V* sums = sums_ + (RowStart(rows, p, r) + columns.lowest) * ndim;
        for (int k = 0; k < columns.count; ++k) {
          const V product = weight * columns.weight[k];
          for (int axis = 0; axis < ndim; ++axis) sums[k * ndim + axis] += product * term[axis];
        }
      }
    }
  }

  __attribute__((noinline)) void PullByPoint(const Located<ndim, U>& cells, const V* term,
                                             V* of_position) {
    Slopes sum;
    for (int p = 0; p < (ndim == 3 ? kTaps : 1); ++p) {
      Slopes plane;
      V value = {};
      for (int r = 0; r < kTaps; ++r) {
        const I number = RowOfPoint(cells, p, r);
        V weight = cells.weight[last - 1][r];
        AlongRow along;
        for (int tap = 0; tap < kTaps; ++tap) {
          V pixel = {};
          for (int c = 0; c < ndim; ++c) {
            pixel += term[c] * At(field_.coordinate(last - c), number + tap);
          }
          along.Add(cells, tap, pixel);
        }
        plane.AddRow(along, weight, cells.slope[last - 1][r]);
        if (ndim == 3) {
          value += weight * along.value;
          weight *= cells.weight[0][p];
        }
        if (item_.d_image != nullptr) AddPoints(cells, number, weight, term);
      }
      if constexpr (ndim == 3) {
        sum.AddPlane(plane, value, cells.weight[0][p], cells.slope[0][p]);
      } else {
        sum = plane;
      }
    }
    for (int axis = 0; axis < ndim; ++axis) of_position[axis] = sum.along[axis];
  }

  // Adds the points' contributions to the pixels of a row of their cells.
  STN_INLINE void AddPoints(const Located<ndim, U>& cells, I number, V weight, const V* term) {
    U* sums = reinterpret_cast<U*>(sums_);
    for (int tap = 0; tap < kTaps; ++tap) {
      const V product = weight * cells.weight[last][tap];
      for (int lane = 0; lane < width; ++lane) {
        U* to = sums + (number[lane] + tap) * ndim * width + lane;
        for (int axis = 0; axis < ndim; ++axis) to[axis * width] += product[lane] * term[axis][lane];
      }
    }
  }

  // Adds up the sums of the field for each pixel of the lattice.
  void WriteSums() const {
    U* out = static_cast<U*>(item_.d_image);
    std::memset(out, 0, static_cast<size_t>(geometry_.pixels * ndim) * sizeof(U));
    field_.ForPixels([&](int64_t number, int64_t pixel) {
      for (int c = 0; c < ndim; ++c) {
        const V sums = sums_[number * ndim + (last - c)];
        U total = sums[0];
        for (int lane = 1; lane < width; ++lane) total += sums[lane];
        out[pixel * ndim + c] += total;
      }
    });
  }

  const Geometry& geometry_;
  const Item& item_;
  const Field<ndim, U> field_;
  U high_[ndim];  // Coordinates are clipped to this at most.
  bool fits_register_;  // Whether a row of the lattice with its margin fits a register.
  U coefficient_[kTaps][kTaps];
  U along_[kStages], share_[kStages];  // Of a step.
  // Of a block of points, along each axis in array order.
  int count_ = 0;
  V start_[ndim][kVectors<U>];
  V moved_[ndim][kVectors<U>];
  V cotangent_[ndim][kVectors<U>];
  V pulled_[ndim][kVectors<U>];  // The cotangents of the starts.
  V* sums_ = nullptr;  // [pixels of the field][axes]
};

}  // namespace

template <class U>
void Follow(const Geometry& geometry, const Item& item, Range points) {
  if (geometry.ndim == 2) return Paths<2, U>(geometry, item).Forward(points);
  Paths<3, U>(geometry, item).Forward(points);
}

template <class U>
void FollowPull(const Geometry& geometry, const Item& item, Range points) {
  if (geometry.ndim == 2) return Paths<2, U>(geometry, item).Pull(points);
  Paths<3, U>(geometry, item).Pull(points);
}

template void Follow<float>(const Geometry&, const Item&, Range);
template void Follow<double>(const Geometry&, const Item&, Range);
template void FollowPull<float>(const Geometry&, const Item&, Range);
template void FollowPull<double>(const Geometry&, const Item&, Range);

}  // namespace stn::STN_VARIANT
