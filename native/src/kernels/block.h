// A block of points, each with the pixels that it reads and their weights.
//
// All kernels use this form, whether pixels are computed from coordinates or given.

#ifndef STN_JAX_NATIVE_KERNELS_BLOCK_H_
#define STN_JAX_NATIVE_KERNELS_BLOCK_H_

#include <cstdint>
#include <cstdlib>

#include "../engine.h"
#include "number.h"

namespace stn::STN_VARIANT {

// Points per vector; a block is padded to a multiple of it.
constexpr int kLanes = 8;
static_assert(kBlock % kLanes == 0, "A block is a whole number of vectors.");

// Numbers of pixels that are not in the image: they index backwards from the end of a small array,
// see `Pixels`.
constexpr int32_t kFill = -1;  // The value outside.
constexpr int32_t kZero = -2;  // Stands for a pixel that is left out.
constexpr int32_t kLast = -3;  // A copy of the image's last pixel, behind which one may read on.

STN_INLINE Vector<int32_t, kLanes> LoadIntegers(const int32_t* from) {
  Vector<int32_t, kLanes> result;
  std::memcpy(&result, from, sizeof(result));
  return result;
}

STN_INLINE void StoreIntegers(int32_t* to, Vector<int32_t, kLanes> values) {
  std::memcpy(to, &values, sizeof(values));
}

// Points of a block, a whole number of vectors. Half-open.
struct Span {
  int first;
  int last;
};

// Calls `body(i)` for each point. The inner loop has a fixed length, so compilers vectorize it.
template <class Body>
STN_INLINE void ForPoints(Span span, const Body& body) {
  for (int first = span.first; first < span.last; first += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) body(first + lane);
  }
}

// Memory that belongs to one running task; its contents are arbitrary.
class Memory {
 public:
  explicit Memory(int64_t bytes) : data_(std::malloc(static_cast<size_t>(bytes) + 64)) {
    if (data_ == nullptr) std::abort();
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class V>
  V* take(int64_t count) {
    V* result = reinterpret_cast<V*>(static_cast<char*>(data_) + used_);
    used_ += count * static_cast<int64_t>(sizeof(V));
    return result;
  }

 private:
  void* data_;
  int64_t used_ = 0;
};

// Under the linear kernel: plain points read only pixels inside, all with nonzero weights; points
// outside read only the fill value.
enum class Kind : uint8_t { kOther, kPlain, kOutside };

// Rows of kBlock numbers; only the first `filled` are used.
template <class U>
struct Block {
  int count;    // Points.
  int filled;   // The same up to a multiple of kLanes.
  int64_t taps;  // Pixels of each point: the product of those along the axes.

  // The kind of each vector of points. Of plain points, `pixel` holds only the first pixel of each; of
  // points outside it holds nothing.
  Kind kind[kBlock / kLanes] = {};

  // Along each axis, [taps of the axis][kBlock]. An index is the number of pixels from the axis's
  // first to the tap's, or kFill.
  int32_t* index[kMaxNdim];
  U* axis_weight[kMaxNdim];
  U* axis_slope[kMaxNdim];  // The weights' derivatives to the coordinate, of a polynomial kernel.
  U* moves[kMaxNdim];  // [kBlock]: 1, or 0 where a coordinate's gradient is 0.

  // Of each combination of taps, the last axis fastest, [taps][kBlock].
  int32_t* pixel;
  U* weight;
  U* product;  // Of the pixel and the cotangent, summed over channels.

  explicit Block(const Geometry& geometry) : taps(1), memory_(Size(geometry)) {
    for (int axis = 0; axis < geometry.ndim; ++axis) taps *= geometry.taps[axis];
    pixel = memory_.take<int32_t>(taps * kBlock);
    weight = memory_.take<U>(taps * kBlock);
    product = memory_.take<U>(taps * kBlock);
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      index[axis] = memory_.take<int32_t>(geometry.taps[axis] * kBlock);
      axis_weight[axis] = memory_.take<U>(geometry.taps[axis] * kBlock);
      axis_slope[axis] = memory_.take<U>(geometry.taps[axis] * kBlock);
      moves[axis] = memory_.take<U>(kBlock);
    }
  }

  void resize(int64_t points) {
    count = static_cast<int>(points);
    filled = (count + kLanes - 1) / kLanes * kLanes;
  }

  // Calls `body(span, kind)` for each maximal run of vectors of one kind.
  // The runs come in order, since a run may write past its end.
  template <class Body>
  STN_INLINE void ForRuns(const Body& body) const {
    for (int i = 0; i < filled;) {
      const int first = i;
      const Kind of_run = kind[i / kLanes];
      while (i < filled && kind[i / kLanes] == of_run) i += kLanes;
      body(Span{first, i}, of_run);
    }
  }

 private:
  static int64_t Size(const Geometry& geometry) {
    int64_t all = 1, along = 0;
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      all *= geometry.taps[axis];
      along += geometry.taps[axis] + 1;
    }
    return (all * 3 + along * 3) * kBlock * static_cast<int64_t>(sizeof(U));
  }

  Memory memory_;
};

// Pixels between neighbours along an axis.
inline int32_t StrideOf(const Geometry& geometry, int axis) {
  int64_t stride = 1;
  for (int a = axis + 1; a < geometry.ndim; ++a) stride *= geometry.size[a];
  return static_cast<int32_t>(stride);
}

// Options for reading pixels.
struct PixelRules {
  bool leave_out_weightless;  // Reads of weight 0 go to zeros: a NaN or infinity is not seen there.
  bool redirect_last;         // Reads of the last pixel go to its copy.
  bool finds_plain;           // Plain points are found.
  bool finds_outside;         // Points outside are found.
};

// The pixels that taps do not read as they are. A rule that does not apply has a number that equals
// no other.
template <class U>
struct Exceptions {
  int32_t last;  // The pixel whose copy is read.
  U weightless;  // The weight of pixels that are left out.

  Exceptions(const Geometry& geometry, PixelRules rules)
      : last(rules.redirect_last ? static_cast<int32_t>(geometry.pixels - 1) : INT32_MIN),
        weightless(rules.leave_out_weightless ? 0 : static_cast<U>(__builtin_nanf(""))) {}

  // The pixels that are read for the pixels `flat`, of which those with negative signs lie outside.
  STN_INLINE Vector<int32_t, kLanes> of(Vector<int32_t, kLanes> flat,
                                        Vector<int32_t, kLanes> signs,
                                        Vector<U, kLanes> weight) const {
    using Integers = Vector<int32_t, kLanes>;
    flat = flat == last ? Integers{} + kLast : flat;
    flat = signs < 0 ? Integers{} + kFill : flat;
    const Integers left_out = __builtin_convertvector(weight == weightless, Integers);
    return left_out != 0 ? Integers{} + kZero : flat;
  }
};

// Combines the taps along the axes.
template <int ndim, class U>
void CombineAxes(const Geometry& geometry, PixelRules rules, Block<U>& block) {
  const Exceptions<U> exceptions(geometry, rules);
  int64_t taps[kMaxNdim] = {1, 1, 1};
  for (int axis = 0; axis < ndim; ++axis) taps[axis] = geometry.taps[axis];
  int64_t tap[kMaxNdim], k = 0;
  for (tap[0] = 0; tap[0] < taps[0]; ++tap[0]) {
    for (tap[1] = 0; tap[1] < taps[1]; ++tap[1]) {
      for (tap[2] = 0; tap[2] < taps[2]; ++tap[2], k += kBlock) {
        for (int i = 0; i < block.filled; i += kLanes) {
          auto flat = LoadIntegers(block.index[0] + tap[0] * kBlock + i), signs = flat;
          auto weight = Load<kLanes>(block.axis_weight[0] + tap[0] * kBlock + i);
          for (int axis = 1; axis < ndim; ++axis) {
            const auto index = LoadIntegers(block.index[axis] + tap[axis] * kBlock + i);
            flat += index;
            signs |= index;
            weight *= Load<kLanes>(block.axis_weight[axis] + tap[axis] * kBlock + i);
          }
          StoreIntegers(block.pixel + k + i, exceptions.of(flat, signs, weight));
          Store<kLanes>(block.weight + k + i, weight);
        }
      }
    }
  }
}

template <class U>
void CombineAxes(const Geometry& geometry, PixelRules rules, Block<U>& block) {
  switch (geometry.ndim) {
    case 1:
      return CombineAxes<1>(geometry, rules, block);
    case 2:
      return CombineAxes<2>(geometry, rules, block);
    default:
      return CombineAxes<3>(geometry, rules, block);
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_BLOCK_H_
