// Paths of points along a velocity field: the division of a job into tasks.

#ifndef STN_JAX_NATIVE_PATHS_H_
#define STN_JAX_NATIVE_PATHS_H_

#include "job.h"
#include "xla/ffi/api/ffi.h"

namespace stn {

// Writes the displacements of all points to `out`.
void RunFollow(const Job& job, xla::ffi::ThreadPool& pool);

// Writes `d_image` and `d_source`. The numbers do not depend on the number of threads.
void RunFollowPull(const Job& job, xla::ffi::ThreadPool& pool);

}  // namespace stn

#endif  // STN_JAX_NATIVE_PATHS_H_
