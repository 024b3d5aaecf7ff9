// Finds the pixels along one axis, and their weights, from coordinates.

#ifndef STN_JAX_NATIVE_KERNELS_LOCATE_H_
#define STN_JAX_NATIVE_KERNELS_LOCATE_H_

#include "block.h"

namespace stn::STN_VARIANT {

// From this distance on float32 has no fractions, so the gradient to a coordinate is 0.
constexpr int32_t kNoFractions = 1 << 23;

STN_INLINE float Floor(float value) { return __builtin_floorf(value); }
STN_INLINE double Floor(double value) { return __builtin_floor(value); }
template <class V>
STN_INLINE V Floor(V values) {
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = Floor(values[lane]);
  return values;
}

// The floor of a number that fits int32.
template <class U>
STN_INLINE int32_t FloorToInt(U value) {
#if defined(__SSE4_1__) || defined(__ARM_NEON)
  return static_cast<int32_t>(Floor(value));
#else
  // The baseline instruction set has no floor.
  int32_t toward_zero = static_cast<int32_t>(value);
  return toward_zero - (static_cast<U>(toward_zero) > value ? 1 : 0);
#endif
}

// One axis of an image under a padding.
template <class U>
struct Axis {
  int32_t size;
  int32_t stride;  // Pixels between neighbours.
  int32_t period;  // After which a periodic padding repeats; else the size.
  int32_t mirror;  // Pixels i and mirror − i are the same under reflection.
  U low, high;     // Coordinates are clipped to these: beyond them the sample does not change.

  Axis() = default;
  Axis(const Geometry& geometry, int axis, int32_t stride)
      : size(static_cast<int32_t>(geometry.size[axis])), stride(stride), period(size), mirror(0) {
    if (geometry.padding == Padding::kReflection) {
      period = geometry.align_corners ? 2 * size - 2 : 2 * size;
      if (period < 1) period = 1;
      mirror = geometry.align_corners ? period : period - 1;
    }
    const int margin = (geometry.kernel_taps + 1) / 2 + 1;
    low = static_cast<U>(-margin);
    high = static_cast<U>(period - 1 + margin);
  }
};

// Applies the padding to the indices of pixels, one or a vector. `rounds` is the largest number of
// periods by which a pixel may lie outside.
template <Padding padding, int rounds, class I, class U>
STN_INLINE I PlaceOf(I i, const Axis<U>& axis) {
  if constexpr (padding == Padding::kConstant) {
    return (i >= 0) & (i < axis.size) ? i * axis.stride : I{} + kFill;
  } else if constexpr (padding == Padding::kBorder) {
    i = i < 0 ? I{} : i;
    return (i < axis.size ? i : I{} + (axis.size - 1)) * axis.stride;
  } else {
    for (int round = 0; round < rounds; ++round) {
      i = i < 0 ? i + axis.period : i;
      i = i >= axis.period ? i - axis.period : i;
    }
    if constexpr (padding == Padding::kReflection) {
      i = i < axis.mirror - i ? i : axis.mirror - i;
    }
    return i * axis.stride;
  }
}

// Coordinates, one or a vector, moved near the image, where the sample is the same; 0 for NaN.
template <Padding padding, class V, class U>
STN_INLINE V Near(V coordinate, const Axis<U>& axis) {
  V near = coordinate;
  if constexpr (padding == Padding::kReflection || padding == Padding::kWrap) {
    const U period = static_cast<U>(axis.period);
    near = near - period * Floor(V(near / period));
  }
  near = near == near ? near : V{};  // NaN; and infinities, if periodic.
  near = near > axis.low ? near : V{} + axis.low;
  return near < axis.high ? near : V{} + axis.high;
}

// NaN at a NaN coordinate, else 0.
template <class U>
STN_INLINE U Spoil(U coordinate) {
  return coordinate == coordinate ? 0 : static_cast<U>(__builtin_nanf(""));
}

// Whether a coordinate has a fraction.
template <class U>
STN_INLINE bool HasFraction(U coordinate) {
  return (coordinate < 0 ? -coordinate : coordinate) < static_cast<U>(kNoFractions);
}

template <Padding padding, int rounds, class U>
void LocateNearest(const Axis<U> axis, const U* __restrict coordinates, int filled,
                   int32_t* __restrict index, U* __restrict weight, U* __restrict moves) {
  ForPoints({0, filled}, [&](int i) STN_INLINE_LAMBDA {
    const U coordinate = coordinates[i], near = Near<padding>(coordinate, axis);
    const int32_t first = FloorToInt(near + static_cast<U>(0.5));
    index[i] = PlaceOf<padding, rounds>(first, axis);
    weight[i] = 1 + Spoil(coordinate);
    moves[i] = HasFraction(coordinate) ? 1 : 0;
  });
}

// The two pixels of the linear kernel along an axis, for a vector of points.
template <class U>
struct LinearTaps {
  Vector<int32_t, kLanes> index[2];
  Vector<U, kLanes> weight[2];
  Vector<U, kLanes> moves;
};

template <Padding padding, int rounds, class U>
STN_INLINE LinearTaps<U> LocateLinear(const Axis<U>& axis, Vector<U, kLanes> coordinate) {
  using Numbers = Vector<U, kLanes>;
  using Integers = Vector<int32_t, kLanes>;
  const Numbers near = Near<padding>(coordinate, axis);
  Integers first = __builtin_convertvector(near, Integers);
  // A conversion rounds toward 0, so it is above a negative number with a fraction.
  const Numbers above = __builtin_convertvector(first, Numbers);
  first += __builtin_convertvector(above > near, Integers);
  const Numbers spoil = coordinate == coordinate ? Numbers{} : coordinate;
  const Numbers fraction = near - __builtin_convertvector(first, Numbers) + spoil;
  LinearTaps<U> taps;
  taps.index[0] = PlaceOf<padding, rounds>(first, axis);
  taps.index[1] = PlaceOf<padding, rounds>(first + 1, axis);
  taps.weight[0] = 1 - fraction;
  taps.weight[1] = fraction;
  const Numbers size = coordinate < 0 ? -coordinate : coordinate;
  taps.moves = size < static_cast<U>(kNoFractions) ? Numbers{} + 1 : Numbers{};
  return taps;
}

template <Padding padding, int rounds, class U>
void LocateLinear(const Axis<U> axis, const U* coordinates, int filled, int32_t* index, U* weight,
                  U* moves) {
  for (int i = 0; i < filled; i += kLanes) {
    const auto taps = LocateLinear<padding, rounds>(axis, Load<kLanes>(coordinates + i));
    for (int tap = 0; tap < 2; ++tap) {
      StoreIntegers(index + tap * kBlock + i, taps.index[tap]);
      Store<kLanes>(weight + tap * kBlock + i, taps.weight[tap]);
    }
    Store<kLanes>(moves + i, taps.moves);
  }
}

// Evaluates a polynomial at the fractions of a block; `factor(p)` is the coefficient of power p.
template <class U, class Factor>
STN_INLINE void Horner(int powers, const Factor& factor, const U* __restrict fraction, Span span,
                       U* __restrict values) {
  const U leading = powers > 0 ? static_cast<U>(factor(powers - 1)) : 0;
  ForPoints(span, [&](int i) STN_INLINE_LAMBDA { values[i] = leading; });
  for (int power = powers - 2; power >= 0; --power) {
    const U term = static_cast<U>(factor(power));
    ForPoints(span, [&](int i) STN_INLINE_LAMBDA { values[i] = values[i] * fraction[i] + term; });
  }
}

// For a kernel that is one polynomial for each tap: the first tap's index before padding, and the
// fraction by which the coordinate lies into its cell.
template <Padding padding, class U>
void LocateCells(const Geometry& geometry, const Axis<U> axis, const U* __restrict coordinates,
                 int filled, int32_t* __restrict first, U* __restrict fraction,
                 U* __restrict moves) {
  // With an odd number of taps the cells begin half way between pixels.
  const U half = geometry.kernel_taps % 2 == 0 ? 0 : static_cast<U>(0.5);
  const int32_t before = (geometry.kernel_taps - 1) / 2;
  constexpr bool clips = padding == Padding::kConstant || padding == Padding::kBorder;
  ForPoints({0, filled}, [&](int i) STN_INLINE_LAMBDA {
    const U coordinate = coordinates[i], near = Near<padding>(coordinate, axis);
    const int32_t whole = FloorToInt(near + half);
    first[i] = whole - before;
    fraction[i] = near - static_cast<U>(whole) + half + Spoil(coordinate);
    bool moving = HasFraction(coordinate);
    // Beyond the limits the sample does not change.
    if constexpr (clips) moving = moving && coordinate > axis.low && coordinate < axis.high;
    moves[i] = moving ? 1 : 0;
  });
}

// The padded indices of a tap.
template <Padding padding, int rounds, class U>
void FillTapIndex(const Axis<U> axis, const int32_t* __restrict first, int filled, int tap,
                  int32_t* __restrict index) {
  ForPoints({0, filled}, [&](int i) STN_INLINE_LAMBDA {
    index[i] = PlaceOf<padding, rounds>(first[i] + tap, axis);
  });
}

// Cells, with the padded index of each tap, the weights and their slopes.
template <Padding padding, int rounds, class U>
void LocatePolynomial(const Geometry& geometry, const Axis<U> axis, const U* coordinates,
                      int filled, int32_t* index, U* weight, U* slope, U* moves) {
  U fraction[kBlock];
  int32_t first[kBlock];
  LocateCells<padding>(geometry, axis, coordinates, filled, first, fraction, moves);
  const Span span = {0, filled};
  const int powers = geometry.powers;
  for (int tap = 0; tap < geometry.kernel_taps; ++tap) {
    const double* c = geometry.coefficients[tap];
    Horner(powers, [&](int p) { return c[p]; }, fraction, span, weight + tap * kBlock);
    Horner(powers - 1, [&](int p) { return (p + 1) * c[p + 1]; }, fraction, span,
           slope + tap * kBlock);
    FillTapIndex<padding, rounds>(axis, first, filled, tap, index + tap * kBlock);
  }
}

// Calls `body(padding, rounds)` with both as compile-time constants. `shortest` is the smallest
// period of the axes.
template <class Body>
STN_INLINE void WithPadding(Padding padding, int32_t shortest, const Body& body) {
  // After clipping, pixels lie within four of the period.
  constexpr std::integral_constant<int, 0> none;
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 5> many;
  const bool once = shortest >= 5;
  switch (padding) {
    case Padding::kConstant:
      return body(std::integral_constant<Padding, Padding::kConstant>(), none);
    case Padding::kBorder:
      return body(std::integral_constant<Padding, Padding::kBorder>(), none);
    case Padding::kReflection: {
      constexpr std::integral_constant<Padding, Padding::kReflection> reflection;
      return once ? body(reflection, one) : body(reflection, many);
    }
    case Padding::kWrap: {
      constexpr std::integral_constant<Padding, Padding::kWrap> wrap;
      return once ? body(wrap, one) : body(wrap, many);
    }
  }
}

// Copies the numbers of a block from an array; the first number fills the padding of the block.
template <class V>
STN_INLINE void CopyFilled(const V* __restrict from, int count, int filled, V* __restrict to) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
  for (int i = count; i < filled; ++i) to[i] = from[0];
}

// Fills a block's axis from coordinates.
template <class U>
void LocateCoordinates(const Geometry& geometry, const Item& item, int64_t first, int axis,
                       int32_t stride, Block<U>& block) {
  const U* coordinates = static_cast<const U*>(item.source[axis]) + first;
  U copy[kBlock];
  if (block.filled > block.count) {
    CopyFilled(coordinates, block.count, block.filled, copy);
    coordinates = copy;
  }
  const Axis<U> rule(geometry, axis, stride);
  const int filled = block.filled;
  int32_t* index = block.index[axis];
  U* weight = block.axis_weight[axis];
  U* slope = block.axis_slope[axis];
  U* moves = block.moves[axis];
  WithPadding(geometry.padding, rule.period, [&](auto padding, auto rounds) {
    switch (geometry.kernel) {
      case Kernel::kNearest:
        return LocateNearest<padding, rounds>(rule, coordinates, filled, index, weight, moves);
      case Kernel::kLinear:
        return LocateLinear<padding, rounds>(rule, coordinates, filled, index, weight, moves);
      case Kernel::kPolynomial:
        return LocatePolynomial<padding, rounds>(geometry, rule, coordinates, filled, index,
                                                 weight, slope, moves);
    }
  });
}

// Fills a block's axes from given indices and weights. Indices outside count as the fill.
template <class U>
void CopyTaps(const Geometry& geometry, const Item& item, int64_t first, int axis, int32_t stride,
              Block<U>& block) {
  const auto size = static_cast<uint32_t>(geometry.size[axis]);
  for (int64_t tap = 0; tap < geometry.taps[axis]; ++tap) {
    const int64_t from = tap * geometry.points + first;
    int32_t* __restrict index = block.index[axis] + tap * kBlock;
    CopyFilled(item.index[axis] + from, block.count, block.filled, index);
    for (int i = 0; i < block.filled; ++i) {
      index[i] = static_cast<uint32_t>(index[i]) < size ? index[i] * stride : kFill;
    }
    CopyFilled(static_cast<const U*>(item.source[axis]) + from, block.count, block.filled,
               block.axis_weight[axis] + tap * kBlock);
  }
}

// Fills one axis from coordinates or from given taps; indices are multiples of the stride.
template <class U>
void FillAxis(const Geometry& geometry, const Item& item, int64_t first, int axis, int32_t stride,
              Block<U>& block) {
  if (geometry.from_coordinates) {
    LocateCoordinates(geometry, item, first, axis, stride, block);
  } else {
    CopyTaps(geometry, item, first, axis, stride, block);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_LOCATE_H_
