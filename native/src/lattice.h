// The regular lattice of target points, with its tables of coordinates.

#ifndef STN_JAX_NATIVE_LATTICE_H_
#define STN_JAX_NATIVE_LATTICE_H_

#include <vector>

#include "batch.h"
#include "engine.h"

namespace stn {

class LatticeTables {
 public:
  LatticeTables() = default;
  // The lattice points into the tables, so it is moved, not copied.
  LatticeTables(LatticeTables&&) = default;
  LatticeTables& operator=(LatticeTables&&) = default;

  // `out` is the shape of the lattice; coordinates are float64 if `doubles`, else float32.
  LatticeTables(const Geometry& geometry, const Dims& out, bool doubles);

  const Lattice& lattice() const { return lattice_; }

 private:
  Lattice lattice_ = {};
  std::vector<char> numbers_;
};

}  // namespace stn

#endif  // STN_JAX_NATIVE_LATTICE_H_
