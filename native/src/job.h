// One call of a handler with checked operands, and its division into tasks.

#ifndef STN_JAX_NATIVE_JOB_H_
#define STN_JAX_NATIVE_JOB_H_

#include <vector>

#include "batch.h"
#include "engine.h"
#include "lattice.h"
#include "xla/ffi/api/ffi.h"

namespace stn {

// An operand: one part for each batch item, or shared.
struct Operand {
  const char* data = nullptr;
  int64_t bytes = 0;  // Of one part.
  Batch batch;

  const void* of(int64_t item) const { return data + batch.part(item) * bytes; }
};

// A result; null if not wanted.
struct Result {
  char* data = nullptr;
  int64_t bytes = 0;  // Of one part.
  Batch batch;

  void* part(int64_t i) const { return data + i * bytes; }
  explicit operator bool() const { return data != nullptr; }
};

// Consecutive entries along an axis of an array of box means: each is the mean of two earlier ones, a
// copy of one (first = second), or the fill value (first < 0).
struct EntryRun {
  int64_t to;
  int64_t count;
  int64_t first, second;
  int64_t step;  // From the sources of an entry to those of the next.
};

// How an image becomes an array of box means, and the boxes around each point.
struct BoxLayout {
  // Entries by which a coordinate may lie outside its level. The margins of levels are twice as wide.
  int64_t reach = 0;
  std::vector<int32_t> starts[kMaxNdim];  // The entry of each level's first box.
  std::vector<EntryRun> runs[kMaxNdim];   // All other entries, in the order in which they are computed.
  int64_t entries[kMaxNdim] = {};
  bool each_point = false;  // Whether levels and edges differ between points.
  Operand level;   // [ndim, points] or [ndim], of the x axis first.
  Operand edge;    // [ndim, ndim, points] or [ndim, ndim]: for each edge, its length along each axis.
  Result d_edge;

  // The number of entries up to a level.
  int64_t end_of_level(int axis, int64_t level) const {
    const auto next = static_cast<size_t>(level + 1);
    return next < starts[axis].size() ? starts[axis][next] - 2 * reach : entries[axis];
  }
};

// Arrays along axes are in array order.
struct Job {
  Geometry geometry;
  // Points read boxes around them from an array of box means of the image.
  bool from_boxes;
  BoxLayout boxes;
  int64_t items;              // Batch items.
  int64_t source_size;        // Bytes of one coordinate, weight or accumulator.
  const Kernels* kernels;     // Not for bytes.
  // The source points are those of a lattice under an affine map; else `source` has them.
  bool from_matrix;
  LatticeTables tables;
  Operand matrix;
  const Kernels* coordinate_kernels;  // Of the coordinates' type.
  BytesKernel bytes_kernel;   // For bytes.
  Operand image, fill;
  Operand source[kMaxNdim];
  Operand index[kMaxNdim];
  // Forward.
  Result out;
  // Backward.
  Operand cotangent;
  Result d_image;
  bool accumulates_in_place;  // The image's gradient has the accumulators' type and layout.
  Result d_source[kMaxNdim];
  Result d_matrix;
};

// Limits on paths, on the places that a task remembers and on the sums that it keeps for each pixel of
// the field with a margin.
constexpr int64_t kMostSteps = 1024;
constexpr int64_t kMarginOfField = 21;
constexpr int64_t kMostPixelsOfField = int64_t{1} << 18;

// Writes `out`.
void RunForward(const Job& job, xla::ffi::ThreadPool& pool);

// Writes `d_image` and `d_source` or `d_matrix`. The numbers do not depend on the number of threads.
void RunPull(const Job& job, xla::ffi::ThreadPool& pool);

}  // namespace stn

#endif  // STN_JAX_NATIVE_JOB_H_
