// Checks the buffers of a call and makes a job of them.

#ifndef STN_JAX_NATIVE_OPERANDS_H_
#define STN_JAX_NATIVE_OPERANDS_H_

#include <stdexcept>
#include <string>
#include <vector>

#include "job.h"
#include "xla/ffi/api/ffi.h"

namespace stn {

// A wrong shape, dtype or attribute; the message says which.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void Require(bool condition, const std::string& message) {
  if (!condition) throw InvalidArgument(message);
}

// An operand or result of XLA.
struct Array {
  std::string name;
  char* data;
  xla::ffi::DataType dtype;
  Dims dims;

  // The axes from `first` to before `last`.
  Dims slice(size_t first, size_t last) const {
    return Dims(dims.begin() + static_cast<int64_t>(first),
                dims.begin() + static_cast<int64_t>(last));
  }
};

// Hands out the operands and results of a call, one after the other.
class Arrays {
 public:
  Arrays(xla::ffi::RemainingArgs args, xla::ffi::RemainingRets rets);

  Array NextOperand(const std::string& name);
  Array NextResult(const std::string& name);
  // Look at the last operand or the first result without handing it out.
  Array LastOperand(const std::string& name) const;
  Array FirstResult(const std::string& name) const;
  // Throws if an operand or result is left.
  void RequireEnd() const;

 private:
  std::vector<Array> operands_, results_;
  size_t next_operand_ = 0, next_result_ = 0;
};

// The request of a handler.
struct Request {
  bool from_coordinates;
  bool bytes;     // Copy the image's elements as bytes, whatever their type.
  bool backward;
  int64_t num_batch_dims;
  int64_t ndim;
  // From coordinates, or from a matrix.
  int64_t kernel_taps;
  xla::ffi::Span<const double> coefficients;  // [kernel_taps][powers]
  int64_t padding, align_corners;
  int64_t steps;  // Along a path; else 0.
  // Points read boxes around them. Five numbers for each run, as in `EntryRun`, and the number of runs
  // along each axis; the start of each level, and the number of levels along each axis.
  bool from_boxes;
  int64_t reach, each_point;
  xla::ffi::Span<const int64_t> runs, run_counts, starts, level_counts;
  bool wrt_image;
  int64_t wrt_sources;  // A bit for each axis, in the order of operands.
  // The coordinates are given by a matrix and the shape of the lattice.
  bool from_matrix;
  xla::ffi::Span<const int64_t> out;
};

// Checks all shapes, dtypes and attributes. Throws InvalidArgument.
Job MakeJob(const Request& request, Arrays arrays);

}  // namespace stn

#endif  // STN_JAX_NATIVE_OPERANDS_H_
