#include "handlers.h"

#include <exception>

#include "boxes.h"
#include "operands.h"
#include "paths.h"

namespace stn {
namespace {

namespace ffi = xla::ffi;

using Coefficients = ffi::Span<const double>;
using Sizes = ffi::Span<const int64_t>;

ffi::Error Run(ffi::ThreadPool pool, const Request& request, ffi::RemainingArgs args,
               ffi::RemainingRets rets) {
  try {
    const Job job = MakeJob(request, Arrays(args, rets));
    if (request.from_boxes) {
      RunBoxes(job, pool);
    } else if (request.steps != 0) {
      request.backward ? RunFollowPull(job, pool) : RunFollow(job, pool);
    } else {
      request.backward ? RunPull(job, pool) : RunForward(job, pool);
    }
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    const bool is_ours = dynamic_cast<const std::bad_alloc*>(&error) == nullptr;
    return is_ours ? ffi::Error::InvalidArgument(error.what())
                   : ffi::Error(ffi::ErrorCode::kResourceExhausted, "Out of memory.");
  }
}

Request FromCoordinates(int64_t num_batch_dims, int64_t ndim, int64_t taps,
                        Coefficients coefficients, int64_t padding, int64_t align_corners) {
  Request request = {};
  request.from_coordinates = true;
  request.num_batch_dims = num_batch_dims;
  request.ndim = ndim;
  request.kernel_taps = taps;
  request.coefficients = coefficients;
  request.padding = padding;
  request.align_corners = align_corners;
  return request;
}

// Asks for gradients; those to all coordinates, or to the matrix, come together.
void AskForGradients(int64_t wrt_image, int64_t wrt_coordinates, Request& request) {
  request.backward = true;
  request.wrt_image = wrt_image != 0;
  if (wrt_coordinates != 0 && request.ndim > 0 && request.ndim <= kMaxNdim) {
    request.wrt_sources = (int64_t{1} << request.ndim) - 1;
  }
}

template <bool bytes>
ffi::Error Sample(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                  int64_t num_batch_dims, int64_t ndim, int64_t taps, Coefficients coefficients,
                  int64_t padding, int64_t align_corners) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  request.bytes = bytes;
  return Run(pool, request, args, rets);
}

ffi::Error SamplePull(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                      int64_t num_batch_dims, int64_t ndim, int64_t taps,
                      Coefficients coefficients, int64_t padding, int64_t align_corners,
                      int64_t wrt_image, int64_t wrt_coordinates) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  AskForGradients(wrt_image, wrt_coordinates, request);
  return Run(pool, request, args, rets);
}

template <bool bytes>
ffi::Error Affine(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                  int64_t num_batch_dims, int64_t ndim, int64_t taps, Coefficients coefficients,
                  int64_t padding, int64_t align_corners, Sizes out) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  request.bytes = bytes;
  request.from_matrix = true;
  request.out = out;
  return Run(pool, request, args, rets);
}

ffi::Error AffinePull(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                      int64_t num_batch_dims, int64_t ndim, int64_t taps,
                      Coefficients coefficients, int64_t padding, int64_t align_corners,
                      Sizes out, int64_t wrt_image, int64_t wrt_matrix) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  request.from_matrix = true;
  request.out = out;
  AskForGradients(wrt_image, wrt_matrix, request);
  return Run(pool, request, args, rets);
}

ffi::Error Follow(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                  int64_t num_batch_dims, int64_t ndim, int64_t taps, Coefficients coefficients,
                  int64_t padding, int64_t align_corners, int64_t steps) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  request.steps = steps;
  return Run(pool, request, args, rets);
}

ffi::Error FollowPull(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                      int64_t num_batch_dims, int64_t ndim, int64_t taps,
                      Coefficients coefficients, int64_t padding, int64_t align_corners,
                      int64_t steps, int64_t wrt_image, int64_t wrt_coordinates) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  request.steps = steps;
  AskForGradients(wrt_image, wrt_coordinates, request);
  return Run(pool, request, args, rets);
}

void TakeBoxes(int64_t reach, int64_t each_point, Sizes runs, Sizes run_counts, Sizes starts,
               Sizes level_counts, Request& request) {
  request.from_boxes = true;
  request.reach = reach;
  request.each_point = each_point;
  request.runs = runs;
  request.run_counts = run_counts;
  request.starts = starts;
  request.level_counts = level_counts;
}

ffi::Error BoxMeans(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                    int64_t num_batch_dims, int64_t ndim, int64_t taps, Coefficients coefficients,
                    int64_t padding, int64_t align_corners, int64_t reach, int64_t each_point,
                    Sizes runs, Sizes run_counts, Sizes starts, Sizes level_counts) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  TakeBoxes(reach, each_point, runs, run_counts, starts, level_counts, request);
  return Run(pool, request, args, rets);
}

ffi::Error BoxMeansPull(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                        int64_t num_batch_dims, int64_t ndim, int64_t taps,
                        Coefficients coefficients, int64_t padding, int64_t align_corners,
                        int64_t reach, int64_t each_point, Sizes runs, Sizes run_counts,
                        Sizes starts, Sizes level_counts, int64_t wrt_image,
                        int64_t wrt_coordinates) {
  Request request =
      FromCoordinates(num_batch_dims, ndim, taps, coefficients, padding, align_corners);
  TakeBoxes(reach, each_point, runs, run_counts, starts, level_counts, request);
  AskForGradients(wrt_image, wrt_coordinates, request);
  return Run(pool, request, args, rets);
}

ffi::Error Taps(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                int64_t num_batch_dims, int64_t ndim) {
  Request request = {};
  request.num_batch_dims = num_batch_dims;
  request.ndim = ndim;
  return Run(pool, request, args, rets);
}

ffi::Error TapsPull(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                    int64_t num_batch_dims, int64_t ndim, int64_t wrt_image,
                    int64_t wrt_weights) {
  Request request = {};
  request.backward = true;
  request.num_batch_dims = num_batch_dims;
  request.ndim = ndim;
  request.wrt_image = wrt_image != 0;
  request.wrt_sources = wrt_weights;
  return Run(pool, request, args, rets);
}

// The binding that all handlers share; each adds its attributes.
auto Bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("num_batch_dims")
      .Attr<int64_t>("ndim");
}

auto BindSample() {
  return Bind()
      .Attr<int64_t>("taps")
      .Attr<Coefficients>("coefficients")
      .Attr<int64_t>("padding")
      .Attr<int64_t>("align_corners");
}

auto BindAffine() { return BindSample().Attr<Sizes>("out"); }

auto BindBoxMeans() {
  return BindSample()
      .Attr<int64_t>("reach")
      .Attr<int64_t>("each_point")
      .Attr<Sizes>("runs")
      .Attr<Sizes>("run_counts")
      .Attr<Sizes>("starts")
      .Attr<Sizes>("level_counts");
}

auto BindFollow() { return BindSample().Attr<int64_t>("steps"); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SampleHandler, Sample<false>, BindSample());
XLA_FFI_DEFINE_HANDLER_SYMBOL(SampleBytesHandler, Sample<true>, BindSample());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SamplePullHandler, SamplePull,
    BindSample().Attr<int64_t>("wrt_image").Attr<int64_t>("wrt_coordinates"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(AffineHandler, Affine<false>, BindAffine());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AffineBytesHandler, Affine<true>, BindAffine());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AffinePullHandler, AffinePull,
    BindAffine().Attr<int64_t>("wrt_image").Attr<int64_t>("wrt_matrix"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(BoxMeansHandler, BoxMeans, BindBoxMeans());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    BoxMeansPullHandler, BoxMeansPull,
    BindBoxMeans().Attr<int64_t>("wrt_image").Attr<int64_t>("wrt_coordinates"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(FollowHandler, Follow, BindFollow());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    FollowPullHandler, FollowPull,
    BindFollow().Attr<int64_t>("wrt_image").Attr<int64_t>("wrt_coordinates"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(TapsHandler, Taps, Bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(TapsPullHandler, TapsPull,
                              Bind().Attr<int64_t>("wrt_image").Attr<int64_t>("wrt_weights"));

}  // namespace stn
