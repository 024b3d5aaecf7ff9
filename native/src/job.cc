#include "job.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "scratch.h"

namespace stn {
namespace {

// A job of fewer numbers runs on the calling thread. Tasks have about this many or more.
constexpr int64_t kNumbersOfTask = 20000;

// Tasks per thread: enough that all threads finish at about the same time, and no more, since
// fewer, larger tasks read fewer parts of the image twice.
constexpr int64_t kTasksOfThread = 8;

// Limit on the memory of separate accumulators at any time.
constexpr int64_t kMostBytesOfAccumulators = int64_t{256} << 20;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

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
  for (int axis = 0; axis < job.geometry.ndim; ++axis) {
    item.source[axis] = job.source[axis].of(i);
    if (!job.geometry.from_coordinates) {
      item.index[axis] = static_cast<const int32_t*>(job.index[axis].of(i));
    }
  }
  if (job.cotangent.data != nullptr) item.cotangent = job.cotangent.of(i);
  return item;
}

// Divides the points of all items into tasks, each of several items or of several blocks of one
// item, and calls `body(item, points)`.
class PointTasks {
 public:
  PointTasks(const Job& job, int64_t threads) : items_(job.items), points_(job.geometry.points) {
    const int64_t numbers = std::max<int64_t>(job.geometry.channels, 1);
    const int64_t points = std::max(CeilDiv(kNumbersOfTask, numbers),
                                    CeilDiv(items_ * points_, kTasksOfThread * threads));
    points_of_task_ = CeilDiv(points, kBlock) * kBlock;
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

// The gradients to the sources, which may be sums over batch axes.
class SourceGradients {
 public:
  explicit SourceGradients(const Job& job) : job_(job) {
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

  // Sums over the batch axes, when all items are done.
  void Sum(xla::ffi::ThreadPool& pool, int64_t threads) const {
    for (int axis = 0; axis < job_.geometry.ndim; ++axis) {
      if (terms_[axis] != nullptr) SumAxis(axis, pool, threads);
    }
  }

 private:
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
};

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
        Range blocks = {points.first / kBlock, CeilDiv(points.last, kBlock)};
        job_.kernels->touched_rows(geometry_, ItemOf(job_, i), blocks,
                                   touched_.data() + i * blocks_ + blocks.first);
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
      if (sources != nullptr) sources->SetIn(item, i);
      AddItem(item, i, rows, pixels);
    }
    if (!job_.accumulates_in_place) job_.kernels->finish(geometry_, sums, count, result);
  }

 private:
  void AddItem(const Item& item, int64_t i, Range rows, Range pixels) const {
    if (!is_cut()) {
      job_.kernels->pull(geometry_, item, Range{0, geometry_.points}, pixels);
      return;
    }
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
      job_.kernels->pull(geometry_, item, points, pixels);
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
      if (job.bytes_kernel != nullptr) {
        job.bytes_kernel(geometry, item, points);
      } else {
        job.kernels->forward(geometry, item, points);
      }
    });
  });
}

void RunPull(const Job& job, xla::ffi::ThreadPool& pool) {
  const int64_t threads = Threads(job, pool);
  SourceGradients sources(job);
  auto write_sources = [&](int64_t i, Range points) {
    Item item = ItemOf(job, i);
    sources.SetIn(item, i);
    job.kernels->pull(job.geometry, item, points, Range{0, 0});
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
