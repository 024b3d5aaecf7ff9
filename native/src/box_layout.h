// Checks how an image becomes an array of box means.

#ifndef STN_JAX_NATIVE_BOX_LAYOUT_H_
#define STN_JAX_NATIVE_BOX_LAYOUT_H_

#include "operands.h"

namespace stn {

// The layout that a request asks for, of an image with this geometry; it has no operands yet. Throws
// InvalidArgument.
BoxLayout BoxLayoutOf(const Request& request, const Geometry& geometry);

}  // namespace stn

#endif  // STN_JAX_NATIVE_BOX_LAYOUT_H_
