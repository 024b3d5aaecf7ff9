// The common case: the linear kernel well inside the image. All pixels are read as they are, and
// the number of a point's first pixel determines the others.

#ifndef STN_JAX_NATIVE_KERNELS_PLAIN_H_
#define STN_JAX_NATIVE_KERNELS_PLAIN_H_

#include <limits>

#include "pixels.h"

namespace stn::STN_VARIANT {

// For weights above this bound, a product of three cannot underflow to 0.
constexpr double kLightest = 1e-12;

// The pixels of the linear kernel: rows of two neighbours each.
template <int ndim>
struct PlainRows {
  static constexpr int count = 1 << (ndim - 1);
  static constexpr int taps = 2 * count;
  int64_t offset[count];  // Numbers from the first row's start to each.
  int64_t right;          // From a pixel to its right neighbour.

  explicit PlainRows(const Geometry& geometry, int64_t channels) : right(channels) {
    for (int row = 0; row < count; ++row) {
      offset[row] = 0;
      for (int axis = 0; axis < ndim - 1; ++axis) {
        if ((row >> (ndim - 2 - axis) & 1) != 0) offset[row] += StrideOf(geometry, axis) * channels;
      }
    }
  }

  // The offset of a tap's pixel from the first pixel.
  STN_INLINE int64_t of(int tap) const { return offset[tap >> 1] + (tap & 1) * right; }
};

// Whether a mask is true everywhere.
template <class Mask>
STN_INLINE bool All(Mask mask) {
#if defined(__AVX2__)
  if constexpr (sizeof(Mask) == 32) {
    return _mm256_movemask_epi8((__m256i)mask) == -1;
  }
#endif
  int64_t words[sizeof(Mask) / 8], all = -1;
  std::memcpy(words, &mask, sizeof(Mask));
  for (int64_t word : words) all &= word;
  return all == -1;
}

// Finds the kinds of a block's vectors, and fills plain ones. Returns whether none is of another kind.
template <int ndim, class U>
bool FindKinds(const Geometry& geometry, const Item& item, int64_t first, PixelRules rules,
               Block<U>& block) {
  using Numbers = Vector<U, kLanes>;
  using Integers = Vector<uint32_t, kLanes>;
  const U* coordinates[ndim];
  Numbers limit[ndim];
  uint32_t stride[ndim], corner = 0;
  for (int axis = 0; axis < ndim; ++axis) {
    coordinates[axis] = static_cast<const U*>(item.source[axis]) + first;
    limit[axis] = Numbers{} + static_cast<U>(geometry.size[axis] - 1);
    stride[axis] = static_cast<uint32_t>(StrideOf(geometry, axis));
    corner += stride[axis];
  }
  // The number of the first pixel of a point whose last pixel is the image's last.
  const auto end = static_cast<uint32_t>(geometry.pixels - 1) - corner;
  bool all = true, finds_outside = rules.finds_outside;
  for (int axis = 0; axis < ndim; ++axis) {
    // On longer axes the number of pixels would be rounded.
    finds_outside &= static_cast<U>(geometry.size[axis]) < 1 / std::numeric_limits<U>::epsilon();
  }
  for (int i = 0; i < block.filled; i += kLanes) {
    Kind& kind = block.kind[i / kLanes];
    kind = Kind::kOther;
    // Not for the last points: vectors of channels may be read past their end.
    if (i + kLanes > block.count || first + i + kLanes >= geometry.points) {
      all = false;
      continue;
    }
    Numbers weight[ndim][2];
    Integers pixel = {};
    auto good = limit[0] == limit[0];
    for (int axis = 0; axis < ndim; ++axis) {
      const Numbers at = Load<kLanes>(coordinates[axis] + i);
      const auto whole = __builtin_convertvector(at, Vector<int32_t, kLanes>);
      const Numbers fraction = at - __builtin_convertvector(whole, Numbers);
      good &= (at >= 0) & (at < limit[axis]) & (fraction >= static_cast<U>(kLightest));
      pixel += (Integers)whole * stride[axis];
      weight[axis][0] = 1 - fraction;
      weight[axis][1] = fraction;
    }
    if (rules.finds_plain && All(good) && (!rules.redirect_last || All(pixel != end))) {
      kind = Kind::kPlain;
    } else if (finds_outside) {
      auto outside = limit[0] != limit[0], known = limit[0] == limit[0];
      for (int axis = 0; axis < ndim; ++axis) {
        const Numbers at = Load<kLanes>(coordinates[axis] + i);
        outside |= (at < -1) | (at >= limit[axis] + 1);
        known &= at == at;
      }
      if (All(outside & known)) kind = Kind::kOutside;
    }
    all = all && kind != Kind::kOther;
    if (kind != Kind::kPlain) continue;
    std::memcpy(block.pixel + i, &pixel, sizeof(pixel));
    for (int tap = 0; tap < 1 << ndim; ++tap) {
      Numbers product = weight[0][tap >> (ndim - 1) & 1];
      for (int axis = 1; axis < ndim; ++axis) product *= weight[axis][tap >> (ndim - 1 - axis) & 1];
      Store<kLanes>(block.weight + tap * kBlock + i, product);
    }
    for (int axis = 0; axis < ndim; ++axis) {
      Store<kLanes>(block.axis_weight[axis] + i, weight[axis][0]);
      Store<kLanes>(block.axis_weight[axis] + kBlock + i, weight[axis][1]);
    }
  }
  return all;
}

template <class U>
bool FindKinds(const Geometry& geometry, const Item& item, int64_t first, PixelRules rules,
               Block<U>& block) {
  if (!rules.finds_plain && !rules.finds_outside) return false;
  switch (geometry.ndim) {
    case 1:
      return FindKinds<1>(geometry, item, first, rules, block);
    case 2:
      return FindKinds<2>(geometry, item, first, rules, block);
    default:
      return FindKinds<3>(geometry, item, first, rules, block);
  }
}

// The only channel of the pixels that a vector of plain points reads, [taps].
template <int ndim, class T>
STN_INLINE void PlainPixels(const T* image, const int32_t* pixel, const PlainRows<ndim>& rows,
                            Vector<Accumulator<T>, kLanes>* values) {
  for (int row = 0; row < rows.count; ++row) {
    const T* from = image + rows.offset[row];
    auto& left = values[2 * row];
    auto& right = values[2 * row + 1];
#if defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) {
      EightPairs(from, pixel, left, right);
      continue;
    }
#endif
    if constexpr (std::is_same_v<T, BFloat16>) {
      // A pair is one word, its left half the lower bits.
      Vector<uint32_t, kLanes> pairs;
      for (int lane = 0; lane < kLanes; ++lane) {
        uint32_t pair;
        std::memcpy(&pair, from + pixel[lane], sizeof(pair));
        pairs[lane] = pair;
      }
      left = (Vector<float, kLanes>)(pairs << 16);
      right = (Vector<float, kLanes>)(pairs & 0xffff0000u);
    } else {
      Vector<Accumulator<T>, kLanes> near = {}, far = {};
      for (int lane = 0; lane < kLanes; ++lane) {
        near[lane] = Widen(from[pixel[lane]]);
        far[lane] = Widen(from[pixel[lane] + 1]);
      }
      left = near;
      right = far;
    }
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_PLAIN_H_
