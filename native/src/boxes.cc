#include "boxes.h"

#include "box_arrays.h"

namespace stn {
namespace {

// Points whose coordinates exist at a time: their arrays stay in a fast cache. Sums over points are
// taken part by part, so that the division into tasks does not change them.
constexpr int64_t kPointsOfPart = 16 * kBlock;
constexpr int64_t kPointsOfTask = 4 * kPointsOfPart;

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

  // Takes the points of a range, which begins where a part begins.
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
  BoxArrays<U> arrays(job, pool, threads);
  for (int64_t first = 0; first < arrays.count(); first += arrays.at_once()) {
    const int64_t count = std::min(arrays.at_once(), arrays.count() - first);
    arrays.Compute(first, count);
    const auto items_of_image = static_cast<int64_t>(job.image.batch.items(first).size());
    const int64_t tasks = CeilDiv(points, kPointsOfTask);
    ParallelFor(pool, threads, count * items_of_image * tasks, [&](int64_t task) {
      const int64_t start = task % tasks * kPointsOfTask;
      const int64_t image = first + task / tasks / items_of_image;
      const int64_t i =
          job.image.batch.items(image)[static_cast<size_t>(task / tasks % items_of_image)];
      BoxSampler<U>(job, i, arrays.of(image), arrays.geometry(image),
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
