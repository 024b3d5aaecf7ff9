// Memory for accumulators, reused between calls: new pages from the system cost more than the sums.

#ifndef STN_JAX_NATIVE_SCRATCH_H_
#define STN_JAX_NATIVE_SCRATCH_H_

#include <cstddef>
#include <memory>

namespace stn {

class Scratch {
 public:
  // The memory is not initialised. Throws std::bad_alloc.
  explicit Scratch(size_t bytes);
  // Returns the memory to the cache, or frees it if it is large.
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
