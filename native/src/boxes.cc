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
// Points of a task that samples; their values stay in a fast cache.
constexpr int64_t kPointsOfTask = 64 * kBlock;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An array [outer, entries, inner] whose middle axis grows from pixels to box means.
struct Axis {
  int64_t outer, pixels, entries, inner;
  int64_t margin;  // Entries before the first pixel.
  const std::vector<EntryRun>* runs;  // The other entries.
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

// The arrays of box means of a few images.
template <class U>
class Means {
 public:
  Means(const Job& job, int64_t images) : job_(job), numbers_(1) {
    const Geometry& geometry = job.geometry;
    numbers_ = geometry.pixels * geometry.channels;
    // All axes but the first have grown.
    partial_numbers_ = numbers_ / geometry.size[0] * job.boxes.size[0];
    const auto bytes = static_cast<size_t>(images) * sizeof(U);
    whole_ = std::make_unique<Scratch>(bytes * static_cast<size_t>(numbers_));
    partial_ = std::make_unique<Scratch>(bytes * static_cast<size_t>(partial_numbers_));
  }

  const U* of(int64_t number) const { return whole(number); }

  // Computes those of `count` parts of the image operand from `first` on.
  void Compute(int64_t first, int64_t count, xla::ffi::ThreadPool& pool, int64_t threads) {
    const int ndim = job_.geometry.ndim;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      const Axis grown = AxisOf(axis);
      const int64_t numbers = grown.entries * grown.inner;
      // Of short rows a task takes several, of long ones a piece.
      const int64_t piece = std::min(grown.inner, std::max(kInnermost, grown.channels));
      const int64_t pieces = grown.outer > 1 ? 1 : CeilDiv(grown.inner, piece);
      const int64_t rows = std::max<int64_t>(kNumbersOfTask / std::max<int64_t>(numbers, 1), 1);
      const int64_t tasks = pieces > 1 ? pieces : CeilDiv(grown.outer, rows);
      ParallelFor(pool, threads, count * tasks, [&](int64_t task) {
        const int64_t image = task / tasks, part = task % tasks;
        const U* from = axis == ndim - 1
                            ? static_cast<const U*>(job_.image.of(ItemOf(first + image)))
                            : BufferOf(axis + 1, image);
        const U* fill = static_cast<const U*>(job_.fill.of(ItemOf(first + image)));
        U* to = BufferOf(axis, image);
        if (pieces > 1) {
          Grow(grown, from, fill, part * piece, std::min(part * piece + piece, grown.inner), to);
          return;
        }
        for (int64_t row = part * rows; row < std::min((part + 1) * rows, grown.outer); ++row) {
          Grow(grown, from + row * grown.pixels * grown.inner, fill, 0, grown.inner,
               to + row * numbers);
        }
      });
    }
  }

 private:
  Axis AxisOf(int axis) const {
    const Geometry& geometry = job_.geometry;
    Axis result = {1, job_.boxes.size[axis], geometry.size[axis], geometry.channels,
                   job_.boxes.margin, &job_.boxes.runs[axis], geometry.channels};
    for (int before = 0; before < axis; ++before) result.outer *= job_.boxes.size[before];
    for (int behind = axis + 1; behind < geometry.ndim; ++behind) {
      result.inner *= geometry.size[behind];
    }
    return result;
  }

  // An item that has this part of the image.
  int64_t ItemOf(int64_t part) const { return job_.image.batch.items(part).front(); }

  U* whole(int64_t image) const { return static_cast<U*>(whole_->data()) + image * numbers_; }

  // Where an axis is written: the buffers alternate, and the first axis ends in the whole one.
  U* BufferOf(int axis, int64_t image) const {
    if (axis % 2 == 0) return whole(image);
    return static_cast<U*>(partial_->data()) + image * partial_numbers_;
  }

  const Job& job_;
  int64_t numbers_, partial_numbers_;
  std::unique_ptr<Scratch> whole_, partial_;
};

// One item of a job, sampled box by box.
template <class U>
class BoxSampler {
 public:
  BoxSampler(const Job& job, int64_t i, const U* means) : job_(job), item_{}, i_(i) {
    item_.image = means;
    item_.fill = job.fill.of(i);
  }

  void Run(Range points) {
    const Geometry& geometry = job_.geometry;
    const int64_t numbers = (points.last - points.first) * geometry.channels;
    const int64_t offset = points.first * geometry.channels;
    const U share = U{1} / static_cast<U>(job_.boxes.count);
    Scratch scratch(static_cast<size_t>(numbers) * sizeof(U));
    U* of_box = static_cast<U*>(scratch.data());
    if (job_.out) {
      U* out = static_cast<U*>(job_.out.part(i_)) + offset;
      for (int64_t box = 0; box < job_.boxes.count; ++box) {
        Take(box, points);
        item_.out = box == 0 ? out : of_box;
        job_.kernels->forward(geometry_, item_, Range{0, points.last - points.first});
        if (box > 0) job_.kernels->add(of_box, numbers, out);
      }
      for (int64_t k = 0; k < numbers; ++k) out[k] *= share;
      return;
    }
    const U* cotangent = static_cast<const U*>(job_.cotangent.of(i_)) + offset;
    for (int64_t k = 0; k < numbers; ++k) of_box[k] = cotangent[k] * share;
    item_.cotangent = of_box;
    for (int64_t box = 0; box < job_.boxes.count; ++box) {
      Take(box, points);
      job_.kernels->pull(geometry_, item_, Range{0, points.last - points.first}, Range{0, 0});
    }
  }

 private:
  // Makes these points of a box those of the item.
  void Take(int64_t box, Range points) {
    const int64_t start = box * job_.geometry.points + points.first;
    geometry_.points = points.last - points.first;
    for (int axis = 0; axis < geometry_.ndim; ++axis) {
      item_.source[axis] = static_cast<const U*>(job_.source[axis].of(i_)) + start;
      if (job_.d_source[axis]) {
        item_.d_source[axis] = static_cast<U*>(job_.d_source[axis].part(i_)) + start;
      }
    }
  }

  const Job& job_;
  Geometry geometry_ = job_.geometry;
  Item item_;
  int64_t i_;
};

template <class U>
void Sample(const Job& job, xla::ffi::ThreadPool& pool) {
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const int64_t parts = job.image.batch.parts(), points = job.geometry.points;
  const int64_t at_once = std::min(threads, parts);
  Means<U> means(job, at_once);
  for (int64_t first = 0; first < parts; first += at_once) {
    const int64_t count = std::min(at_once, parts - first);
    means.Compute(first, count, pool, threads);
    const auto items_of_part = static_cast<int64_t>(job.image.batch.items(first).size());
    const int64_t tasks = std::max<int64_t>(CeilDiv(points, kPointsOfTask), 1);
    ParallelFor(pool, threads, count * items_of_part * tasks, [&](int64_t task) {
      const int64_t start = task % tasks * kPointsOfTask;
      const int64_t image = task / tasks / items_of_part;
      const int64_t i =
          job.image.batch.items(first + image)[static_cast<size_t>(task / tasks % items_of_part)];
      BoxSampler<U>(job, i, means.of(image))
          .Run(Range{start, std::min(start + kPointsOfTask, points)});
    });
  }
}

}  // namespace

void RunBoxes(const Job& job, xla::ffi::ThreadPool& pool) {
  if (job.items * job.geometry.points * job.geometry.channels == 0) return;
  job.source_size == 8 ? Sample<double>(job, pool) : Sample<float>(job, pool);
}

}  // namespace stn
