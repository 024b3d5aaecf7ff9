// The arrays of box means of images, which points read in place of the image.

#ifndef STN_JAX_NATIVE_BOX_ARRAYS_H_
#define STN_JAX_NATIVE_BOX_ARRAYS_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "job.h"
#include "parallel.h"
#include "scratch.h"

namespace stn {

// Numbers of the inner axes that a task takes at most: the entries that it reads again then stay in a
// fast cache.
constexpr int64_t kInnermost = 512;
// Arrays of box means that exist at a time take up to this much memory, or one for each thread.
constexpr int64_t kBytesAtOnce = int64_t{1} << 21;

// An array [outer, entries, inner] whose middle axis grows from pixels to box means.
struct GrowingAxis {
  int64_t outer, pixels, entries, inner;
  int64_t margin;  // Entries before the first pixel.
  const std::vector<EntryRun>* runs;  // The other entries; those past `entries` are left out.
  int64_t channels;  // The innermost axis, of which `inner` is a multiple.
};

// Writes the entries of one index of the outer axes, of the inner numbers `first` to `last`.
template <class U>
void Grow(const GrowingAxis& axis, const U* from, const U* fill, int64_t first, int64_t last, U* to) {
  const int64_t inner = axis.inner, count = last - first;
  from += first;
  to += first;
  if (count == inner) {
    std::memcpy(to + axis.margin * inner, from, static_cast<size_t>(axis.pixels * inner) * sizeof(U));
  } else {
    for (int64_t i = 0; i < axis.pixels; ++i) {
      std::memcpy(to + (axis.margin + i) * inner, from + i * inner,
                  static_cast<size_t>(count) * sizeof(U));
    }
  }
  for (const EntryRun& run : *axis.runs) {
    if (run.to >= axis.entries) continue;
    // Entries that follow one another are one row of numbers.
    const bool joined = run.first >= 0 && run.step == 1 && count == inner;
    const int64_t rows = joined ? 1 : run.count;
    const int64_t numbers = joined ? run.count * inner : count;
    for (int64_t row = 0; row < rows; ++row) {
      U* __restrict out = to + (run.to + row) * inner;
      if (run.first < 0) {
        for (int64_t k = 0; k < numbers; ++k) out[k] = fill[(first + k) % axis.channels];
        continue;
      }
      const U* a = to + (run.first + row * run.step) * inner;
      if (run.first == run.second) {
        std::memcpy(out, a, static_cast<size_t>(numbers) * sizeof(U));
        continue;
      }
      const U* b = to + (run.second + row * run.step) * inner;
      for (int64_t k = 0; k < numbers; ++k) out[k] = (a[k] + b[k]) / 2;
    }
  }
}

// The array of an image's box means, up to the highest levels that its points read.
struct Extent {
  bool read = false;               // Whether any point reads it.
  int64_t entries[kMaxNdim] = {};  // Along each axis.
};

// The boxes around an item's points.
inline Boxes BoxesOf(const Job& job, int64_t i) {
  const BoxLayout& layout = job.boxes;
  const int ndim = job.geometry.ndim;
  const int64_t each = layout.each_point ? job.geometry.points : 1;
  const auto* levels = static_cast<const int32_t*>(layout.level.of(i));
  const char* edges = static_cast<const char*>(layout.edge.of(i));
  Boxes boxes = {};
  boxes.each_point = layout.each_point;
  boxes.reach = static_cast<int32_t>(layout.reach);
  for (int axis = 0; axis < ndim; ++axis) {
    // Operands are in the order x, y, z.
    const int64_t number = ndim - 1 - axis;
    boxes.levels[axis] = static_cast<int32_t>(layout.starts[axis].size());
    boxes.start[axis] = layout.starts[axis].data();
    boxes.level[axis] = levels + number * each;
    for (int64_t edge = 0; edge < ndim; ++edge) {
      boxes.edge[edge][axis] = edges + (edge * ndim + number) * each * job.source_size;
    }
  }
  return boxes;
}

// The arrays of box means of a few images at a time.
template <class U>
class BoxArrays {
 public:
  BoxArrays(const Job& job, xla::ffi::ThreadPool& pool, int64_t threads)
      : job_(job), pool_(pool), threads_(threads) {
    extents_.resize(static_cast<size_t>(job.image.batch.parts()));
    ParallelFor(pool, job.boxes.each_point ? threads : 1, count(),
                [&](int64_t image) { extents_[static_cast<size_t>(image)] = ExtentOf(image); });
    for (const Extent& extent : extents_) {
      for (int axis = 0; axis < kMaxNdim; ++axis) {
        largest_.entries[axis] = std::max(largest_.entries[axis], extent.entries[axis]);
      }
    }
    const GrowingAxis last = AxisOf(0, largest_);
    numbers_ = std::max<int64_t>(last.entries * last.inner, 1);
    partial_numbers_ = std::max<int64_t>(last.pixels * last.inner, 1);
    const auto bytes = static_cast<int64_t>(sizeof(U));
    at_once_ = std::min(std::max(kBytesAtOnce / (bytes * numbers_), threads), count());
    whole_ = std::make_unique<Scratch>(static_cast<size_t>(at_once_ * bytes * numbers_));
    partial_ = std::make_unique<Scratch>(static_cast<size_t>(at_once_ * bytes * partial_numbers_));
  }

  // Images in the operand, and how many have their array at a time.
  int64_t count() const { return static_cast<int64_t>(extents_.size()); }
  int64_t at_once() const { return at_once_; }

  // The array of an image that was computed last, and its geometry.
  const U* of(int64_t image) const { return BufferOf(0, image); }
  Geometry geometry(int64_t image) const {
    Geometry geometry = job_.geometry;
    geometry.padding = Padding::kBorder;
    geometry.pixels = 1;
    for (int axis = 0; axis < geometry.ndim; ++axis) {
      geometry.size[axis] = extents_[static_cast<size_t>(image)].entries[axis];
      geometry.pixels *= geometry.size[axis];
    }
    return geometry;
  }

  // Computes those of `count` images from `first` on, where points read them.
  void Compute(int64_t first, int64_t count) {
    for (int axis = job_.geometry.ndim - 1; axis >= 0; --axis) {
      // A task takes several short rows, or a piece of a long one.
      const GrowingAxis largest = AxisOf(axis, largest_);
      const int64_t pieces = axis > 0 ? 1 : CeilDiv(largest.inner, kInnermost);
      const int64_t rows =
          std::max<int64_t>(kNumbersOfTask / std::max<int64_t>(largest.entries * largest.inner, 1), 1);
      const int64_t tasks = std::max<int64_t>(pieces > 1 ? pieces : CeilDiv(largest.outer, rows), 1);
      ParallelFor(pool_, threads_, count * tasks, [&](int64_t task) {
        const int64_t image = first + task / tasks, number = task % tasks;
        const Extent& extent = extents_[static_cast<size_t>(image)];
        if (!extent.read) return;
        const GrowingAxis grown = AxisOf(axis, extent);
        const U* from = axis == job_.geometry.ndim - 1
                            ? static_cast<const U*>(job_.image.of(ItemOf(image)))
                            : BufferOf(axis + 1, image);
        const U* fill = static_cast<const U*>(job_.fill.of(ItemOf(image)));
        U* to = BufferOf(axis, image);
        const int64_t all = pieces > 1 ? grown.inner : grown.outer, own = CeilDiv(all, tasks);
        const int64_t start = std::min(number * own, all), end = std::min(start + own, all);
        if (pieces > 1) return Grow(grown, from, fill, start, end, to);
        for (int64_t row = start; row < end; ++row) {
          Grow(grown, from + row * grown.pixels * grown.inner, fill, 0, grown.inner,
               to + row * grown.entries * grown.inner);
        }
      });
    }
  }

 private:
  Extent ExtentOf(int64_t image) const {
    const int ndim = job_.geometry.ndim;
    const int64_t numbers = job_.boxes.each_point ? job_.geometry.points : 1;
    Extent extent;
    int32_t highest[kMaxNdim] = {};
    for (int64_t item : job_.image.batch.items(image)) {
      const Boxes boxes = BoxesOf(job_, item);
      for (int axis = 0; axis < ndim; ++axis) {
        const int32_t* levels = boxes.level[axis];
        int32_t found = -1;
        for (int64_t k = 0; k < numbers; ++k) found = std::max(found, levels[k]);
        highest[axis] = std::max(highest[axis], std::min(found, boxes.levels[axis] - 1));
        extent.read |= found >= 0;
      }
    }
    for (int axis = 0; axis < ndim && extent.read; ++axis) {
      extent.entries[axis] = job_.boxes.end_of_level(axis, highest[axis]);
    }
    return extent;
  }

  GrowingAxis AxisOf(int axis, const Extent& extent) const {
    const Geometry& geometry = job_.geometry;
    GrowingAxis result = {1, geometry.size[axis], extent.entries[axis], geometry.channels,
                   2 * job_.boxes.reach, &job_.boxes.runs[axis], geometry.channels};
    for (int before = 0; before < axis; ++before) result.outer *= geometry.size[before];
    for (int behind = axis + 1; behind < geometry.ndim; ++behind) {
      result.inner *= extent.entries[behind];
    }
    return result;
  }

  // An item that has this image.
  int64_t ItemOf(int64_t image) const { return job_.image.batch.items(image).front(); }

  // Where an axis is written: the buffers alternate, and the first axis ends in the whole one.
  U* BufferOf(int axis, int64_t image) const {
    const int64_t slot = image % at_once_;
    if (axis % 2 == 0) return static_cast<U*>(whole_->data()) + slot * numbers_;
    return static_cast<U*>(partial_->data()) + slot * partial_numbers_;
  }

  const Job& job_;
  xla::ffi::ThreadPool& pool_;
  int64_t threads_;
  std::vector<Extent> extents_;
  Extent largest_;
  int64_t numbers_, partial_numbers_, at_once_;
  std::unique_ptr<Scratch> whole_, partial_;
};

}  // namespace stn

#endif  // STN_JAX_NATIVE_BOX_ARRAYS_H_
