#include "paths.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "scratch.h"

namespace stn {
namespace {

// Points of a part of an item, at least. A field is copied once for each part, and its gradient is
// summed part by part, so that the division into tasks does not change the sums.
constexpr int64_t kPointsOfPart = 32 * kBlock;

// Points of a part for each number of the field, at least: then the gradients to the field of all parts
// together take less memory than the points.
constexpr int64_t kPointsOfNumber = 4;

// The points of all items in parts, each of them a task.
class Parts {
 public:
  explicit Parts(const Job& job) : job_(job), points_(job.geometry.points) {
    const int64_t numbers = job.geometry.pixels * job.geometry.channels;
    const int64_t least = std::max(kPointsOfPart, kPointsOfNumber * numbers);
    points_of_part_ = (least + kBlock - 1) / kBlock * kBlock;
    of_item_ = std::max<int64_t>((points_ + points_of_part_ - 1) / points_of_part_, 1);
  }

  int64_t of_item() const { return of_item_; }
  int64_t count() const { return job_.items * of_item_; }

  // Calls `body(part, item, points)` for all parts, with the operands of its item.
  template <class Body>
  void Run(xla::ffi::ThreadPool& pool, const Body& body) const {
    const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
    ParallelFor(pool, threads, count(), [&](int64_t part) {
      const int64_t i = part / of_item_;
      const int64_t first = part % of_item_ * points_of_part_;
      Item item = {};
      item.image = job_.image.of(i);
      for (int axis = 0; axis < job_.geometry.ndim; ++axis) {
        item.source[axis] = job_.source[axis].of(i);
        if (job_.d_source[axis]) item.d_source[axis] = job_.d_source[axis].part(i);
      }
      if (job_.out) item.out = job_.out.part(i);
      if (job_.cotangent.data != nullptr) item.cotangent = job_.cotangent.of(i);
      body(part, item, Range{first, std::min(first + points_of_part_, points_)});
    });
  }

 private:
  const Job& job_;
  int64_t points_, points_of_part_, of_item_;
};

}  // namespace

void RunFollow(const Job& job, xla::ffi::ThreadPool& pool) {
  if (job.items * job.geometry.points == 0) return;
  Parts(job).Run(pool, [&](int64_t, const Item& item, Range points) {
    job.kernels->follow(job.geometry, item, points);
  });
}

void RunFollowPull(const Job& job, xla::ffi::ThreadPool& pool) {
  if (job.items == 0) return;
  const Parts parts(job);
  std::unique_ptr<Scratch> sums;
  if (job.d_image) {
    sums = std::make_unique<Scratch>(static_cast<size_t>(parts.count() * job.d_image.bytes));
  }
  auto sums_of = [&](int64_t part) {
    return static_cast<char*>(sums->data()) + part * job.d_image.bytes;
  };
  parts.Run(pool, [&](int64_t part, Item item, Range points) {
    if (sums != nullptr) item.d_image = sums_of(part);
    job.kernels->follow_pull(job.geometry, item, points);
  });
  if (sums == nullptr) return;
  const int64_t numbers = job.d_image.bytes / job.source_size;
  for (int64_t i = 0; i < job.items; ++i) {
    char* total = static_cast<char*>(job.d_image.part(i));
    std::memset(total, 0, static_cast<size_t>(job.d_image.bytes));
    for (int64_t part = 0; part < parts.of_item(); ++part) {
      job.kernels->add(sums_of(i * parts.of_item() + part), numbers, total);
    }
  }
}

}  // namespace stn
