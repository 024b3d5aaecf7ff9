// Kernels of four taps along each axis, on few channels. A point reads a cell of 4ⁿ pixels, as rows
// of four neighbours, each with all channels; a few vectors hold a row.
//
// A row in the image is loaded as it is. A cell that a border crosses is first copied, once for all
// consecutive points in it. If a weight of a point is 0 or NaN, some pixels must not be read: such
// points are handled pixel by pixel.

#ifndef STN_JAX_NATIVE_KERNELS_CELLS_H_
#define STN_JAX_NATIVE_KERNELS_CELLS_H_

#include "ahead.h"
#include "locate.h"
#include "slopes.h"

namespace stn::STN_VARIANT {

constexpr int kCellTaps = 4;

// The types of images for which the functions below are compiled. Other types, and images of one
// axis, are left to the general functions, since each combination takes long to compile.
template <class T>
constexpr bool kHasCells = std::is_same_v<T, float> || std::is_same_v<T, BFloat16>;

// Whether they serve a call.
template <class T>
bool UsesCells(const Geometry& geometry) {
  return kHasCells<T> && geometry.ndim > 1 && geometry.from_coordinates &&
         geometry.kernel == Kernel::kPolynomial && geometry.kernel_taps == kCellTaps &&
         geometry.powers <= kCellTaps && geometry.channels > 0 &&
         geometry.channels <= kFewChannels;
}

// Repeat numbers of a vector of four: each twice; or each of the first two, or of the last two,
// four times.
template <class U>
STN_INLINE Vector<U, kLanes> Twice(Vector<U, 4> v) {
  return __builtin_shufflevector(v, v, 0, 0, 1, 1, 2, 2, 3, 3);
}
template <class U>
STN_INLINE Vector<U, kLanes> FirstFourTimes(Vector<U, 4> v) {
  return __builtin_shufflevector(v, v, 0, 0, 0, 0, 1, 1, 1, 1);
}
template <class U>
STN_INLINE Vector<U, kLanes> LastFourTimes(Vector<U, 4> v) {
  return __builtin_shufflevector(v, v, 2, 2, 2, 2, 3, 3, 3, 3);
}

// Writes four numbers for each point, from a vector of points for each number.
template <class U>
STN_INLINE void StoreByPoint(U* to, const Vector<U, kLanes>* v) {
  using V = Vector<U, kLanes>;
  const V a = __builtin_shufflevector(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13);
  const V b = __builtin_shufflevector(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
  const V c = __builtin_shufflevector(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13);
  const V d = __builtin_shufflevector(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
  const V points[4] = {__builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13),
                       __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15),
                       __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13),
                       __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15)};
  for (int i = 0; i < 4; ++i) {
    const V both = points[i];
    Store<4>(to + i * 4, __builtin_shufflevector(both, both, 0, 1, 2, 3));
    Store<4>(to + (i + 4) * 4, __builtin_shufflevector(both, both, 4, 5, 6, 7));
  }
}

// Four neighbouring pixels: one vector if they have one or two channels, else a vector for each.
template <int channels, class U>
struct Row {
  static constexpr int width = channels == 2 ? kLanes : kLanes / 2;
  static constexpr int count = channels <= 2 ? 1 : kCellTaps;
  // Numbers from a vector's start to the next one's; with three channels, vectors overlap.
  static constexpr int step = channels <= 2 ? width : channels;
  Vector<U, width> part[count] = {};

  template <class T>
  STN_INLINE void Add(U factor, const T* numbers) {
    for (int p = 0; p < count; ++p) part[p] += factor * Load<width>(numbers + p * step);
  }

  STN_INLINE void Add(U factor, const Row& row) {
    for (int p = 0; p < count; ++p) part[p] += factor * row.part[p];
  }

  // The weighted sum of the four pixels. Lanes behind the channels hold arbitrary numbers.
  STN_INLINE Vector<U, 4> WeightedSum(const U* weight) const {
    if constexpr (channels == 1) {
      const auto v = part[0] * Load<4>(weight);
      const auto pairs = v + __builtin_shufflevector(v, v, 2, 3, 0, 1);
      return pairs + __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2);
    } else if constexpr (channels == 2) {
      const auto pairs = Folded<U>(part[0] * Twice<U>(Load<4>(weight)));
      return pairs + __builtin_shufflevector(pairs, pairs, 2, 3, 0, 1);
    } else {
      Vector<U, 4> sum = weight[0] * part[0];
      for (int tap = 1; tap < kCellTaps; ++tap) sum += weight[tap] * part[tap];
      return sum;
    }
  }
};

// The cells of a block of points.
template <int ndim, class U>
struct Cells {
  int count, filled;
  int32_t first[ndim][kBlock];  // The first index along each axis, before padding.
  U moves[ndim][kBlock];        // 1, or 0 where a coordinate's gradient is 0.
  U weight[ndim][kBlock * kCellTaps];       // By point, then by tap.
  U slope[ndim][kBlock * kCellTaps];        // The weights' derivatives to the coordinate.
  int32_t index[ndim][kCellTaps * kBlock];  // As in `Block`; filled if some cell is not inside.
  int32_t pixel[kBlock];  // The cell's first pixel; negative unless the image contains the cell.
  // Nonzero if all weights, or all weights and slopes, count: none is NaN or so small that a
  // product of them could be 0.
  int32_t weights_count[kBlock], slopes_count[kBlock];

  explicit Cells(const Geometry& geometry) {
    for (int tap = 0; tap < kCellTaps; ++tap) {
      for (int power = 0; power < geometry.powers; ++power) {
        coefficient_[tap][power] = static_cast<U>(geometry.coefficients[tap][power]);
      }
    }
  }

  void Fill(const Geometry& geometry, const Item& item, int64_t start, int64_t last,
            bool with_slopes) {
    count = static_cast<int>(last - start < kBlock ? last - start : kBlock);
    filled = (count + kLanes - 1) / kLanes * kLanes;
    U fraction[ndim][kBlock];
    for (int axis = 0; axis < ndim; ++axis) {
      const U* coordinates = static_cast<const U*>(item.source[axis]) + start;
      U copy[kBlock];
      if (filled > count) {
        CopyFilled(coordinates, count, filled, copy);
        coordinates = copy;
      }
      const Axis<U> rule(geometry, axis, StrideOf(geometry, axis));
      WithPadding(geometry.padding, rule.period, [&](auto padding, auto) {
        LocateCells<padding>(geometry, rule, coordinates, filled, first[axis], fraction[axis],
                             moves[axis]);
      });
    }
    bool all_inside = true;
    for (int i = 0; i < filled; i += kLanes) all_inside &= FindPixels(geometry, i);
    if (!all_inside) {
      for (int axis = 0; axis < ndim; ++axis) FillIndex(geometry, axis);
    }
    for (int i = 0; i < filled; i += kLanes) Weigh(fraction, i, with_slopes);
  }

  STN_INLINE bool Same(int a, int b) const {
    bool same = true;
    for (int axis = 0; axis < ndim; ++axis) same &= first[axis][a] == first[axis][b];
    return same;
  }

  // The product of the axes' factors at a tap, except that of `axis`.
  STN_INLINE U ProductAt(const U (*factor)[kBlock * kCellTaps], int i, int tap,
                         int axis = -1) const {
    U product = 1;
    for (int a = ndim - 1; a >= 0; --a, tap /= kCellTaps) {
      if (a != axis) product *= factor[a][i * kCellTaps + tap % kCellTaps];
    }
    return product;
  }

 private:
  // For a vector of points. Returns whether the image contains all cells.
  STN_INLINE bool FindPixels(const Geometry& geometry, int i) {
    using Integers = Vector<int32_t, kLanes>;
    // Without sign, since the numbers of cells outside may overflow.
    Vector<uint32_t, kLanes> flat = {};
    Integers inside = Integers{} - 1;
    for (int axis = 0; axis < ndim; ++axis) {
      const Integers place = LoadIntegers(first[axis] + i);
      const auto end = static_cast<int32_t>(geometry.size[axis] - kCellTaps + 1);
      inside &= (place >= 0) & (place < end);
      flat += (Vector<uint32_t, kLanes>)place *
              static_cast<uint32_t>(StrideOf(geometry, axis));
    }
    StoreIntegers(pixel + i, inside != 0 ? (Integers)flat : Integers{} + kFill);
    return All(inside);
  }

  void FillIndex(const Geometry& geometry, int axis) {
    const Axis<U> rule(geometry, axis, StrideOf(geometry, axis));
    WithPadding(geometry.padding, rule.period, [&](auto padding, auto rounds) {
      for (int tap = 0; tap < kCellTaps; ++tap) {
        FillTapIndex<padding, rounds>(rule, first[axis], filled, tap, index[axis] + tap * kBlock);
      }
    });
  }

  // The weights of a vector of points.
  STN_INLINE void Weigh(const U (*fraction)[kBlock], int i, bool with_slopes) {
    using Numbers = Vector<U, kLanes>;
    const Numbers lightest = Numbers{} + static_cast<U>(kLightest);
    auto weights = lightest == lightest, slopes = weights;
    for (int axis = 0; axis < ndim; ++axis) {
      const Numbers at = Load<kLanes>(fraction[axis] + i);
      Numbers value[kCellTaps], derivative[kCellTaps];
      for (int tap = 0; tap < kCellTaps; ++tap) {
        const U* c = coefficient_[tap];
        value[tap] = ((c[3] * at + c[2]) * at + c[1]) * at + c[0];
        weights &= (value[tap] >= lightest) | (-value[tap] >= lightest);
        if (!with_slopes) continue;
        derivative[tap] = (3 * c[3] * at + 2 * c[2]) * at + c[1];
        slopes &= (derivative[tap] >= lightest) | (-derivative[tap] >= lightest);
      }
      StoreByPoint(weight[axis] + i * kCellTaps, value);
      if (with_slopes) StoreByPoint(slope[axis] + i * kCellTaps, derivative);
    }
    slopes &= weights;
    StoreIntegers(weights_count + i, __builtin_convertvector(weights, Vector<int32_t, kLanes>));
    StoreIntegers(slopes_count + i, __builtin_convertvector(slopes, Vector<int32_t, kLanes>));
  }

  U coefficient_[kCellTaps][kCellTaps] = {};
};

template <int ndim, int channels, class T>
class CellKernels {
  using U = Accumulator<T>;
  using Four = Vector<U, 4>;
  using Rows = Row<channels, U>;
  static constexpr int rows = ndim == 2 ? kCellTaps : kCellTaps * kCellTaps;
  static constexpr int taps = rows * kCellTaps;
  static constexpr int last_axis = ndim - 1;
  // Channels of the accumulators.
  static constexpr int padded = channels == 3 ? 4 : channels;

 public:
  CellKernels(const Geometry& geometry, const Item& item)
      : geometry_(geometry),
        item_(item),
        image_(static_cast<const T*>(item.image)),
        fill_(static_cast<const T*>(item.fill)),
        cells_(geometry) {
    for (int row = 0; row < rows; ++row) {
      step_[row] = 0;
      for (int axis = last_axis - 1, r = row; axis >= 0; --axis, r /= kCellTaps) {
        step_[row] += r % kCellTaps * static_cast<int64_t>(StrideOf(geometry, axis));
      }
      image_offset_[row] = step_[row] * channels;
      copy_offset_[row] = row * kCellTaps * channels;
    }
    end_ = static_cast<int32_t>(geometry.pixels - 1) - reach();
  }

  void Forward(Range points) {
    RowsAhead<T> ahead(geometry_, item_);
    T* all_out = static_cast<T*>(item_.out);
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      ahead.Bring(start, points);
      Locate(start, points.last, false);
      T* out = all_out + start * channels;
      for (int i = 0; i < cells_.count; ++i) {
        const Four value = cells_.weights_count[i] ? Value(i) : CarefulValue(i);
        if ((cells_.count - i) * channels >= 4) {
          Store<4>(out + i * channels, value);
        } else {
          StoreFirst<4>(out + i * channels, value, channels);
        }
      }
    }
  }

  void Pull(Range points, Range band) {
    bool wrt_source = false;
    for (int axis = 0; axis < ndim; ++axis) wrt_source |= item_.d_source[axis] != nullptr;
    RowsAhead<T> ahead(geometry_, item_);
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      if (wrt_source) ahead.Bring(start, points);
      Locate(start, points.last, wrt_source);
      const T* cotangent = static_cast<const T*>(item_.cotangent) + start * channels;
      if (item_.d_image != nullptr) AddToImage(cotangent, band);
      if (wrt_source) WriteSlopes(cotangent, start);
    }
  }

 private:
  void Locate(int64_t start, int64_t last, bool with_slopes) {
    cells_.Fill(geometry_, item_, start, last, with_slopes);
    copied_ = -1;
  }

  // Pixels from a cell's first to its last.
  int32_t reach() const {
    return static_cast<int32_t>(step_[rows - 1]) + kCellTaps - 1;
  }

  // The rows of a point's cell.
  struct Place {
    const T* from;
    const int64_t* offset;
    STN_INLINE const T* row(int r) const { return from + offset[r]; }
  };

  STN_INLINE Place PlaceOfCell(int i) {
    const int32_t pixel = cells_.pixel[i];
    // With three channels a load reads one number behind the cell. Behind the image's last cell
    // there is none.
    if (pixel >= 0 && (channels != 3 || pixel != end_)) {
      return {image_ + static_cast<int64_t>(pixel) * channels, image_offset_};
    }
    if (copied_ < 0 || !cells_.Same(i, copied_)) Copy(i);
    return {copy_, copy_offset_};
  }

  __attribute__((noinline)) void Copy(int i) {
    copied_ = i;
    const PixelsOfCell pixels(*this, i);
    T* to = copy_;
    for (int row = 0; row < rows; ++row) {
      for (int tap = 0; tap < kCellTaps; ++tap, to += channels) {
        const int64_t pixel = pixels(row, tap);
        const T* from = pixel < 0 ? fill_ : image_ + pixel * channels;
        for (int c = 0; c < channels; ++c) to[c] = from[c];
      }
    }
  }

  // The numbers of a cell's pixels; negative outside.
  struct PixelsOfCell {
    int32_t start[rows];  // The pixel from which the columns of each row are counted.
    int32_t column[kCellTaps];

    PixelsOfCell(const CellKernels& kernels, int i) {
      const auto& cells = kernels.cells_;
      if (cells.pixel[i] >= 0) {
        for (int row = 0; row < rows; ++row) {
          start[row] = cells.pixel[i] + static_cast<int32_t>(kernels.step_[row]);
        }
        for (int tap = 0; tap < kCellTaps; ++tap) column[tap] = tap;
        return;
      }
      auto index = [&](int axis, int tap) { return cells.index[axis][tap * kBlock + i]; };
      for (int row = 0; row < rows; ++row) {
        const int32_t outer = index(0, row / (rows / kCellTaps));
        const int32_t inner = ndim == 3 ? index(1, row % kCellTaps) : 0;
        start[row] = (outer | inner) < 0 ? kFill : outer + inner;
      }
      for (int tap = 0; tap < kCellTaps; ++tap) column[tap] = index(last_axis, tap);
    }

    STN_INLINE int64_t operator()(int row, int tap) const {
      return (start[row] | column[tap]) < 0 ? kFill : start[row] + column[tap];
    }
  };

  STN_INLINE U Weight(int axis, int tap, int i) const {
    return cells_.weight[axis][i * kCellTaps + tap];
  }

  STN_INLINE U Slope(int axis, int tap, int i) const {
    return cells_.slope[axis][i * kCellTaps + tap];
  }

  STN_INLINE Four Value(int i) {
    const Place place = PlaceOfCell(i);
    Rows sum;
    if constexpr (ndim == 2) {
      for (int r = 0; r < kCellTaps; ++r) sum.Add(Weight(0, r, i), place.row(r));
    } else {
      for (int p = 0; p < kCellTaps; ++p) {
        Rows plane;
        for (int r = 0; r < kCellTaps; ++r) {
          plane.Add(Weight(1, r, i), place.row(p * kCellTaps + r));
        }
        sum.Add(Weight(0, p, i), plane);
      }
    }
    return sum.WeightedSum(cells_.weight[last_axis] + i * kCellTaps);
  }

  // Adds weight × cotangent to the image's gradient. Consecutive points in one cell are summed
  // first. These sums do not depend on the band.
  void AddToImage(const T* cotangent, Range band) {
    U terms[kBlock * padded];
    WidenCotangent<channels>(cells_.count, cotangent, terms);
    for (int i = 0; i < cells_.count;) {
      if (!cells_.weights_count[i]) {
        CarefulAdd(i, terms + i * padded, band);
        ++i;
        continue;
      }
      const int begin = i;
      // A vector holds a row, or half a row of four channels.
      constexpr int width = padded == 1 ? kCellTaps : kLanes;
      Vector<U, width> sums[taps * padded / width] = {};
      do {
        AddPoint(i, terms + i * padded, sums);
        ++i;
      } while (i < cells_.count && cells_.weights_count[i] && cells_.Same(i, begin));
      U numbers[taps * padded];
      std::memcpy(numbers, sums, sizeof(numbers));
      Flush(begin, numbers, band);
    }
  }

  // Adds a point's terms to those of its cell, [taps][channels].
  template <class V>
  STN_INLINE void AddPoint(int i, const U* term, V* sums) const {
    constexpr int parts = padded == 4 ? 2 : 1;  // Of a row.
    const Four along = Load<4>(cells_.weight[last_axis] + i * kCellTaps);
    V product[parts];
    if constexpr (padded == 1) {
      product[0] = term[0] * along;
    } else if constexpr (padded == 2) {
      const U a = term[0], b = term[1];
      product[0] = V{a, b, a, b, a, b, a, b} * Twice<U>(along);
    } else {
      const Four four = Load<4>(term);
      const V both = __builtin_shufflevector(four, four, 0, 1, 2, 3, 0, 1, 2, 3);
      product[0] = both * FirstFourTimes<U>(along);
      product[1] = both * LastFourTimes<U>(along);
    }
    for (int row = 0; row < rows; ++row) {
      U weight = Weight(0, row / (rows / kCellTaps), i);
      if constexpr (ndim == 3) weight *= Weight(1, row % kCellTaps, i);
      for (int p = 0; p < parts; ++p) sums[row * parts + p] += weight * product[p];
    }
  }

  // Adds numbers [taps][channels] to the pixels of a cell within a band, each pixel's by one load
  // and store: where a load overlaps two recent stores, the processor waits for both.
  STN_INLINE void Flush(int i, const U* numbers, Range band) {
    const int64_t size = band.last - band.first;
    const int64_t first = cells_.pixel[i] - band.first;
    U* d_image = static_cast<U*>(item_.d_image);
    if (cells_.pixel[i] < 0 || first < 0 || first + reach() >= size) {
      return FlushAtBorder(i, numbers, band);
    }
    for (int tap = 0; tap < taps; ++tap) {
      AddPixel(d_image + (first + step_[tap / kCellTaps] + tap % kCellTaps) * padded,
               numbers + tap * padded);
    }
  }

  __attribute__((noinline)) void FlushAtBorder(int i, const U* numbers, Range band) {
    const PixelsOfCell pixels(*this, i);
    U* d_image = static_cast<U*>(item_.d_image);
    for (int row = 0; row < rows; ++row) {
      for (int tap = 0; tap < kCellTaps; ++tap, numbers += padded) {
        const int64_t pixel = pixels(row, tap);
        if (pixel < 0 || pixel < band.first || pixel >= band.last) continue;
        AddPixel(d_image + (pixel - band.first) * padded, numbers);
      }
    }
  }

  STN_INLINE static void AddPixel(U* to, const U* numbers) {
    if constexpr (padded == 1) {
      *to += *numbers;
    } else {
      Store<padded>(to, Load<padded>(to) + Load<padded>(numbers));
    }
  }

  // Writes the gradients to the coordinates.
  void WriteSlopes(const T* cotangent, int64_t start) {
    U slopes[ndim][kBlock];
    const Four channel = {0, 1, 2, 3};
    for (int i = 0; i < cells_.count; i += 4) {
      Four terms[ndim][4] = {};
      for (int j = 0; j < 4 && i + j < cells_.count; ++j) {
        const T* from = cotangent + (i + j) * channels;
        const bool may_read_four = (cells_.count - i - j) * channels >= 4;
        const Four all = may_read_four ? Load<4>(from) : LoadFirst<4>(from, channels);
        const Four factor = channel < channels ? all : Four{};
        Four slope[ndim];
        if (cells_.slopes_count[i + j]) {
          SlopesOf(i + j, factor, slope);
        } else {
          CarefulSlopes(i + j, factor, slope);
        }
        for (int axis = 0; axis < ndim; ++axis) terms[axis][j] = slope[axis];
      }
      for (int axis = 0; axis < ndim; ++axis) {
        const Four* t = terms[axis];
        const Four sums = Sums<U>(t[0], t[1], t[2], t[3]);
        const Four moves = Load<4>(cells_.moves[axis] + i);
        Store<4>(slopes[axis] + i, moves != 0 ? sums : Four{});
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      U* out = static_cast<U*>(item_.d_source[axis]);
      if (out == nullptr) continue;
      std::memcpy(out + start, slopes[axis], static_cast<size_t>(cells_.count) * sizeof(U));
    }
  }

  // For each axis, the terms whose sum is the slope.
  STN_INLINE void SlopesOf(int i, Four factor, Four* slope) {
    const Place place = PlaceOfCell(i);
    // Sums over all axes but the last, for the slope along each axis.
    Rows sum[ndim];
    if constexpr (ndim == 2) {
      for (int r = 0; r < kCellTaps; ++r) {
        sum[0].Add(Slope(0, r, i), place.row(r));
        sum[1].Add(Weight(0, r, i), place.row(r));
      }
    } else {
      for (int p = 0; p < kCellTaps; ++p) {
        Rows plane, tilted;
        for (int r = 0; r < kCellTaps; ++r) {
          plane.Add(Weight(1, r, i), place.row(p * kCellTaps + r));
          tilted.Add(Slope(1, r, i), place.row(p * kCellTaps + r));
        }
        sum[0].Add(Slope(0, p, i), plane);
        sum[1].Add(Weight(0, p, i), tilted);
        sum[2].Add(Weight(0, p, i), plane);
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      const U* along = (axis == last_axis ? cells_.slope : cells_.weight)[last_axis];
      slope[axis] = Product(factor, sum[axis].WeightedSum(along + i * kCellTaps));
    }
  }

  // The same, pixel by pixel. Pixels of weight 0 are not read, or count as 0.

  __attribute__((noinline)) Four CarefulValue(int i) {
    const Place place = PlaceOfCell(i);
    Four sum = {};
    for (int tap = 0; tap < taps; ++tap) {
      const U weight = cells_.ProductAt(cells_.weight, i, tap);
      if (weight == 0) continue;
      const T* from = place.row(tap / kCellTaps) + tap % kCellTaps * channels;
      for (int c = 0; c < channels; ++c) sum[c] += weight * Widen(from[c]);
    }
    return sum;
  }

  __attribute__((noinline)) void CarefulAdd(int i, const U* term, Range band) {
    U numbers[taps * padded];
    for (int tap = 0; tap < taps; ++tap) {
      const U weight = cells_.ProductAt(cells_.weight, i, tap);
      for (int c = 0; c < padded; ++c) {
        numbers[tap * padded + c] = Counts(weight) ? weight * term[c] : 0;
      }
    }
    Flush(i, numbers, band);
  }

  __attribute__((noinline)) void CarefulSlopes(int i, Four factor, Four* slope) {
    const Place place = PlaceOfCell(i);
    for (int axis = 0; axis < ndim; ++axis) slope[axis] = Four{};
    for (int tap = 0; tap < taps; ++tap) {
      const T* from = place.row(tap / kCellTaps) + tap % kCellTaps * channels;
      U product = 0;
      for (int c = 0; c < channels; ++c) {
        product += factor[c] == 0 ? 0 : factor[c] * Widen(from[c]);
      }
      for (int axis = last_axis, rest = tap; axis >= 0; --axis, rest /= kCellTaps) {
        const U others = cells_.ProductAt(cells_.weight, i, tap, axis);
        const U own = Slope(axis, rest % kCellTaps, i);
        if (Counts(others) && Counts(own)) slope[axis][0] += own * (others * product);
      }
    }
  }

  const Geometry& geometry_;
  const Item& item_;
  const T* image_;
  const T* fill_;
  int64_t step_[rows];          // Pixels from a cell's first row to each.
  int64_t image_offset_[rows];  // The same in numbers.
  int64_t copy_offset_[rows];
  int32_t end_;  // The first pixel of the cell at the image's end.
  Cells<ndim, U> cells_;
  int copied_ = -1;  // The point whose cell is in `copy_`.
  T copy_[taps * channels + 1] = {};  // One number is read behind three channels.
};

// Calls `body(kernels)` with the kernels for the image's axes and channels.
template <class T, int ndim, class Body>
void WithCellsOf(const Geometry& geometry, const Item& item, const Body& body) {
  switch (geometry.channels) {
    case 1:
      return body(CellKernels<ndim, 1, T>(geometry, item));
    case 2:
      return body(CellKernels<ndim, 2, T>(geometry, item));
    case 3:
      return body(CellKernels<ndim, 3, T>(geometry, item));
    case 4:
      return body(CellKernels<ndim, 4, T>(geometry, item));
  }
}

template <class T, class Body>
void WithCells(const Geometry& geometry, const Item& item, const Body& body) {
  if constexpr (kHasCells<T>) {
    if (geometry.ndim == 2) {
      WithCellsOf<T, 2>(geometry, item, body);
    } else {
      WithCellsOf<T, 3>(geometry, item, body);
    }
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_CELLS_H_
