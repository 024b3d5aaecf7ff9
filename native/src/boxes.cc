#include "boxes.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "scratch.h"

namespace stn {
namespace {

// Numbers of short rows that a task takes together, at least.
constexpr int64_t kNumbersOfTask = 20000;
// Numbers of the inner axes that a task takes at most: the entries that it reads again then stay in a
// fast cache.
constexpr int64_t kInnermost = 512;
// Points whose coordinates exist at a time: their arrays stay in a fast cache. Sums over points are
// taken part by part, so that the division into tasks does not change them.
constexpr int64_t kPointsOfPart = 16 * kBlock;
constexpr int64_t kPointsOfTask = 4 * kPointsOfPart;
// Arrays of box means that exist at a time take up to this much memory, or one for each thread.
constexpr int64_t kBytesAtOnce = int64_t{1} << 21;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An array [outer, entries, inner] whose middle axis grows from pixels to box means.
struct Axis {
  int64_t outer, pixels, entries, inner;
  int64_t margin;  // Entries before the first pixel.
  const std::vector<EntryRun>* runs;  // The other entries; those past `entries` are left out.
  int64_t channels;  // The innermost axis, of which `inner` is a multiple.
};

// Writes the entries of one index of the outer axes, of the inner numbers `first` to `last`.
template <class U>
void Grow(const Axis& axis, const U* from, const U* fill, int64_t first, int64_t last, U* to) {
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
Boxes BoxesOf(const Job& job, int64_t i) {
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
class Means {
 public:
  Means(const Job& job, xla::ffi::ThreadPool& pool, int64_t threads)
      : job_(job), pool_(pool), threads_(threads) {
    extents_.resize(static_cast<size_t>(job.image.batch.parts()));
    ParallelFor(pool, job.boxes.each_point ? threads : 1, count(),
                [&](int64_t image) { extents_[static_cast<size_t>(image)] = ExtentOf(image); });
    for (const Extent& extent : extents_) {
      for (int axis = 0; axis < kMaxNdim; ++axis) {
        largest_.entries[axis] = std::max(largest_.entries[axis], extent.entries[axis]);
      }
    }
    const Axis last = AxisOf(0, largest_);
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
      const Axis largest = AxisOf(axis, largest_);
      const int64_t pieces = axis > 0 ? 1 : CeilDiv(largest.inner, kInnermost);
      const int64_t rows =
          std::max<int64_t>(kNumbersOfTask / std::max<int64_t>(largest.entries * largest.inner, 1), 1);
      const int64_t tasks = std::max<int64_t>(pieces > 1 ? pieces : CeilDiv(largest.outer, rows), 1);
      ParallelFor(pool_, threads_, count * tasks, [&](int64_t task) {
        const int64_t image = first + task / tasks, number = task % tasks;
        const Extent& extent = extents_[static_cast<size_t>(image)];
        if (!extent.read) return;
        const Axis grown = AxisOf(axis, extent);
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

  Axis AxisOf(int axis, const Extent& extent) const {
    const Geometry& geometry = job_.geometry;
    Axis result = {1, geometry.size[axis], extent.entries[axis], geometry.channels,
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

// One item of a job.
template <class U>
class BoxSampler {
 public:
  // `means` is the array of box means, with its geometry.
  BoxSampler(const Job& job, int64_t i, const U* means, const Geometry& geometry, U* edge_sums)
      : job_(job), i_(i), means_(means), of_means_(geometry), edge_sums_(edge_sums) {
    const int64_t row = kPointsOfPart + kOverrun;
    const int64_t ndim = geometry.ndim;
    scratch_ = std::make_unique<Scratch>(
        static_cast<size_t>(2 * ndim * row + kPointsOfPart * geometry.channels) * sizeof(U));
    U* next = static_cast<U*>(scratch_->data());
    for (int64_t axis = 0; axis < ndim; ++axis, next += 2 * row) {
      places_[axis] = next;
      slopes_[axis] = next + row;
    }
    values_ = next;
    for (int64_t axis = 0; axis < ndim; ++axis) pixels_[axis] = job.source[axis].of(i);
  }

  // Takes the points of a range, which begins with a part.
  void Run(Range points) {
    for (Range part = points; part.first < points.last; part.first = part.last) {
      part.last = std::min(part.first + kPointsOfPart, points.last);
      const Boxes boxes = BoxesOf(job_, i_);
      const int64_t levels = boxes.each_point ? part.last - part.first : 1;
      const int32_t* level = boxes.level[0] + (boxes.each_point ? part.first : 0);
      const int64_t with_boxes =
          std::count_if(level, level + levels, [](int32_t each) { return each >= 0; });
      // Where points differ, those that read the image itself.
      const int32_t* choice = with_boxes > 0 && with_boxes < levels ? level : nullptr;
      job_.out ? Forward(boxes, part, with_boxes > 0, choice)
               : Pull(boxes, part, with_boxes > 0, choice);
    }
  }

 private:
  // Samples the image, or box means, at the coordinates of a part's points.
  void Sample(const Geometry& shared, const void* image, const void* const* sources, Range part,
              U* out) const {
    Item item = ItemOf(image, sources);
    item.out = out;
    job_.kernels->forward(OfPart(shared, part), item, Range{0, part.last - part.first});
  }

  // The gradients to these coordinates.
  void Slopes(const Geometry& shared, const void* image, const void* const* sources, Range part,
              U* const* slopes) const {
    Item item = ItemOf(image, sources);
    const int64_t offset = part.first * shared.channels;
    item.cotangent = static_cast<const U*>(job_.cotangent.of(i_)) + offset;
    for (int axis = 0; axis < shared.ndim; ++axis) item.d_source[axis] = slopes[axis];
    job_.kernels->pull(OfPart(shared, part), item, Range{0, part.last - part.first}, Range{0, 0});
  }

  Item ItemOf(const void* image, const void* const* sources) const {
    Item item = {};
    item.image = image;
    item.fill = job_.fill.of(i_);
    for (int axis = 0; axis < job_.geometry.ndim; ++axis) item.source[axis] = sources[axis];
    return item;
  }

  static Geometry OfPart(Geometry geometry, Range part) {
    geometry.points = part.last - part.first;
    return geometry;
  }

  // The coordinates of a part's points.
  void PixelsOf(Range part, const void** pixels) const {
    for (int axis = 0; axis < job_.geometry.ndim; ++axis) {
      pixels[axis] = static_cast<const U*>(pixels_[axis]) + part.first;
    }
  }

  void Forward(const Boxes& boxes, Range part, bool with_boxes, const int32_t* choice) {
    const int64_t channels = job_.geometry.channels, count = part.last - part.first;
    U* out = static_cast<U*>(job_.out.part(i_)) + part.first * channels;
    const void* pixels[kMaxNdim] = {};
    PixelsOf(part, pixels);
    if (!with_boxes) return Sample(job_.geometry, job_.image.of(i_), pixels, part, out);
    const int64_t all = int64_t{1} << job_.geometry.ndim;
    for (int64_t box = 0; box < all; ++box) {
      job_.kernels->box_places(job_.geometry, boxes, box, pixels_, part, places_);
      Sample(of_means_, means_, places_, part, box == 0 ? out : values_);
      if (box > 0) job_.kernels->add(values_, count * channels, out);
    }
    const U share = U{1} / static_cast<U>(all);
    for (int64_t k = 0; k < count * channels; ++k) out[k] *= share;
    if (choice == nullptr) return;
    Sample(job_.geometry, job_.image.of(i_), pixels, part, values_);
    for (int64_t point = 0; point < count; ++point) {
      if (choice[point] >= 0) continue;
      for (int64_t c = point * channels; c < (point + 1) * channels; ++c) out[c] = values_[c];
    }
  }

  void Pull(const Boxes& boxes, Range part, bool with_boxes, const int32_t* choice) {
    const int ndim = job_.geometry.ndim;
    const int64_t count = part.last - part.first;
    const auto bytes = static_cast<size_t>(count) * sizeof(U);
    const BoxGradients gradients = GradientsOf(part);
    U* d_pixel[kMaxNdim] = {};
    for (int axis = 0; axis < ndim; ++axis) {
      d_pixel[axis] = static_cast<U*>(gradients.d_pixel[axis]) + part.first;
      std::memset(d_pixel[axis], 0, bytes);
      for (int edge = 0; edge < ndim; ++edge) {
        U* d_edge = static_cast<U*>(gradients.d_edge[edge][axis]);
        boxes.each_point ? std::memset(d_edge + part.first, 0, bytes)
                         : std::memset(d_edge, 0, sizeof(U));
      }
    }
    const void* pixels[kMaxNdim] = {};
    PixelsOf(part, pixels);
    if (!with_boxes) return Slopes(job_.geometry, job_.image.of(i_), pixels, part, d_pixel);
    for (int64_t box = 0; box < int64_t{1} << ndim; ++box) {
      job_.kernels->box_places(job_.geometry, boxes, box, pixels_, part, places_);
      Slopes(of_means_, means_, places_, part, slopes_);
      job_.kernels->box_places_pull(job_.geometry, boxes, box, pixels_, part, gradients);
    }
    if (choice == nullptr) return;
    Slopes(job_.geometry, job_.image.of(i_), pixels, part, slopes_);
    for (int axis = 0; axis < ndim; ++axis) {
      for (int64_t point = 0; point < count; ++point) {
        if (choice[point] < 0) d_pixel[axis][point] = slopes_[axis][point];
      }
    }
  }

  // Where the gradients of a part are written.
  BoxGradients GradientsOf(Range part) const {
    const int ndim = job_.geometry.ndim;
    BoxGradients gradients = {};
    U* edges = edge_sums_ + part.first / kPointsOfPart * ndim * ndim;
    int64_t each = 1;
    if (job_.boxes.each_point) {
      edges = static_cast<U*>(job_.boxes.d_edge.part(i_));
      each = job_.geometry.points;
    }
    for (int axis = 0; axis < ndim; ++axis) {
      gradients.slope[axis] = slopes_[axis];
      gradients.d_pixel[axis] = job_.d_source[axis].part(i_);
      for (int edge = 0; edge < ndim; ++edge) {
        // Operands are in the order x, y, z.
        gradients.d_edge[edge][axis] = edges + (edge * ndim + ndim - 1 - axis) * each;
      }
    }
    return gradients;
  }

  const Job& job_;
  int64_t i_;
  const U* means_;
  Geometry of_means_;
  U* edge_sums_;  // [parts of the item, ndim, ndim], if all points have the same edges.
  std::unique_ptr<Scratch> scratch_;
  const void* pixels_[kMaxNdim] = {};
  void* places_[kMaxNdim] = {};
  U* slopes_[kMaxNdim] = {};
  U* values_;  // Of a part's points.
};

template <class U>
void Run(const Job& job, xla::ffi::ThreadPool& pool) {
  const Geometry& geometry = job.geometry;
  const int64_t points = geometry.points, numbers = geometry.ndim * geometry.ndim;
  const bool few = job.items * points * geometry.channels < kNumbersOfTask;
  const int64_t threads = few ? 1 : std::max<int64_t>(pool.num_threads(), 1);
  const int64_t parts_of_item = CeilDiv(points, kPointsOfPart);
  const bool sums_edges = job.boxes.d_edge && !job.boxes.each_point;
  Scratch of_parts(static_cast<size_t>(sums_edges ? job.items * parts_of_item * numbers : 1) *
                   sizeof(U));
  U* edge_sums = static_cast<U*>(of_parts.data());
  Means<U> means(job, pool, threads);
  for (int64_t first = 0; first < means.count(); first += means.at_once()) {
    const int64_t count = std::min(means.at_once(), means.count() - first);
    means.Compute(first, count);
    const auto items_of_image = static_cast<int64_t>(job.image.batch.items(first).size());
    const int64_t tasks = CeilDiv(points, kPointsOfTask);
    ParallelFor(pool, threads, count * items_of_image * tasks, [&](int64_t task) {
      const int64_t start = task % tasks * kPointsOfTask;
      const int64_t image = first + task / tasks / items_of_image;
      const int64_t i =
          job.image.batch.items(image)[static_cast<size_t>(task / tasks % items_of_image)];
      BoxSampler<U>(job, i, means.of(image), means.geometry(image),
                    edge_sums + (sums_edges ? i * parts_of_item * numbers : 0))
          .Run(Range{start, std::min(start + kPointsOfTask, points)});
    });
  }
  for (int64_t i = 0; i < job.items && sums_edges; ++i) {
    U* sums = static_cast<U*>(job.boxes.d_edge.part(i));
    std::memset(sums, 0, static_cast<size_t>(numbers) * sizeof(U));
    for (int64_t part = 0; part < parts_of_item; ++part) {
      job.kernels->add(edge_sums + (i * parts_of_item + part) * numbers, numbers, sums);
    }
  }
}

}  // namespace

void RunBoxes(const Job& job, xla::ffi::ThreadPool& pool) {
  if (job.items * job.geometry.points * job.geometry.channels == 0) return;
  job.source_size == 8 ? Run<double>(job, pool) : Run<float>(job, pool);
}

}  // namespace stn
