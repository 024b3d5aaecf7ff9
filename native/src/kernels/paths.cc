// Paths of points along a velocity field, a cubic spline of a lattice of velocities.
//
// All points of a block take a stage of a Runge-Kutta step together. The gradient takes the stages in
// reverse, with numbers that were kept at each.

#include "paths.h"

#include "cell_velocity.h"
#include "lattice_velocity.h"

namespace stn::STN_VARIANT {
namespace {

// The classic Runge-Kutta rule: how far a stage goes along the slope of the one before, and the
// weight of its own slope.
constexpr int kStages = 4;
constexpr double kAlong[kStages] = {0, 0.5, 0.5, 1};
constexpr double kShare[kStages] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};

// Vectors of a block.
template <class U>
constexpr int kVectors = kBlock / kWide<U>;

// `Velocity` gives the velocity at points, and its gradients.
template <class U, class Velocity>
class Paths {
  using V = Wide<U>;
  static constexpr int ndim = Velocity::ndim;
  static constexpr int last = ndim - 1;
  static constexpr int kept = Velocity::kept;

 public:
  Paths(const Geometry& geometry, const Item& item)
      : geometry_(geometry), item_(item), velocity_(geometry, item) {
    for (int stage = 0; stage < kStages; ++stage) {
      along_[stage] = static_cast<U>(kAlong[stage] / static_cast<double>(geometry.steps));
      share_[stage] = static_cast<U>(kShare[stage] / static_cast<double>(geometry.steps));
    }
  }

  void Forward(Range points) {
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      Take(start, points.last);
      Run<false>(nullptr);
      for (int c = 0; c < ndim; ++c) {
        // Coordinate x is the last axis.
        Write(static_cast<U*>(item_.out) + start * ndim + c, ndim, moved_[last - c]);
      }
    }
  }

  void Pull(Range points) {
    Buffer<V> keep(geometry_.steps * kStages * kVectors<U> * kept);
    for (int64_t start = points.first; start < points.last; start += kBlock) {
      Take(start, points.last);
      Run<true>(keep.data());
      for (int c = 0; c < ndim; ++c) {
        Read(static_cast<const U*>(item_.cotangent) + start * ndim + c, ndim, cotangent_[last - c]);
      }
      RunBack(keep.data());
      for (int axis = 0; axis < ndim; ++axis) {
        if (item_.d_source[axis] == nullptr) continue;
        Write(static_cast<U*>(item_.d_source[axis]) + start, 1, pulled_[axis]);
      }
    }
    if (item_.d_image != nullptr) velocity_.WriteSums(geometry_, static_cast<U*>(item_.d_image));
  }

 private:
  // Reads the coordinates of a block of points. Points behind the last have coordinate 0.
  void Take(int64_t start, int64_t end) {
    count_ = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    for (int axis = 0; axis < ndim; ++axis) {
      Read(static_cast<const U*>(item_.source[axis]) + start, 1, start_[axis]);
    }
  }

  void Read(const U* from, int step, V* to) const {
    U numbers[kBlock] = {};
    for (int i = 0; i < count_; ++i) numbers[i] = from[i * step];
    std::memcpy(to, numbers, sizeof(numbers));
  }

  void Write(U* to, int step, const V* from) const {
    U numbers[kBlock];
    std::memcpy(numbers, from, sizeof(numbers));
    for (int i = 0; i < count_; ++i) to[i * step] = numbers[i];
  }

  // Moves a block of points along their paths. If wanted, keeps numbers for the gradient:
  // [steps][stages][vectors][kept].
  template <bool keeps>
  void Run(V* keep) {
    V slope[ndim][kVectors<U>] = {}, total[ndim][kVectors<U>];
    std::memset(moved_, 0, sizeof(moved_));
    for (int64_t step = 0; step < geometry_.steps; ++step) {
      std::memcpy(total, moved_, sizeof(total));
      for (int stage = 0; stage < kStages; ++stage) {
        // All points are found first, since the processor starts on a vector only when few
        // instructions for the one before wait for their operands.
        typename Velocity::Spot spots[kVectors<U>];
        for (int v = 0; v < kVectors<U>; ++v) {
          V position[ndim];
          for (int axis = 0; axis < ndim; ++axis) {
            position[axis] =
                start_[axis][v] + (moved_[axis][v] + along_[stage] * slope[axis][v]);
            if (keeps) keep[v * kept + axis] = position[axis];
          }
          velocity_.Find(position, spots[v]);
        }
        for (int v = 0; v < kVectors<U>; ++v) {
          V velocity[ndim];
          if constexpr (keeps) {
            velocity_.AtAndKeep(spots[v], velocity, keep + v * kept);
          } else {
            velocity_.At(spots[v], velocity);
          }
          for (int axis = 0; axis < ndim; ++axis) {
            slope[axis][v] = velocity[axis];
            total[axis][v] += share_[stage] * velocity[axis];
          }
        }
        if (keeps) keep += kVectors<U> * kept;
      }
      std::memcpy(moved_, total, sizeof(total));
    }
  }

  // Pulls the cotangents back along the paths, to the starts and to the field.
  void RunBack(V* keep) {
    std::memset(pulled_, 0, sizeof(pulled_));
    for (int64_t step = geometry_.steps - 1; step >= 0; --step) {
      V arrived[ndim][kVectors<U>], later[ndim][kVectors<U>] = {};
      for (int axis = 0; axis < ndim; ++axis) {
        for (int v = 0; v < kVectors<U>; ++v) {
          arrived[axis][v] = cotangent_[axis][v] + pulled_[axis][v];
        }
      }
      V* of_step = keep + step * kStages * kVectors<U> * kept;
      for (int stage = kStages - 1; stage >= 0; --stage) {
        const U along = stage + 1 < kStages ? along_[stage + 1] : 0;
        for (int v = 0; v < kVectors<U>; ++v) {
          V of_velocity[ndim], of_position[ndim];
          for (int axis = 0; axis < ndim; ++axis) {
            of_velocity[axis] = share_[stage] * arrived[axis][v] + along * later[axis][v];
          }
          velocity_.PullBack(of_step + (stage * kVectors<U> + v) * kept, of_velocity, of_position);
          for (int axis = 0; axis < ndim; ++axis) {
            later[axis][v] = of_position[axis];
            pulled_[axis][v] += of_position[axis];
          }
        }
      }
    }
    for (int v = 0; v < kVectors<U>; ++v) {
      velocity_.AddPlaces(keep + v * kept, geometry_.steps * kStages, kVectors<U> * kept);
    }
  }

  const Geometry& geometry_;
  const Item& item_;
  Velocity velocity_;
  U along_[kStages], share_[kStages];  // Of a step.
  // Of a block of points, along each axis in array order.
  int count_ = 0;
  V start_[ndim][kVectors<U>];
  V moved_[ndim][kVectors<U>];
  V cotangent_[ndim][kVectors<U>];
  V pulled_[ndim][kVectors<U>];  // The cotangents of the starts.
};

// Calls `body(paths)` for the paths of an item.
template <class U, class Body>
void WithPaths(const Geometry& geometry, const Item& item, const Body& body) {
  if (CellVelocity<U>::Serves(geometry)) {
    body(Paths<U, CellVelocity<U>>(geometry, item));
  } else if (geometry.ndim == 2) {
    body(Paths<U, LatticeVelocity<2, U>>(geometry, item));
  } else {
    body(Paths<U, LatticeVelocity<3, U>>(geometry, item));
  }
}

}  // namespace

template <class U>
void Follow(const Geometry& geometry, const Item& item, Range points) {
  WithPaths<U>(geometry, item, [&](auto&& paths) { paths.Forward(points); });
}

template <class U>
void FollowPull(const Geometry& geometry, const Item& item, Range points) {
  WithPaths<U>(geometry, item, [&](auto&& paths) { paths.Pull(points); });
}

template void Follow<float>(const Geometry&, const Item&, Range);
template void Follow<double>(const Geometry&, const Item&, Range);
template void FollowPull<float>(const Geometry&, const Item&, Range);
template void FollowPull<double>(const Geometry&, const Item&, Range);

}  // namespace stn::STN_VARIANT
