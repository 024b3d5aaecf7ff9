// Loads rows of the image into the cache before points read single pixels of them.
//
// Under a rotation or shear, the points of an output row lie on many rows of the image, and each
// first read of a row would wait for memory. If rows are read from end to end, the processor
// prefetches by itself.

#ifndef STN_JAX_NATIVE_KERNELS_AHEAD_H_
#define STN_JAX_NATIVE_KERNELS_AHEAD_H_

#include "block.h"

namespace stn::STN_VARIANT {

// Smaller images fit a fast cache, so loading their rows ahead gains nothing.
constexpr int64_t kBytesOfSmallImage = int64_t{64} << 10;

// Rows (indices along the first axis) are loaded for this many points at a time.
constexpr int64_t kPointsAhead = 8 * kBlock;

template <class T>
class RowsAhead {
 public:
  RowsAhead(const RowsAhead&) = delete;
  RowsAhead(const Geometry& geometry, const Item& item)
      : image_(static_cast<const char*>(item.image)),
        coordinates_(static_cast<const U*>(item.source[0])),
        rows_(geometry.size[0]),
        bytes_(geometry.pixels * geometry.channels * static_cast<int64_t>(sizeof(T))),
        brought_(item.rows_ahead != nullptr ? item.rows_ahead : &own_) {
    if (!geometry.from_coordinates || bytes_ < kBytesOfSmallImage) coordinates_ = nullptr;
  }

  // Call it with each block of a range of points. It loads the rows for several blocks at a time,
  // except rows that it has already loaded.
  STN_INLINE void Bring(int64_t first, Range points) {
    if (coordinates_ == nullptr || (first - points.first) % kPointsAhead != 0) return;
    const int64_t left = points.last - first;
    BringFor({first, first + (left < kPointsAhead ? left : kPointsAhead)});
  }

 private:
  using U = Accumulator<T>;

  void BringFor(Range points) {
    Vector<U, kLanes> low = {}, high = {};
    low += static_cast<U>(rows_);
    int64_t i = points.first;
    for (; i + kLanes <= points.last; i += kLanes) {
      const auto at = Load<kLanes>(coordinates_ + i);
      low = at < low ? at : low;
      high = at > high ? at : high;
    }
    U lowest = low[0], highest = high[0];
    for (int lane = 1; lane < kLanes; ++lane) {
      lowest = low[lane] < lowest ? low[lane] : lowest;
      highest = high[lane] > highest ? high[lane] : highest;
    }
    const U end = static_cast<U>(rows_ - 2);
    const auto first = static_cast<int64_t>(lowest > 0 ? lowest : 0);
    const auto last = highest < end ? static_cast<int64_t>(highest) + 2 : rows_;
    if (first >= last) return;
    Range& brought = *brought_;
    if (brought.first == brought.last) brought = {first, first};
    if (first < brought.first) {
      Read(first, brought.first);
      brought.first = first;
    }
    if (last > brought.last) {
      Read(brought.last, last);
      brought.last = last;
    }
  }

  void Read(int64_t first, int64_t last) const {
    const int64_t row = bytes_ / rows_;
    for (int64_t i = first * row; i < last * row; i += 64) __builtin_prefetch(image_ + i);
  }

  const char* image_;
  const U* coordinates_;
  int64_t rows_, bytes_;
  Range own_ = {0, 0};
  Range* brought_;  // The rows brought so far: the item's, if it has them, else `own_`.
};

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_AHEAD_H_
