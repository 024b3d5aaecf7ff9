// Memory for accumulators, kept between calls: fresh pages cost more than the sums.

#ifndef STN_JAX_NATIVE_SCRATCH_H_
#define STN_JAX_NATIVE_SCRATCH_H_

#include <cstddef>
#include <memory>

namespace stn {

class Scratch {
 public:
  // The memory holds anything. Throws std::bad_alloc.
  explicit Scratch(size_t bytes);
  // Gives the memory back, to be kept if it is not much.
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_.get(); }

 private:
  std::unique_ptr<char[]> data_;
  size_t bytes_;
};

}  // namespace stn

#endif  // STN_JAX_NATIVE_SCRATCH_H_
