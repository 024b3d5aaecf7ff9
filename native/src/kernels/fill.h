// Fills a block: finds the pixels that its points read, and their weights.

#ifndef STN_JAX_NATIVE_KERNELS_FILL_H_
#define STN_JAX_NATIVE_KERNELS_FILL_H_

#include "locate.h"
#include "plain.h"

namespace stn::STN_VARIANT {

// Fills the vectors of other kinds, under the linear kernel. At an image's border a few of them lie
// between plain ones, so each is filled at once, without intermediate arrays.
template <int ndim, Padding padding, int rounds, class U>
void FillLinear(const Item& item, int64_t first, const Axis<U>* axes,
                const Exceptions<U>& exceptions, Block<U>& block) {
  using Numbers = Vector<U, kLanes>;
  LinearTaps<U> along[ndim];
  for (int i = 0; i < block.filled; i += kLanes) {
    if (block.kind[i / kLanes] != Kind::kOther) continue;
    // Points that read only the fill value have no gradient, even if it is NaN.
    auto outside = Numbers{} != Numbers{};
    for (int axis = 0; axis < ndim; ++axis) {
      const U* from = static_cast<const U*>(item.source[axis]) + first + i;
      const auto at = i + kLanes <= block.count ? Load<kLanes>(from)
                                                : LoadFirst<kLanes>(from, block.count - i);
      along[axis] = LocateLinear<padding, rounds>(axes[axis], at);
      if constexpr (padding == Padding::kConstant) {
        const auto both = (along[axis].index[0] < 0) & (along[axis].index[1] < 0);
        outside |= __builtin_convertvector(both, decltype(outside));
      }
      for (int tap = 0; tap < 2; ++tap) {
        Store<kLanes>(block.axis_weight[axis] + tap * kBlock + i, along[axis].weight[tap]);
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      Store<kLanes>(block.moves[axis] + i, outside != 0 ? Numbers{} : along[axis].moves);
    }
    for (int tap = 0; tap < 1 << ndim; ++tap) {
      const int upper = tap >> (ndim - 1) & 1;
      auto flat = along[0].index[upper], signs = flat;
      auto weight = along[0].weight[upper];
      for (int axis = 1; axis < ndim; ++axis) {
        const int side = tap >> (ndim - 1 - axis) & 1;
        flat += along[axis].index[side];
        signs |= along[axis].index[side];
        weight *= along[axis].weight[side];
      }
      StoreIntegers(block.pixel + tap * kBlock + i, exceptions.of(flat, signs, weight));
      Store<kLanes>(block.weight + tap * kBlock + i, weight);
    }
  }
}

template <int ndim, class U>
void FillLinear(const Geometry& geometry, const Item& item, int64_t first, PixelRules rules,
                Block<U>& block) {
  Axis<U> axes[ndim];
  int32_t shortest = INT32_MAX;
  for (int axis = 0; axis < ndim; ++axis) {
    axes[axis] = Axis<U>(geometry, axis, StrideOf(geometry, axis));
    if (axes[axis].period < shortest) shortest = axes[axis].period;
  }
  const Exceptions<U> exceptions(geometry, rules);
  WithPadding(geometry.padding, shortest, [&](auto padding, auto rounds) {
    FillLinear<ndim, padding, rounds>(item, first, axes, exceptions, block);
  });
}

template <class U>
void FillLinear(const Geometry& geometry, const Item& item, int64_t first, PixelRules rules,
                Block<U>& block) {
  switch (geometry.ndim) {
    case 1:
      return FillLinear<1>(geometry, item, first, rules, block);
    case 2:
      return FillLinear<2>(geometry, item, first, rules, block);
    default:
      return FillLinear<3>(geometry, item, first, rules, block);
  }
}

// Fills a block with the points from `first` on, up to `last` or the block's end.
template <class U>
void FillBlock(const Geometry& geometry, const Item& item, int64_t first, int64_t last,
               PixelRules rules, Block<U>& block) {
  block.resize(last - first < kBlock ? last - first : kBlock);
  if (geometry.from_coordinates && geometry.kernel == Kernel::kLinear) {
    if (FindKinds(geometry, item, first, rules, block)) return;
    return FillLinear(geometry, item, first, rules, block);
  }
  for (int axis = 0; axis < geometry.ndim; ++axis) {
    FillAxis(geometry, item, first, axis, StrideOf(geometry, axis), block);
  }
  CombineAxes(geometry, rules, block);
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_FILL_H_
