// Paths of points along a velocity field: see paths.cc.

#ifndef STN_JAX_NATIVE_KERNELS_PATHS_H_
#define STN_JAX_NATIVE_KERNELS_PATHS_H_

#include "../engine.h"

namespace stn::STN_VARIANT {

// Writes the displacements of the points of a range. U is float or double.
template <class U>
void Follow(const Geometry& geometry, const Item& item, Range points);

// Writes the gradients to the coordinates of these points, and the points' contribution to the gradient
// to the field, each if wanted.
template <class U>
void FollowPull(const Geometry& geometry, const Item& item, Range points);

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_PATHS_H_
