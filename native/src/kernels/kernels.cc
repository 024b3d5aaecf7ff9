// The kernels of one variant. The build compiles this file once for each.

#include "locate.h"
#include "slopes.h"

namespace stn::STN_VARIANT {
namespace {

// Does `CALL` with the number of taps as a compile-time constant where it is a common one: of the
// linear kernel in 2 and 3 dimensions, and of cubic ones.
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

template <class T>
void Forward(const Geometry& geometry, const Item& item, Range points) {
  using U = Accumulator<T>;
  Block<U> block(geometry);
  const PixelsOfItem<T> all_pixels(geometry, item);
  const Pixels<T> pixels = all_pixels.pixels();
  const PixelRules rules = {true, ReadsPastLast(geometry)};
  T* out = static_cast<T*>(item.out);
  for (int64_t first = points.first; first < points.last; first += kBlock) {
    FillBlock(geometry, item, first, points.last, rules, block);
#define STN_GATHER(FIXED) Gather<FIXED>(geometry, block, pixels, out + first * geometry.channels)
    STN_WITH_FIXED_TAPS(block.taps, STN_GATHER)
#undef STN_GATHER
  }
}

template <class T>
void Pull(const Geometry& geometry, const Item& item, Range points, Range band) {
  using U = Accumulator<T>;
  if (points.first >= points.last) return;
  Block<U> block(geometry);
  const PixelsOfItem<T> all_pixels(geometry, item);
  const Pixels<T> pixels = all_pixels.pixels();
  const PixelRules rules = {false, ReadsPastLast(geometry)};
  int64_t most_taps = 1;
  bool wrt_source = false;
  for (int axis = 0; axis < geometry.ndim; ++axis) {
    if (geometry.taps[axis] > most_taps) most_taps = geometry.taps[axis];
    wrt_source = wrt_source || item.d_source[axis] != nullptr;
  }
  const bool constant = geometry.from_coordinates && geometry.kernel == Kernel::kNearest;
  Memory memory(most_taps * kBlock * static_cast<int64_t>(sizeof(U)));
  U* sums = memory.take<U>(most_taps * kBlock);
  const T* all_cotangents = static_cast<const T*>(item.cotangent);
  U* d_image = static_cast<U*>(item.d_image);
  for (int64_t first = points.first; first < points.last; first += kBlock) {
    FillBlock(geometry, item, first, points.last, rules, block);
    const T* cotangent = all_cotangents + first * geometry.channels;
    if (d_image != nullptr) {
#define STN_SCATTER(FIXED) Scatter<FIXED>(geometry, block, cotangent, band, d_image)
      STN_WITH_FIXED_TAPS(block.taps, STN_SCATTER)
#undef STN_SCATTER
    }
    if (!wrt_source) continue;
    if (!constant) {
#define STN_MULTIPLY(FIXED) Multiply<FIXED>(geometry, block, pixels, cotangent)
      STN_WITH_FIXED_TAPS(block.taps, STN_MULTIPLY)
#undef STN_MULTIPLY
    }
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      if (item.d_source[axis] == nullptr) continue;
      WriteSourceGradient(geometry, block, axis, first, sums,
                          static_cast<U*>(item.d_source[axis]));
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
  const PixelRules rules = {false, false};
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
  return {Forward<T>, Pull<T>, TouchedRows<Accumulator<T>>, Finish<T>, Add<Accumulator<T>>};
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
