// The coordinates of boxes in an array of box means, and the gradients to the points and footprints
// that they lie in.

#ifndef STN_JAX_NATIVE_KERNELS_BOX_PLACES_H_
#define STN_JAX_NATIVE_KERNELS_BOX_PLACES_H_

#include "locate.h"

namespace stn::STN_VARIANT {

// The first `count` of `n` numbers in memory; the others are 0.
template <int n, class U>
STN_INLINE Vector<U, n> LoadUpTo(const U* from, int64_t count) {
  return count == n ? Load<n>(from) : LoadFirst<n>(from, count);
}

template <int n, class U>
STN_INLINE void StoreUpTo(U* to, Vector<U, n> values, int64_t count) {
  count == n ? Store<n>(to, values) : StoreFirst<n>(to, values, count);
}

// The boxes of a level along an axis.
template <class U>
struct LevelOfBoxes {
  using V = Vector<U, kLanes>;
  V density;  // Boxes in a pixel.
  V first;    // The pixel of the first box.
  V high;     // The largest coordinate, counted in boxes from the first.
  V start;    // The entry of the first box.
};

// A range's points along an axis.
template <class U>
class BoxAxis {
 public:
  using V = Vector<U, kLanes>;
  using Integers = Vector<int32_t, kLanes>;

  BoxAxis(const Geometry& geometry, const Boxes& boxes, int axis, int64_t box)
      : rule_(geometry, axis, 1),
        boxes_(boxes),
        axis_(axis),
        low_(V{} + static_cast<U>(-boxes.reach)) {
    U offset = 0;
    for (int edge = 0; edge < geometry.ndim; ++edge) {
      sign[edge] = (box >> (geometry.ndim - 1 - edge) & 1) != 0 ? 1 : -1;
      if (!boxes.each_point) offset += sign[edge] * static_cast<const U*>(boxes.edge[edge][axis])[0];
    }
    if (boxes.each_point) return;
    level_ = LevelOf(Integers{} + boxes.level[axis][0]);
    offset_ = V{} + offset;
  }

  // Along each edge, the side on which the box lies.
  U sign[kMaxNdim];

  // For the `count` points of a vector: their coordinates in the array, and how much these grow with
  // the pixel coordinate.
  template <Padding padding, int ndim>
  STN_INLINE void Place(const U* pixels, int64_t point, int64_t count, V& place, V& growth) const {
    LevelOfBoxes<U> level = level_;
    V offset = offset_, has_boxes = V{} + 1;
    if (boxes_.each_point) {
      Integers levels = {};
      for (int64_t lane = 0; lane < count; ++lane) levels[lane] = boxes_.level[axis_][point + lane];
      has_boxes = __builtin_convertvector(levels >= 0 ? Integers{} + 1 : Integers{}, V);
      level = LevelOf(levels);
      offset = V{};
      for (int edge = 0; edge < ndim; ++edge) {
        const U* edges = static_cast<const U*>(boxes_.edge[edge][axis_]);
        offset += sign[edge] * LoadUpTo<kLanes>(edges + point, count);
      }
    }
    V at = LoadUpTo<kLanes>(pixels + point, count) + offset;
    growth = level.density;
    if constexpr (padding == Padding::kReflection || padding == Padding::kWrap) {
      const U period = static_cast<U>(rule_.period);
      at = at - period * Floor(V(at / period));
      if constexpr (padding == Padding::kReflection) {
        const V mirrored = static_cast<U>(rule_.mirror) - at;
        // At the mirror itself the slope is that on the right.
        growth = at <= mirrored ? growth : -growth;
        at = at <= mirrored ? at : mirrored;
      }
    }
    // NaN stays.
    const V free = (at - level.first) * level.density;
    growth = (free > low_) & (free < level.high) ? growth * has_boxes : V{};
    place = free < low_ ? low_ : free;
    place = (place > level.high ? level.high : place) + level.start;
  }

 private:
  STN_INLINE LevelOfBoxes<U> LevelOf(Integers levels) const {
    LevelOfBoxes<U> result = {};
    const Integers highest = Integers{} + (boxes_.levels[axis_] - 1);
    levels = levels < 0 ? Integers{} : levels;
    levels = levels < highest ? levels : highest;
    // From level 1 on the first box is centred on the edge; above it boxes lie half as dense.
    const Integers above = levels > 0 ? Integers{} + 1 : Integers{};
    const Integers halvings = levels - above;
    const Integers last = ((rule_.size - 1) >> halvings) + above;
    Integers start = {};
    for (int lane = 0; lane < kLanes; ++lane) start[lane] = boxes_.start[axis_][levels[lane]];
    // Exact: a power of two.
    result.density = 1 / __builtin_convertvector((Integers{} + 1) << halvings, V);
    result.first = __builtin_convertvector(above, V) * static_cast<U>(-0.5);
    result.high = __builtin_convertvector(last + boxes_.reach, V);
    result.start = __builtin_convertvector(start, V);
    return result;
  }

  Axis<U> rule_;
  const Boxes& boxes_;
  int axis_;
  V low_;
  LevelOfBoxes<U> level_ = {};
  V offset_ = {};
};

template <Padding padding, int ndim, class U>
void BoxPlaces(const Geometry& geometry, const Boxes& boxes, int64_t box, const void* const* pixels,
               Range points, void* const* places) {
  const int64_t count = points.last - points.first;
  for (int axis = 0; axis < ndim; ++axis) {
    const BoxAxis<U> of_axis(geometry, boxes, axis, box);
    const U* from = static_cast<const U*>(pixels[axis]);
    U* to = static_cast<U*>(places[axis]);
    for (int64_t i = 0; i < count; i += kLanes) {
      Vector<U, kLanes> place, growth;
      const int64_t now = count - i < kLanes ? count - i : kLanes;
      of_axis.template Place<padding, ndim>(from, points.first + i, now, place, growth);
      // Whole vectors: arrays of places have room for one more.
      Store<kLanes>(to + i, place);
    }
  }
}

template <Padding padding, int ndim, class U>
void BoxPlacesPull(const Geometry& geometry, const Boxes& boxes, int64_t box,
                   const void* const* pixels, Range points, const BoxGradients& gradients) {
  using V = Vector<U, kLanes>;
  const int64_t count = points.last - points.first;
  const U share = static_cast<U>(1) / static_cast<U>(1 << ndim);
  for (int axis = 0; axis < ndim; ++axis) {
    const BoxAxis<U> of_axis(geometry, boxes, axis, box);
    const U* from = static_cast<const U*>(pixels[axis]);
    const U* slopes = static_cast<const U*>(gradients.slope[axis]);
    U* d_pixel = static_cast<U*>(gradients.d_pixel[axis]);
    V sum = {};
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t point = points.first + i, now = count - i < kLanes ? count - i : kLanes;
      V place, growth;
      of_axis.template Place<padding, ndim>(from, point, now, place, growth);
      const V slope = LoadUpTo<kLanes>(slopes + i, now) * (growth * share);
      StoreUpTo<kLanes>(d_pixel + point, LoadUpTo<kLanes>(d_pixel + point, now) + slope, now);
      if (!boxes.each_point) {
        sum += slope;
        continue;
      }
      for (int edge = 0; edge < ndim; ++edge) {
        U* to = static_cast<U*>(gradients.d_edge[edge][axis]) + point;
        StoreUpTo<kLanes>(to, LoadUpTo<kLanes>(to, now) + of_axis.sign[edge] * slope, now);
      }
    }
    if (boxes.each_point) continue;
    const U total = SumOf<U, kLanes>(sum);
    for (int edge = 0; edge < ndim; ++edge) {
      *static_cast<U*>(gradients.d_edge[edge][axis]) += of_axis.sign[edge] * total;
    }
  }
}

// Calls `body(padding, ndim)` with both as compile-time constants.
template <class Body>
STN_INLINE void WithPaddingAndNdim(const Geometry& geometry, const Body& body) {
  WithPadding(geometry.padding, INT32_MAX, [&](auto padding, auto) {
    switch (geometry.ndim) {
      case 1:
        return body(padding, std::integral_constant<int, 1>());
      case 2:
        return body(padding, std::integral_constant<int, 2>());
      default:
        return body(padding, std::integral_constant<int, 3>());
    }
  });
}

template <class U>
void BoxPlaces(const Geometry& geometry, const Boxes& boxes, int64_t box, const void* const* pixels,
               Range points, void* const* places) {
  WithPaddingAndNdim(geometry, [&](auto padding, auto ndim) {
    BoxPlaces<padding, ndim, U>(geometry, boxes, box, pixels, points, places);
  });
}

template <class U>
void BoxPlacesPull(const Geometry& geometry, const Boxes& boxes, int64_t box,
                   const void* const* pixels, Range points, const BoxGradients& gradients) {
  WithPaddingAndNdim(geometry, [&](auto padding, auto ndim) {
    BoxPlacesPull<padding, ndim, U>(geometry, boxes, box, pixels, points, gradients);
  });
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_BOX_PLACES_H_
