// Sampling of box means of an image in place of its pixels.

#ifndef STN_JAX_NATIVE_BOXES_H_
#define STN_JAX_NATIVE_BOXES_H_

#include "job.h"
#include "xla/ffi/api/ffi.h"

namespace stn {

// Writes `out`, or `d_source` if there is a cotangent. The array of box means, which is many times as
// large as the image, exists only for a few images at a time, in memory that is used again.
void RunBoxes(const Job& job, xla::ffi::ThreadPool& pool);

}  // namespace stn

#endif  // STN_JAX_NATIVE_BOXES_H_
