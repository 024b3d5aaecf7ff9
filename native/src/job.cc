#include "job.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "scratch.h"

namespace stn {
namespace {

// Tasks per thread: enough that all threads finish at about the same time, and no more, since
// fewer, larger tasks read fewer parts of the image twice.
constexpr int64_t kTasksOfThread = 8;

// Limit on the memory of separate accumulators at any time.
constexpr int64_t kMostBytesOfAccumulators = int64_t{256} << 20;

// Points of an affine map whose coordinates exist at a time: their arrays stay in a fast cache. Sums
// over points are taken part by part, so that the division into tasks does not change them.
constexpr int64_t kPointsOfPart = 16 * kBlock;
static_assert(kPointsOfPart % kBlock == 0, "A part is a whole number of blocks.");

// The number of threads to use for a job.
int64_t Threads(const Job& job, const xla::ffi::ThreadPool& pool) {
  const Geometry& geometry = job.geometry;
  if (job.items * geometry.points * geometry.channels < kNumbersOfTask) return 1;
  return std::max<int64_t>(pool.num_threads(), 1);
}

// The operands of one batch item.
Item ItemOf(const Job& job, int64_t i) {
  Item item = {};
  item.image = job.image.of(i);
  item.fill = job.fill.of(i);
  for (int axis = 0; axis < job.geometry.ndim && !job.from_matrix; ++axis) {
    item.source[axis] = job.source[axis].of(i);
    if (!job.geometry.from_coordinates) {
      item.index[axis] = static_cast<const int32_t*>(job.index[axis].of(i));
    }
  }
  if (job.cotangent.data != nullptr) item.cotangent = job.cotangent.of(i);
  return item;
}

// Arrays for the coordinates of a part's points, and for the gradients to them.
class Coordinates {
 public:
  explicit Coordinates(bool with_gradients) {
    for (int axis = 0; axis < kMaxNdim; ++axis) {
      values_[axis] = numbers_[0][axis];
      if (with_gradients) gradients_[axis] = numbers_[1][axis];
    }
  }

  void* const* values() const { return values_; }
  void* const* gradients() const { return gradients_; }

 private:
  alignas(64) double numbers_[2][kMaxNdim][kPointsOfPart + kOverrun];
  void* values_[kMaxNdim];
  void* gradients_[kMaxNdim] = {};
};

// Calls `body(geometry, item, points)` for the points of a range. If a matrix gives the coordinates,
// it calls it for a part at a time, as if the item began with that part: with `points` from 0 on, and
// the arrays of the item, other than the image's, moved there. Then it calls `after(part, gradients)`
// with the part's points in the item, and the gradients to their coordinates if wanted.
template <class Body, class After>
void ForParts(const Job& job, const Item& item, int64_t i, Range points, bool with_gradients,
              const Body& body, const After& after) {
  if (!job.from_matrix) return body(job.geometry, item, points);
  const int ndim = job.geometry.ndim;
  Coordinates coordinates(with_gradients);
  const int64_t bytes_of_point =
      job.image.bytes / std::max<int64_t>(job.geometry.pixels, 1);
  Geometry geometry = job.geometry;
  Item part_of_item = item;
  Range rows_ahead = {0, 0};
  part_of_item.rows_ahead = &rows_ahead;
  for (int axis = 0; axis < ndim; ++axis) {
    part_of_item.source[axis] = coordinates.values()[axis];
    part_of_item.d_source[axis] = coordinates.gradients()[axis];
  }
  for (Range part = points; part.first < points.last; part.first = part.last) {
    part.last = std::min(part.first + kPointsOfPart, points.last);
    job.coordinate_kernels->coordinates(geometry, job.tables.lattice(), job.matrix.of(i), part,
                                        coordinates.values());
    geometry.points = job.geometry.points - part.first;
    const int64_t offset = part.first * bytes_of_point;
    if (item.out != nullptr) part_of_item.out = static_cast<char*>(item.out) + offset;
    if (item.cotangent != nullptr) {
      part_of_item.cotangent = static_cast<const char*>(item.cotangent) + offset;
    }
    body(geometry, part_of_item, Range{0, part.last - part.first});
    after(part, coordinates.gradients());
  }
}

void Nothing(Range, void* const*) {}

// Divides the points of all items into tasks, each of several items or of several blocks of one
// item, and calls `body(item, points)`.
class PointTasks {
 public:
  PointTasks(const Job& job, int64_t threads) : items_(job.items), points_(job.geometry.points) {
    const int64_t numbers = std::max<int64_t>(job.geometry.channels, 1);
    const int64_t points = std::max(CeilDiv(kNumbersOfTask, numbers),
                                    CeilDiv(items_ * points_, kTasksOfThread * threads));
    const int64_t unit = job.from_matrix ? kPointsOfPart : kBlock;
    points_of_task_ = CeilDiv(points, unit) * unit;
    items_of_task_ = std::max<int64_t>(points / std::max<int64_t>(points_, 1), 1);
    tasks_of_item_ = std::max<int64_t>(CeilDiv(points_, points_of_task_), 1);
    count_ = tasks_of_item_ > 1 ? items_ * tasks_of_item_ : CeilDiv(items_, items_of_task_);
  }

  int64_t count() const { return count_; }

  template <class Body>
  void run(int64_t task, const Body& body) const {
    if (tasks_of_item_ > 1) {
      const int64_t first = task % tasks_of_item_ * points_of_task_;
      body(task / tasks_of_item_, Range{first, std::min(first + points_of_task_, points_)});
      return;
    }
    const int64_t first = task * items_of_task_;
    for (int64_t item = first; item < std::min(first + items_of_task_, items_); ++item) {
      body(item, Range{0, points_});
    }
  }

 private:
  int64_t items_, points_;
  int64_t points_of_task_, items_of_task_, tasks_of_item_, count_;
};

// The gradients to the sources, which may be sums over batch axes: to coordinates, to weights, or to
// the matrix that gives the coordinates.
class SourceGradients {
 public:
  explicit SourceGradients(const Job& job) : job_(job) {
    if (job.d_matrix) {
      wanted_ = true;
      parts_of_item_ = CeilDiv(job.geometry.points, kPointsOfPart);
      of_parts_ = std::make_unique<Scratch>(
          static_cast<size_t>(job.items * parts_of_item_ * job.d_matrix.bytes));
    }
    for (int axis = 0; axis < job.geometry.ndim; ++axis) {
      const Result& result = job.d_source[axis];
      if (!result) continue;
      wanted_ = true;
      if (result.batch.is_shared()) {
        terms_[axis] = std::make_unique<Scratch>(static_cast<size_t>(job.items * result.bytes));
      }
    }
  }

  bool wanted() const { return wanted_; }

  // Sets where the kernels write the gradients of an item.
  void SetIn(Item& item, int64_t i) const {
    for (int axis = 0; axis < job_.geometry.ndim; ++axis) {
      const Result& result = job_.d_source[axis];
      if (!result) continue;
      item.d_source[axis] = terms_[axis] == nullptr
                                ? result.part(i)
                                : static_cast<char*>(terms_[axis]->data()) + i * result.bytes;
    }
  }

  // Computes the gradient to the matrix for a part of an item, from those to the coordinates.
  void TakePart(int64_t i, Range part, void* const* gradients) const {
    const int64_t number = i * parts_of_item_ + part.first / kPointsOfPart;
    job_.kernels->matrix_gradient(job_.geometry, job_.tables.lattice(), gradients, part,
                                  static_cast<char*>(of_parts_->data()) +
                                      number * job_.d_matrix.bytes);
  }

  bool of_matrix() const { return static_cast<bool>(job_.d_matrix); }

  // Sums over the batch axes, when all items are done.
  void Sum(xla::ffi::ThreadPool& pool, int64_t threads) const {
    if (of_matrix()) SumParts();
    for (int axis = 0; axis < job_.geometry.ndim; ++axis) {
      if (terms_[axis] != nullptr) SumAxis(axis, pool, threads);
    }
  }

 private:
  void SumParts() const {
    const Result& result = job_.d_matrix;
    const int64_t numbers = result.bytes / job_.source_size;
    for (int64_t part = 0; part < result.batch.parts(); ++part) {
      char* sums = static_cast<char*>(result.part(part));
      std::memset(sums, 0, static_cast<size_t>(result.bytes));
      for (int64_t item : result.batch.items(part)) {
        const char* terms =
            static_cast<const char*>(of_parts_->data()) + item * parts_of_item_ * result.bytes;
        for (int64_t j = 0; j < parts_of_item_; ++j) {
          job_.kernels->add(terms + j * result.bytes, numbers, sums);
        }
      }
    }
  }

  void SumAxis(int axis, xla::ffi::ThreadPool& pool, int64_t threads) const {
    const Result& result = job_.d_source[axis];
    const int64_t numbers = result.bytes / job_.source_size;
    const int64_t pieces = std::max<int64_t>(CeilDiv(numbers, kNumbersOfTask), 1);
    ParallelFor(pool, threads, result.batch.parts() * pieces, [&](int64_t task) {
      const int64_t part = task / pieces;
      const int64_t first = task % pieces * kNumbersOfTask;
      const int64_t count = std::min(kNumbersOfTask, numbers - first);
      const int64_t offset = first * job_.source_size;
      char* sums = static_cast<char*>(result.part(part)) + offset;
      std::memset(sums, 0, static_cast<size_t>(count * job_.source_size));
      for (int64_t item : result.batch.items(part)) {
        const char* terms = static_cast<char*>(terms_[axis]->data()) + item * result.bytes;
        job_.kernels->add(terms + offset, count, sums);
      }
    });
  }

  const Job& job_;
  bool wanted_ = false;
  std::unique_ptr<Scratch> terms_[kMaxNdim];
  // The gradients to the matrix from parts of the items, [items][parts of an item].
  std::unique_ptr<Scratch> of_parts_;
  int64_t parts_of_item_ = 0;
};

// Computes the gradients to the sources for a range of an item's points, if `sources` is given, and
// adds to the image's gradient within a band of pixels.
void Pull(const Job& job, Item item, int64_t i, Range points, Range band,
          const SourceGradients* sources) {
  if (sources != nullptr) sources->SetIn(item, i);
  const bool of_matrix = sources != nullptr && sources->of_matrix();
  ForParts(
      job, item, i, points, of_matrix,
      [&](const Geometry& geometry, const Item& part, Range range) {
        job.kernels->pull(geometry, part, range, band);
      },
      [&](Range part, void* const* gradients) {
        if (of_matrix) sources->TakePart(i, part, gradients);
      });
}

// The image's gradient. Each part of it is divided into bands of rows. One task computes one band
// from all points that touch it, in their order. So the additions to a pixel have the same order
// for any division.
class ImageGradient {
 public:
  ImageGradient(const Job& job, int64_t threads) : job_(job), geometry_(job.geometry) {
    parts_ = job.d_image.batch.parts();
    rows_ = geometry_.size[0];
    pixels_of_row_ = rows_ > 0 ? geometry_.pixels / rows_ : 0;
    bytes_of_pixel_ = geometry_.padded_channels() * job.source_size;
    bands_ = 1;
    // Enough tasks that all threads finish at about the same time.
    if (threads > 1 && parts_ > 0) bands_ = CeilDiv(2 * threads, parts_);
    if (!job.accumulates_in_place) {
      bands_ = std::max(bands_,
                        CeilDiv(geometry_.pixels * bytes_of_pixel_, kMostBytesOfAccumulators));
    }
    bands_ = std::max<int64_t>(std::min(bands_, rows_), 1);
    blocks_ = CeilDiv(geometry_.points, kBlock);
  }

  bool is_cut() const { return bands_ > 1; }
  int64_t tasks() const { return parts_ * bands_; }

  // Finds which rows each block touches, if there are several bands.
  void Prepare(xla::ffi::ThreadPool& pool, int64_t threads) {
    if (!is_cut()) return;
    touched_.resize(static_cast<size_t>(job_.items * blocks_));
    PointTasks tasks(job_, threads);
    ParallelFor(pool, threads, tasks.count(), [&](int64_t task) {
      tasks.run(task, [&](int64_t i, Range points) {
        Rows* rows = touched_.data() + i * blocks_ + points.first / kBlock;
        ForParts(
            job_, ItemOf(job_, i), i, points, false,
            [&](const Geometry& geometry, const Item& part, Range range) {
              const Range blocks = {range.first / kBlock, CeilDiv(range.last, kBlock)};
              job_.kernels->touched_rows(geometry, part, blocks, rows);
              rows += blocks.last - blocks.first;
            },
            Nothing);
      });
    });
  }

  // Computes one band, and the gradients to the sources if wanted.
  void Run(int64_t task, const SourceGradients* sources) const {
    const int64_t part = task / bands_, band = task % bands_;
    const Range rows = {rows_ * band / bands_, rows_ * (band + 1) / bands_};
    const Range pixels = {rows.first * pixels_of_row_, rows.last * pixels_of_row_};
    const int64_t count = pixels.last - pixels.first;
    char* result = static_cast<char*>(job_.d_image.part(part));
    if (geometry_.pixels > 0) {
      result += job_.d_image.bytes / geometry_.pixels * pixels.first;
    }
    const auto bytes = static_cast<size_t>(count * bytes_of_pixel_);
    std::unique_ptr<Scratch> scratch;
    void* sums = result;
    if (!job_.accumulates_in_place) {
      scratch = std::make_unique<Scratch>(bytes);
      sums = scratch->data();
    }
    std::memset(sums, 0, bytes);
    for (int64_t i : job_.d_image.batch.items(part)) {
      Item item = ItemOf(job_, i);
      item.d_image = sums;
      AddItem(item, i, rows, pixels, sources);
    }
    if (!job_.accumulates_in_place) job_.kernels->finish(geometry_, sums, count, result);
  }

 private:
  void AddItem(const Item& item, int64_t i, Range rows, Range pixels,
               const SourceGradients* sources) const {
    if (!is_cut()) return Pull(job_, item, i, Range{0, geometry_.points}, pixels, sources);
    const Rows* touched = touched_.data() + i * blocks_;
    auto touches = [&](int64_t block) {
      return touched[block].first < rows.last && touched[block].last > rows.first;
    };
    for (int64_t block = 0; block < blocks_;) {
      const int64_t first = block;
      while (block < blocks_ && touches(block)) ++block;
      if (block == first) {
        ++block;
        continue;
      }
      const Range points = {first * kBlock, std::min(block * kBlock, geometry_.points)};
      Pull(job_, item, i, points, pixels, nullptr);
    }
  }

  const Job& job_;
  const Geometry& geometry_;
  int64_t parts_, rows_, pixels_of_row_, bytes_of_pixel_, bands_, blocks_;
  std::vector<Rows> touched_;
};

}  // namespace

void RunForward(const Job& job, xla::ffi::ThreadPool& pool) {
  const Geometry& geometry = job.geometry;
  if (job.items * geometry.points * geometry.channels == 0) return;
  const int64_t threads = Threads(job, pool);
  PointTasks tasks(job, threads);
  ParallelFor(pool, threads, tasks.count(), [&](int64_t task) {
    tasks.run(task, [&](int64_t i, Range points) {
      Item item = ItemOf(job, i);
      item.out = job.out.part(i);
      ForParts(
          job, item, i, points, false,
          [&](const Geometry& geometry, const Item& part, Range range) {
            const bool bytes = job.bytes_kernel != nullptr;
            bytes ? job.bytes_kernel(geometry, part, range)
                  : job.kernels->forward(geometry, part, range);
          },
          Nothing);
    });
  });
}

void RunPull(const Job& job, xla::ffi::ThreadPool& pool) {
  const int64_t threads = Threads(job, pool);
  SourceGradients sources(job);
  auto write_sources = [&](int64_t i, Range points) {
    Pull(job, ItemOf(job, i), i, points, Range{0, 0}, &sources);
  };
  PointTasks points(job, threads);
  if (!job.d_image) {
    ParallelFor(pool, threads, points.count(),
                [&](int64_t task) { points.run(task, write_sources); });
  } else {
    ImageGradient image(job, threads);
    image.Prepare(pool, threads);
    if (!image.is_cut()) {
      ParallelFor(pool, threads, image.tasks(),
                  [&](int64_t task) { image.Run(task, &sources); });
    } else {
      const int64_t more = sources.wanted() ? points.count() : 0;
      ParallelFor(pool, threads, image.tasks() + more, [&](int64_t task) {
        if (task < image.tasks()) {
          image.Run(task, nullptr);
        } else {
          points.run(task - image.tasks(), write_sources);
        }
      });
    }
  }
  sources.Sum(pool, threads);
}

}  // namespace stn
