// The kernels of one variant. The build compiles this file once for each.

#include "affine.h"
#include "ahead.h"
#include "box_places.h"
#include "cells.h"
#include "fill.h"
#include "paths.h"
#include "slopes.h"

namespace stn::STN_VARIANT {
namespace {

// Does `CALL` with the number of taps as a compile-time constant if it is a common one: that of the
// linear kernel in 2 and 3 dimensions, and of cubic kernels.
#define STN_WITH_FIXED_TAPS(TAPS, CALL) \
  switch (TAPS) {                       \
    case 4:                             \
      CALL(4);                          \
      break;                            \
    case 8:                             \
      CALL(8);                          \
      break;                            \
    case 16:                            \
      CALL(16);                         \
      break;                            \
    default:                            \
      CALL(0);                          \
  }

// Does `CALL` with the number of axes as a compile-time constant.
#define STN_WITH_NDIM(NDIM, CALL) \
  switch (NDIM) {                 \
    case 1:                       \
      CALL(1);                    \
      break;                      \
    case 2:                       \
      CALL(2);                    \
      break;                      \
    default:                      \
      CALL(3);                    \
  }

// Runs the macro STN_PLAIN on plain points, with the number of axes as a constant, STN_OUTSIDE on
// points outside, and STN_OTHER on other points, with the number of taps as a constant.
#define STN_BY_KIND(KIND)                       \
  switch (KIND) {                               \
    case Kind::kPlain:                          \
      STN_WITH_NDIM(geometry.ndim, STN_PLAIN)   \
      break;                                    \
    case Kind::kOutside:                        \
      STN_OUTSIDE;                              \
      break;                                    \
    case Kind::kOther:                          \
      STN_WITH_FIXED_TAPS(block.taps, STN_OTHER) \
  }

PixelRules RulesOf(const Geometry& geometry, bool leave_out_weightless) {
  const bool linear = geometry.from_coordinates && geometry.kernel == Kernel::kLinear;
  return {leave_out_weightless, ReadsPastLast(geometry),
          linear && geometry.channels > 0 && geometry.channels <= kFewChannels,
          linear && geometry.padding == Padding::kConstant};
}

template <class T>
void Forward(const Geometry& geometry, const Item& item, Range points) {
  using U = Accumulator<T>;
  if (UsesCells<T>(geometry)) {
    return WithCells<T>(geometry, item, [&](auto&& kernels) { kernels.Forward(points); });
  }
  Block<U> block(geometry);
  const PixelsOfItem<T> all_pixels(geometry, item);
  const Pixels<T> pixels = all_pixels.pixels();
  const PixelRules rules = RulesOf(geometry, true);
  RowsAhead<T> ahead(geometry, item);
  T* all_out = static_cast<T*>(item.out);
  for (int64_t first = points.first; first < points.last; first += kBlock) {
    ahead.Bring(first, points);
    FillBlock(geometry, item, first, points.last, rules, block);
    T* out = all_out + first * geometry.channels;
    block.ForRuns([&](Span span, Kind kind) {
#define STN_PLAIN(NDIM) GatherPlain<NDIM>(geometry, block, span, pixels, out)
#define STN_OTHER(FIXED) Gather<FIXED>(geometry, block, span, pixels, out)
#define STN_OUTSIDE WriteFill(geometry.channels, span, all_pixels.fill(), out)
      STN_BY_KIND(kind)
#undef STN_PLAIN
#undef STN_OTHER
#undef STN_OUTSIDE
    });
  }
}

// Adds a block's contributions to the image's gradient.
template <class T, class U>
void ScatterBlock(const Geometry& geometry, const Block<U>& block, const T* cotangent, Range band,
                  U* d_image) {
  U terms[kBlock * kFewChannels];
  WidenCotangent(geometry, block, cotangent, terms);
  block.ForRuns([&](Span span, Kind kind) {
#define STN_PLAIN(NDIM) ScatterPlain<NDIM>(geometry, block, span, terms, band, d_image)
#define STN_OTHER(FIXED) Scatter<FIXED>(geometry, block, span, cotangent, terms, band, d_image)
#define STN_OUTSIDE static_cast<void>(span)
    STN_BY_KIND(kind)
#undef STN_PLAIN
#undef STN_OTHER
#undef STN_OUTSIDE
  });
}

// Fills the products of some points of a block.
template <class T, class U>
void Multiply(const Geometry& geometry, Block<U>& block, Span span, const Pixels<T>& pixels,
              const T* cotangent) {
#define STN_MULTIPLY(FIXED) Multiply<FIXED>(geometry, block, span, pixels, cotangent)
  STN_WITH_FIXED_TAPS(block.taps, STN_MULTIPLY)
#undef STN_MULTIPLY
}

// The gradients to the coordinates of a block, [axes][kBlock].
template <class T, class U>
void SlopesOfBlock(const Geometry& geometry, Block<U>& block, const Pixels<T>& pixels,
                   const T* cotangent, U* slopes) {
  if (geometry.kernel == Kernel::kPolynomial) {
    Multiply(geometry, block, {0, block.filled}, pixels, cotangent);
    return PolynomialSlopes(geometry, block, slopes);
  }
  if (geometry.kernel == Kernel::kNearest) {
    std::memset(slopes, 0, static_cast<size_t>(geometry.ndim * kBlock) * sizeof(U));
    return;
  }
  block.ForRuns([&](Span span, Kind kind) {
    if (kind == Kind::kOutside) {
      for (int axis = 0; axis < geometry.ndim; ++axis) {
        for (int i = span.first; i < span.last; ++i) slopes[axis * kBlock + i] = 0;
      }
      return;
    }
    if (kind == Kind::kPlain) {
#define STN_SLOPES(NDIM) SlopesPlain<NDIM>(geometry, block, span, pixels, cotangent, slopes)
      STN_WITH_NDIM(geometry.ndim, STN_SLOPES)
#undef STN_SLOPES
      return;
    }
    if (geometry.channels == 1) {
#define STN_SLOPES(NDIM) SlopesOne<NDIM>(block, span, pixels, cotangent, slopes)
      STN_WITH_NDIM(geometry.ndim, STN_SLOPES)
#undef STN_SLOPES
      return;
    }
    Multiply(geometry, block, span, pixels, cotangent);
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      LinearSlopes(geometry.ndim, axis, block, span, slopes + axis * kBlock);
    }
  });
}

template <class T>
void Pull(const Geometry& geometry, const Item& item, Range points, Range band) {
  using U = Accumulator<T>;
  if (points.first >= points.last) return;
  if (UsesCells<T>(geometry)) {
    return WithCells<T>(geometry, item, [&](auto&& kernels) { kernels.Pull(points, band); });
  }
  Block<U> block(geometry);
  const PixelsOfItem<T> all_pixels(geometry, item);
  const Pixels<T> pixels = all_pixels.pixels();
  const PixelRules rules = RulesOf(geometry, false);
  int64_t most = geometry.ndim;
  bool wrt_source = false;
  for (int axis = 0; axis < geometry.ndim; ++axis) {
    if (geometry.taps[axis] > most) most = geometry.taps[axis];
    wrt_source = wrt_source || item.d_source[axis] != nullptr;
  }
  Memory memory(most * kBlock * static_cast<int64_t>(sizeof(U)));
  U* sums = memory.take<U>(most * kBlock);
  RowsAhead<T> ahead(geometry, item);
  const T* all_cotangents = static_cast<const T*>(item.cotangent);
  U* d_image = static_cast<U*>(item.d_image);
  for (int64_t first = points.first; first < points.last; first += kBlock) {
    if (wrt_source) ahead.Bring(first, points);
    FillBlock(geometry, item, first, points.last, rules, block);
    const T* cotangent = all_cotangents + first * geometry.channels;
    if (d_image != nullptr) ScatterBlock(geometry, block, cotangent, band, d_image);
    if (!wrt_source) continue;
    if (geometry.from_coordinates) {
      SlopesOfBlock(geometry, block, pixels, cotangent, sums);
    } else {
      Multiply(geometry, block, {0, block.filled}, pixels, cotangent);
    }
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      U* out = static_cast<U*>(item.d_source[axis]);
      if (out == nullptr) continue;
      const U* from = sums + axis * kBlock;
      int64_t rows = 1;
      if (!geometry.from_coordinates) {
        WeightGradient(geometry, block, axis, sums);
        from = sums;
        rows = geometry.taps[axis];
      }
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(out + row * geometry.points + first, from + row * kBlock,
                    static_cast<size_t>(block.count) * sizeof(U));
      }
    }
  }
}

template <class U>
void TouchedRows(const Geometry& geometry, const Item& item, Range blocks, Rows* rows) {
  Block<U> block(geometry);
  for (int64_t b = blocks.first; b < blocks.last; ++b) {
    const int64_t first = b * kBlock;
    block.resize(geometry.points - first < kBlock ? geometry.points - first : kBlock);
    FillAxis(geometry, item, first, 0, 1, block);
    Rows touched = {INT32_MAX, 0};
    for (int64_t tap = 0; tap < geometry.taps[0]; ++tap) {
      const int32_t* index = block.index[0] + tap * kBlock;
      for (int i = 0; i < block.filled; ++i) {
        const int32_t low = index[i] < 0 ? INT32_MAX : index[i];
        const int32_t end = index[i] + 1;
        touched.first = low < touched.first ? low : touched.first;
        touched.last = end > touched.last ? end : touched.last;
      }
    }
    rows[b - blocks.first] = touched;
  }
}

template <class T>
void Finish(const Geometry& geometry, const void* accumulators, int64_t pixels, void* d_image) {
  const auto* __restrict from = static_cast<const Accumulator<T>*>(accumulators);
  T* __restrict to = static_cast<T*>(d_image);
  if (geometry.channels == 3) {
    for (int64_t i = 0; i + 1 < pixels; ++i) Store<4>(to + i * 3, Load<4>(from + i * 4));
    if (pixels > 0) {
      StoreFirst<4>(to + (pixels - 1) * 3, Load<4>(from + (pixels - 1) * 4), 3);
    }
    return;
  }
  const int64_t count = pixels * geometry.channels;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store<kLanes>(to + i, Load<kLanes>(from + i));
  for (; i < count; ++i) to[i] = Narrow<T>(from[i]);
}

template <class U>
void Add(const void* terms, int64_t count, void* sums) {
  const U* __restrict from = static_cast<const U*>(terms);
  U* __restrict to = static_cast<U*>(sums);
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <class E, class U>
void Bytes(const Geometry& geometry, const Item& item, Range points) {
  Block<U> block(geometry);
  const PixelRules rules = {};
  const E* image = static_cast<const E*>(item.image);
  const E* fill = static_cast<const E*>(item.fill);
  const int64_t channels = geometry.channels;
  for (int64_t first = points.first; first < points.last; first += kBlock) {
    FillBlock(geometry, item, first, points.last, rules, block);
    E* out = static_cast<E*>(item.out) + first * channels;
    for (int i = 0; i < block.count; ++i) {
      const E* from = block.pixel[i] < 0 ? fill : image + block.pixel[i] * channels;
      for (int64_t c = 0; c < channels; ++c) out[i * channels + c] = from[c];
    }
  }
}

template <class T>
constexpr Kernels KernelsOf() {
  using U = Accumulator<T>;
  Kernels kernels = {Forward<T>, Pull<T>,           TouchedRows<U>, Finish<T>, Add<U>,
                     Coordinates<U>, MatrixGradient<U>, BoxPlaces<U>,   BoxPlacesPull<U>,
                     nullptr,        nullptr};
  if constexpr (std::is_same_v<T, U>) {
    kernels.follow = Follow<U>;
    kernels.follow_pull = FollowPull<U>;
  }
  return kernels;
}

#define STN_STRING_OF(NAME) #NAME
#define STN_STRING(NAME) STN_STRING_OF(NAME)

}  // namespace

extern const Variant kVariant;
const Variant kVariant = {
    STN_STRING(STN_VARIANT),
    {KernelsOf<float>(), KernelsOf<double>(), KernelsOf<BFloat16>(), KernelsOf<Half>()},
    {{Bytes<uint8_t, float>, Bytes<uint8_t, double>},
     {Bytes<uint16_t, float>, Bytes<uint16_t, double>},
     {Bytes<uint32_t, float>, Bytes<uint32_t, double>},
     {Bytes<uint64_t, float>, Bytes<uint64_t, double>}}};

}  // namespace stn::STN_VARIANT
