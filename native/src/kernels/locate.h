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

  Axis(int64_t pixels, int32_t stride, Padding padding, bool align_corners)
      : size(static_cast<int32_t>(pixels)), stride(stride), period(size), mirror(0) {
    if (padding == Padding::kReflection) {
      period = align_corners ? 2 * size - 2 : 2 * size;
      if (period < 1) period = 1;
      mirror = align_corners ? period : period - 1;
    }
    low = -2;
    high = static_cast<U>(period - 1) + 2;
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

template <Kernel kernel, Padding padding, int rounds, class U>
void LocateAlong(const Axis<U> axis, const U* __restrict coordinates, int filled,
                 int32_t* __restrict index, U* __restrict weight, U* __restrict moves) {
  constexpr bool periodic = padding == Padding::kReflection || padding == Padding::kWrap;
  const U nan = static_cast<U>(__builtin_nanf(""));
  const U period = static_cast<U>(axis.period);
  ForPoints({0, filled}, [&](int i) STN_INLINE_LAMBDA {
    const U coordinate = coordinates[i];
    U near = coordinate;
    if constexpr (periodic) near = near - period * Floor(near / period);
    near = near == near ? near : 0;  // NaN; and infinities, if periodic.
    near = near > axis.low ? near : axis.low;
    near = near < axis.high ? near : axis.high;
    // Adding NaN makes the weight NaN at a NaN coordinate.
    const U spoil = coordinate == coordinate ? 0 : nan;
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
    const U distance = coordinate < 0 ? -coordinate : coordinate;
    moves[i] = distance < static_cast<U>(kNoFractions) ? 1 : 0;
  });
}

template <Kernel kernel, class U>
void LocateAlong(const Axis<U>& axis, Padding padding, const U* coordinates, int filled,
                 int32_t* index, U* weight, U* moves) {
#define STN_LOCATE(PADDING, ROUNDS) \
  LocateAlong<kernel, Padding::PADDING, ROUNDS>(axis, coordinates, filled, index, weight, moves)
  // Clipped coordinates lie within three pixels of the period.
  const bool once = axis.period >= 4;
  switch (padding) {
    case Padding::kConstant:
      return STN_LOCATE(kConstant, 0);
    case Padding::kBorder:
      return STN_LOCATE(kBorder, 0);
    case Padding::kReflection:
      return once ? STN_LOCATE(kReflection, 1) : STN_LOCATE(kReflection, 3);
    case Padding::kWrap:
      return once ? STN_LOCATE(kWrap, 1) : STN_LOCATE(kWrap, 3);
  }
#undef STN_LOCATE
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
  Axis<U> rule(geometry.size[axis], stride, geometry.padding, geometry.align_corners);
  auto locate = geometry.kernel == Kernel::kLinear ? LocateAlong<Kernel::kLinear, U>
                                                   : LocateAlong<Kernel::kNearest, U>;
  locate(rule, geometry.padding, coordinates, span.last - span.first,
         block.index[axis] + span.first, block.axis_weight[axis] + span.first,
         block.moves[axis] + span.first);
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
