// Leading batch axes. Along each, an array has the full size, or size 1 and is shared.

#ifndef STN_JAX_NATIVE_BATCH_H_
#define STN_JAX_NATIVE_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stn {

using Dims = std::vector<int64_t>;

inline int64_t Product(const Dims& dims) {
  int64_t product = 1;
  for (int64_t size : dims) product *= size;
  return product;
}

// Maps batch items to parts of an array. Items are numbered in row-major order of the full batch
// axes, parts in row-major order of the array's own.
class Batch {
 public:
  Batch() = default;

  // Each size of `own` is 1 or equals that of `full`.
  Batch(const Dims& own, const Dims& full)
      : full_(full), steps_(full.size()), parts_(Product(own)), items_of_first_{0} {
    int64_t part_step = 1, item_step = 1;
    for (size_t a = full.size(); a-- > 0;) {
      const bool shared = own[a] == 1 && full[a] != 1;
      steps_[a] = shared ? 0 : part_step;
      if (shared) {
        AddSharedAxis(full[a], item_step);
        is_shared_ = true;
      }
      part_step *= own[a];
      item_step *= full[a];
    }
  }

  // Whether items share parts.
  bool is_shared() const { return is_shared_; }
  int64_t parts() const { return parts_; }

  // The part that belongs to an item.
  int64_t part(int64_t item) const {
    if (!is_shared_) return item;
    int64_t part = 0;
    for (size_t a = full_.size(); a-- > 0;) {
      part += item % full_[a] * steps_[a];
      item /= full_[a];
    }
    return part;
  }

  // The items to which a part belongs, in their order.
  std::vector<int64_t> items(int64_t part) const {
    if (!is_shared_) return {part};
    int64_t first = 0, item_step = 1;
    for (size_t a = full_.size(); a-- > 0;) {
      if (steps_[a] != 0) {
        first += part % full_[a] * item_step;
        part /= full_[a];
      }
      item_step *= full_[a];
    }
    std::vector<int64_t> result = items_of_first_;
    for (int64_t& item : result) item += first;
    return result;
  }

 private:
  void AddSharedAxis(int64_t size, int64_t item_step) {
    std::vector<int64_t> items;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t item : items_of_first_) items.push_back(item + i * item_step);
    }
    items_of_first_ = items;
  }

  Dims full_;
  Dims steps_;  // For each axis, how much the part grows when the index grows by 1.
  int64_t parts_ = 1;
  bool is_shared_ = false;
  std::vector<int64_t> items_of_first_;  // The items of part 0.
};

}  // namespace stn

#endif  // STN_JAX_NATIVE_BATCH_H_
