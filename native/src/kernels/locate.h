// Finds the pixels along each axis, and their weights, from coordinates.

#ifndef STN_JAX_NATIVE_KERNELS_LOCATE_H_
#define STN_JAX_NATIVE_KERNELS_LOCATE_H_

#include "plain.h"

namespace stn::STN_VARIANT {

// From this distance on float32 has no fractions, so the gradient to a coordinate is 0.
constexpr int32_t kNoFractions = 1 << 23;

STN_INLINE float Floor(float value) { return __builtin_floorf(value); }
STN_INLINE double Floor(double value) { return __builtin_floor(value); }

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

  Axis(int64_t pixels, int32_t stride, Padding padding, bool align_corners, int taps)
      : size(static_cast<int32_t>(pixels)), stride(stride), period(size), mirror(0) {
    if (padding == Padding::kReflection) {
      period = align_corners ? 2 * size - 2 : 2 * size;
      if (period < 1) period = 1;
      mirror = align_corners ? period : period - 1;
    }
    const int margin = (taps + 1) / 2 + 1;
    low = static_cast<U>(-margin);
    high = static_cast<U>(period - 1 + margin);
  }
};

// Applies the padding to the index of a pixel. `rounds` is the largest number of periods by which
// the pixel may lie outside.
template <Padding padding, int rounds, class U>
STN_INLINE int32_t PlaceOf(int32_t i, const Axis<U>& axis) {
  if constexpr (padding == Padding::kConstant) {
    const bool inside = static_cast<uint32_t>(i) < static_cast<uint32_t>(axis.size);
    return inside ? i * axis.stride : kFill;
  } else if constexpr (padding == Padding::kBorder) {
    i = i < 0 ? 0 : i;
    return (i < axis.size ? i : axis.size - 1) * axis.stride;
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

// A coordinate moved near the image, where the sample is the same; 0 for NaN.
template <Padding padding, class U>
STN_INLINE U Near(U coordinate, const Axis<U>& axis) {
  U near = coordinate;
  if constexpr (padding == Padding::kReflection || padding == Padding::kWrap) {
    const U period = static_cast<U>(axis.period);
    near = near - period * Floor(near / period);
  }
  near = near == near ? near : 0;  // NaN; and infinities, if periodic.
  near = near > axis.low ? near : axis.low;
  return near < axis.high ? near : axis.high;
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

template <Kernel kernel, Padding padding, int rounds, class U>
void LocateAlong(const Axis<U> axis, const U* __restrict coordinates, int filled,
                 int32_t* __restrict index, U* __restrict weight, U* __restrict moves) {
  ForPoints({0, filled}, [&](int i) STN_INLINE_LAMBDA {
    const U coordinate = coordinates[i], near = Near<padding>(coordinate, axis);
    const U spoil = Spoil(coordinate);
    if constexpr (kernel == Kernel::kLinear) {
      const int32_t first = FloorToInt(near);
      const U fraction = near - static_cast<U>(first) + spoil;
      index[i] = PlaceOf<padding, rounds>(first, axis);
      index[kBlock + i] = PlaceOf<padding, rounds>(first + 1, axis);
      weight[i] = 1 - fraction;
      weight[kBlock + i] = fraction;
    } else {
      const int32_t first = FloorToInt(near + static_cast<U>(0.5));
      index[i] = PlaceOf<padding, rounds>(first, axis);
      weight[i] = 1 + spoil;
    }
    moves[i] = HasFraction(coordinate) ? 1 : 0;
  });
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

// The same for a kernel that is one polynomial for each tap; also the weights' slopes.
template <Padding padding, int rounds, class U>
void LocatePolynomial(const Geometry& geometry, const Axis<U> axis, const U* __restrict coordinates,
                      int filled, int32_t* __restrict index, U* weight, U* slope,
                      U* __restrict moves) {
  const Span span = {0, filled};
  const int taps = geometry.kernel_taps, powers = geometry.powers;
  // With an odd number of taps the cells begin half way between pixels.
  const U half = taps % 2 == 0 ? 0 : static_cast<U>(0.5);
  const int32_t before = (taps - 1) / 2;
  constexpr bool clips = padding == Padding::kConstant || padding == Padding::kBorder;
  U fraction[kBlock];
  int32_t first[kBlock];
  ForPoints(span, [&](int i) STN_INLINE_LAMBDA {
    const U coordinate = coordinates[i], near = Near<padding>(coordinate, axis);
    const int32_t whole = FloorToInt(near + half);
    first[i] = whole - before;
    fraction[i] = near - static_cast<U>(whole) + half + Spoil(coordinate);
    bool moving = HasFraction(coordinate);
    // Beyond the limits the sample does not change.
    if constexpr (clips) moving = moving && coordinate > axis.low && coordinate < axis.high;
    moves[i] = moving ? 1 : 0;
  });
  for (int tap = 0; tap < taps; ++tap) {
    const double* c = geometry.coefficients[tap];
    Horner(powers, [&](int p) { return c[p]; }, fraction, span, weight + tap * kBlock);
    Horner(powers - 1, [&](int p) { return (p + 1) * c[p + 1]; }, fraction, span,
           slope + tap * kBlock);
    ForPoints(span, [&](int i) STN_INLINE_LAMBDA {
      index[tap * kBlock + i] = PlaceOf<padding, rounds>(first[i] + tap, axis);
    });
  }
}

// Calls `body(padding, rounds)` with both as compile-time constants.
template <class U, class Body>
STN_INLINE void WithPadding(const Axis<U>& axis, Padding padding, const Body& body) {
  // After clipping, pixels lie within four of the period.
  constexpr std::integral_constant<int, 0> none;
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 5> many;
  const bool once = axis.period >= 5;
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
                       int32_t stride, Span span, Block<U>& block) {
  const U* coordinates = static_cast<const U*>(item.source[axis]) + first + span.first;
  U copy[kBlock];
  if (span.last > block.count) {
    CopyFilled(coordinates, block.count - span.first, span.last - span.first, copy);
    coordinates = copy;
  }
  const Axis<U> rule(geometry.size[axis], stride, geometry.padding, geometry.align_corners,
                     geometry.kernel_taps);
  const int filled = span.last - span.first;
  int32_t* index = block.index[axis] + span.first;
  U* weight = block.axis_weight[axis] + span.first;
  U* slope = block.axis_slope[axis] + span.first;
  U* moves = block.moves[axis] + span.first;
  WithPadding(rule, geometry.padding, [&](auto padding, auto rounds) {
    switch (geometry.kernel) {
      case Kernel::kNearest:
        return LocateAlong<Kernel::kNearest, padding, rounds>(rule, coordinates, filled, index,
                                                              weight, moves);
      case Kernel::kLinear:
        return LocateAlong<Kernel::kLinear, padding, rounds>(rule, coordinates, filled, index,
                                                             weight, moves);
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
    LocateCoordinates(geometry, item, first, axis, stride, {0, block.filled}, block);
  } else {
    CopyTaps(geometry, item, first, axis, stride, block);
  }
}

// Fills a block with the points from `first` on, up to `last` or the block's end.
template <class U>
void FillBlock(const Geometry& geometry, const Item& item, int64_t first, int64_t last,
               PixelRules rules, Block<U>& block) {
  block.resize(last - first < kBlock ? last - first : kBlock);
  if (!geometry.from_coordinates) {
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      CopyTaps(geometry, item, first, axis, StrideOf(geometry, axis), block);
    }
    return CombineAxes(geometry, rules, {0, block.filled}, block);
  }
  if (rules.may_be_plain) FillPlain(geometry, item, first, rules, block);
  block.ForRuns([&](Span span, bool plain) {
    if (plain) return;
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      LocateCoordinates(geometry, item, first, axis, StrideOf(geometry, axis), span, block);
    }
    CombineAxes(geometry, rules, span, block);
  });
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_LOCATE_H_
