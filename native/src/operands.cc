#include "operands.h"

#include "box_layout.h"
#include "variant.h"

namespace stn {
namespace {

using xla::ffi::DataType;

std::string Text(const Dims& dims) {
  std::string text = "[";
  for (int64_t size : dims) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

std::string Numbered(const std::string& name, int64_t j) { return name + " " + std::to_string(j); }

DType FloatDType(const Array& image) {
  switch (image.dtype) {
    case DataType::F32:
      return DType::kF32;
    case DataType::F64:
      return DType::kF64;
    case DataType::BF16:
      return DType::kBF16;
    case DataType::F16:
      return DType::kF16;
    default:
      throw InvalidArgument("The image must be float32, float64, bfloat16 or float16.");
  }
}

int Log2OfElement(const Array& image) {
  switch (xla::ffi::ByteWidth(image.dtype)) {
    case 1:
      return 0;
    case 2:
      return 1;
    case 4:
      return 2;
    case 8:
      return 3;
    default:
      throw InvalidArgument("The image's elements must have 1, 2, 4 or 8 bytes.");
  }
}

void RequireDType(const Array& array, DataType dtype) {
  Require(array.dtype == dtype, "The dtype of the " + array.name + " does not fit the image's.");
}

// Builds a job operand by operand. All arrays begin with the batch axes.
class Builder {
 public:
  Builder(const Request& request, Arrays arrays) : request_(request), arrays_(std::move(arrays)) {}

  Job Build() {
    CheckAttributes();
    batch_rank_ = static_cast<size_t>(request_.num_batch_dims);
    ndim_ = static_cast<size_t>(request_.ndim);
    TakeBatchAndImage();
    TakeFill();
    if (request_.from_boxes) {
      job_.from_boxes = true;
      job_.boxes = BoxLayoutOf(request_, job_.geometry);
    }
    if (request_.from_matrix) {
      TakeMatrix();
    } else {
      request_.from_coordinates ? TakeCoordinates() : TakeTaps();
    }
    if (request_.from_boxes) TakeLevelsAndEdges();
    job_.geometry.points = Product(out_);
    request_.backward ? TakeBackward() : TakeForward();
    arrays_.RequireEnd();
    RequireUsable();
    if (request_.steps != 0) RequirePath();
    if (request_.from_boxes) RequireBoxes();
    if (request_.from_matrix) {
      job_.tables = LatticeTables(job_.geometry, out_, source_dtype_ == DataType::F64);
    }
    return std::move(job_);
  }

 private:
  void CheckAttributes() {
    Require(request_.num_batch_dims >= 0, "num_batch_dims must not be negative.");
    Require(request_.ndim >= 1 && request_.ndim <= kMaxNdim, "ndim must be 1, 2 or 3.");
    Geometry& geometry = job_.geometry;
    geometry = {};
    geometry.ndim = static_cast<int>(request_.ndim);
    geometry.from_coordinates = request_.from_coordinates;
    Require(request_.wrt_sources >> request_.ndim == 0, "wrt_weights has bits beyond ndim.");
    if (!request_.from_coordinates) return;
    TakeKernel();
    Require(!request_.bytes || geometry.kernel == Kernel::kNearest,
            "Bytes are sampled by the nearest kernel, with one tap.");
    Require(request_.padding >= 0 && request_.padding <= 3,
            "padding must be 0 (constant), 1 (border), 2 (reflection) or 3 (wrap).");
    Require(request_.align_corners == 0 || request_.align_corners == 1,
            "align_corners must be 0 or 1.");
    geometry.padding = static_cast<Padding>(request_.padding);
    geometry.align_corners = request_.align_corners == 1;
    geometry.steps = request_.steps;
  }

  void TakeKernel() {
    Geometry& geometry = job_.geometry;
    const int64_t taps = request_.kernel_taps;
    const auto numbers = static_cast<int64_t>(request_.coefficients.size());
    Require(taps >= 1 && taps <= kMaxTaps,
            "taps must be 1 to " + std::to_string(kMaxTaps) + "; it is " + std::to_string(taps) +
                ".");
    Require(numbers % taps == 0 && numbers >= taps && numbers <= taps * kMaxTaps,
            "coefficients must have 1 to " + std::to_string(kMaxTaps) + " numbers for each of the " +
                std::to_string(taps) + " taps; there are " + std::to_string(numbers) + ".");
    geometry.kernel_taps = static_cast<int>(taps);
    geometry.powers = static_cast<int>(numbers / taps);
    for (int64_t k = 0; k < numbers; ++k) {
      geometry.coefficients[k / geometry.powers][k % geometry.powers] =
          request_.coefficients.begin()[k];
    }
    const double(*c)[kMaxTaps] = geometry.coefficients;
    geometry.kernel = Kernel::kPolynomial;
    if (taps == 1 && numbers == 1 && c[0][0] == 1) geometry.kernel = Kernel::kNearest;
    if (taps == 2 && numbers == 4 && c[0][0] == 1 && c[0][1] == -1 && c[1][0] == 0 &&
        c[1][1] == 1) {
      geometry.kernel = Kernel::kLinear;
    }
  }

  // The batch's sizes are those of the result or the cotangent.
  void TakeBatchAndImage() {
    const Array full = request_.backward ? arrays_.LastOperand("cotangent")
                                         : arrays_.FirstResult("result");
    Require(full.dims.size() >= batch_rank_ + 1,
            "The " + full.name + " must have batch axes and channels; its shape is " +
                Text(full.dims) + ".");
    full_batch_ = full.slice(0, batch_rank_);
    job_.items = Product(full_batch_);

    const Array image = arrays_.NextOperand("image");
    Require(image.dims.size() == batch_rank_ + ndim_ + 1,
            "The image must have batch axes, ndim axes of pixels and channels; its shape is " +
                Text(image.dims) + ".");
    dtype_ = image.dtype;
    element_bytes_ = static_cast<int64_t>(xla::ffi::ByteWidth(dtype_));
    Geometry& geometry = job_.geometry;
    geometry.channels = image.dims.back();
    geometry.pixels = 1;
    for (size_t axis = 0; axis < ndim_; ++axis) {
      geometry.size[axis] = image.dims[batch_rank_ + axis];
      geometry.pixels *= geometry.size[axis];
    }
    image_dims_ = image.slice(batch_rank_, image.dims.size());
    job_.image = OperandOf(image, image_dims_, element_bytes_);
    if (!request_.bytes) {
      const DType dtype = FloatDType(image);
      job_.kernels = &ChosenVariant().kernels[static_cast<int>(dtype)];
      source_dtype_ = dtype == DType::kF64 ? DataType::F64 : DataType::F32;
      job_.accumulates_in_place =
          dtype_ == source_dtype_ && geometry.padded_channels() == geometry.channels;
    }
  }

  void TakeFill() {
    const Array fill = arrays_.NextOperand("fill");
    RequireDType(fill, dtype_);
    job_.fill = OperandOf(fill, {job_.geometry.channels}, element_bytes_);
  }

  // Operands are in the order x, y, z, the reverse of array order.
  size_t AxisOf(size_t j) const { return ndim_ - 1 - j; }

  void TakeCoordinates() {
    for (size_t j = 0; j < ndim_; ++j) {
      const Array array = arrays_.NextOperand(Numbered("coordinate", static_cast<int64_t>(j)));
      if (j == 0) TakeSourceDType(array);
      RequireDType(array, source_dtype_);
      if (j == 0) out_ = OutOf(array, batch_rank_);
      const size_t axis = AxisOf(j);
      source_dims_[axis] = out_;
      job_.source[axis] = OperandOf(array, source_dims_[axis], job_.source_size);
      job_.geometry.taps[axis] = job_.geometry.kernel_taps;
    }
  }

  void TakeLevelsAndEdges() {
    const Array levels = arrays_.NextOperand("levels");
    Require(levels.dtype == DataType::S32, "The levels must be int32.");
    Dims dims = EdgeDims();
    job_.boxes.level = OperandOf(levels, Dims(dims.begin() + 1, dims.end()), 4);
    const Array edges = arrays_.NextOperand("edges");
    RequireDType(edges, source_dtype_);
    job_.boxes.edge = OperandOf(edges, dims, job_.source_size);
  }

  Dims EdgeDims() const {
    Dims dims = {request_.ndim, request_.ndim};
    if (request_.each_point != 0) dims.insert(dims.end(), out_.begin(), out_.end());
    return dims;
  }

  void TakeMatrix() {
    job_.from_matrix = true;
    out_ = Dims(request_.out.begin(), request_.out.end());
    Require(out_.size() == ndim_, "out must have a size for each of the " + std::to_string(ndim_) +
                                      " axes; it is " + Text(out_) + ".");
    for (int64_t size : out_) Require(size >= 0, "out must not have negative sizes.");
    const Array array = arrays_.NextOperand("matrix");
    TakeSourceDType(array);
    RequireDType(array, source_dtype_);
    job_.matrix = OperandOf(array, MatrixDims(), job_.source_size);
    job_.coordinate_kernels =
        &ChosenVariant().kernels[static_cast<int>(source_dtype_ == DataType::F64 ? DType::kF64
                                                                                  : DType::kF32)];
    for (size_t axis = 0; axis < ndim_; ++axis) {
      job_.geometry.taps[axis] = job_.geometry.kernel_taps;
    }
  }

  Dims MatrixDims() const { return {request_.ndim, request_.ndim + 1}; }

  // For bytes, coordinates may be float32 or float64; otherwise the image's dtype decides.
  void TakeSourceDType(const Array& array) {
    if (request_.bytes) {
      Require(array.dtype == DataType::F32 || array.dtype == DataType::F64,
              "Coordinates must be float32 or float64.");
      source_dtype_ = array.dtype;
      job_.bytes_kernel =
          ChosenVariant().bytes[Log2OfElement(Array{"image", nullptr, dtype_, {}})]
                               [source_dtype_ == DataType::F64];
    }
    job_.source_size = source_dtype_ == DataType::F64 ? 8 : 4;
  }

  void TakeTaps() {
    job_.source_size = source_dtype_ == DataType::F64 ? 8 : 4;
    for (size_t j = 0; j < ndim_; ++j) {
      const Array array = arrays_.NextOperand(Numbered("index", static_cast<int64_t>(j)));
      Require(array.dtype == DataType::S32, "The indices must be int32.");
      if (j == 0) out_ = OutOf(array, batch_rank_ + 1);
      Require(array.dims.size() > batch_rank_,
              "The " + array.name + " has no axis of taps; its shape is " + Text(array.dims) + ".");
      const size_t axis = AxisOf(j);
      job_.geometry.taps[axis] = array.dims[batch_rank_];
      source_dims_[axis] = out_;
      source_dims_[axis].insert(source_dims_[axis].begin(), array.dims[batch_rank_]);
      job_.index[axis] = OperandOf(array, source_dims_[axis], 4);
    }
    for (size_t j = 0; j < ndim_; ++j) {
      const Array array = arrays_.NextOperand(Numbered("weight", static_cast<int64_t>(j)));
      RequireDType(array, source_dtype_);
      const size_t axis = AxisOf(j);
      job_.source[axis] = OperandOf(array, source_dims_[axis], job_.source_size);
    }
  }

  Dims OutOf(const Array& array, size_t before) const {
    Require(array.dims.size() >= before,
            "The " + array.name + " has too few axes; its shape is " + Text(array.dims) + ".");
    return array.slice(before, array.dims.size());
  }

  Dims ValueDims() const {
    Dims dims = out_;
    dims.push_back(job_.geometry.channels);
    return dims;
  }

  void TakeForward() {
    const Array out = arrays_.NextResult("result");
    RequireDType(out, dtype_);
    job_.out = ResultOf(out, ValueDims(), element_bytes_);
  }

  void TakeBackward() {
    const Array cotangent = arrays_.NextOperand("cotangent");
    RequireDType(cotangent, dtype_);
    job_.cotangent = OperandOf(cotangent, ValueDims(), element_bytes_);
    if (request_.wrt_image) {
      const Array d_image = arrays_.NextResult("gradient to the image");
      RequireDType(d_image, dtype_);
      job_.d_image = ResultOf(d_image, image_dims_, element_bytes_);
    }
    if (request_.from_matrix) {
      if (request_.wrt_sources == 0) return;
      const Array array = arrays_.NextResult("gradient to the matrix");
      RequireDType(array, source_dtype_);
      job_.d_matrix = ResultOf(array, MatrixDims(), job_.source_size);
      return;
    }
    for (size_t j = 0; j < ndim_; ++j) {
      if ((request_.wrt_sources >> j & 1) == 0) continue;
      const Array array = arrays_.NextResult(Numbered("gradient", static_cast<int64_t>(j)));
      RequireDType(array, source_dtype_);
      const size_t axis = AxisOf(j);
      job_.d_source[axis] = ResultOf(array, source_dims_[axis], job_.source_size);
    }
    if (!request_.from_boxes) return;
    const Array array = arrays_.NextResult("gradient to the edges");
    RequireDType(array, source_dtype_);
    job_.boxes.d_edge = ResultOf(array, EdgeDims(), job_.source_size);
  }

  Batch BatchOf(const Array& array, const Dims& rest) const {
    Require(array.dims.size() == batch_rank_ + rest.size() &&
                array.slice(batch_rank_, array.dims.size()) == rest,
            "The " + array.name + " must have the shape " + Text(rest) + " after " +
                std::to_string(batch_rank_) + " batch axes; it has " + Text(array.dims) + ".");
    const Dims own = array.slice(0, batch_rank_);
    for (size_t a = 0; a < batch_rank_; ++a) {
      Require(own[a] == full_batch_[a] || own[a] == 1,
              "The batch axes of the " + array.name + " must be those of " + Text(full_batch_) +
                  " or 1; its shape is " + Text(array.dims) + ".");
    }
    return Batch(own, full_batch_);
  }

  Operand OperandOf(const Array& array, const Dims& rest, int64_t bytes) const {
    return {array.data, Product(rest) * bytes, BatchOf(array, rest)};
  }

  // An empty result still counts as wanted, so its pointer must not be null.
  Result ResultOf(const Array& array, const Dims& rest, int64_t bytes) const {
    static char nothing;
    return {array.data == nullptr ? &nothing : array.data, Product(rest) * bytes,
            BatchOf(array, rest)};
  }

  // Checks the limits that the kernels assume.
  void RequireUsable() {
    const Geometry& geometry = job_.geometry;
    if (job_.items * geometry.points == 0) return;
    for (size_t axis = 0; axis < ndim_; ++axis) {
      Require(geometry.size[axis] > 0, "An image without pixels cannot be sampled.");
      // The period of a reflection is twice the size; it must fit int32 after rounding to float32.
      Require(geometry.size[axis] <= int64_t{1} << 29,
              "An axis of the image has more than 2^29 pixels.");
      Require(geometry.taps[axis] > 0, "There must be at least one tap along each axis.");
    }
    Require(geometry.pixels <= INT32_MAX, "An image has more than 2^31 - 1 pixels.");
  }

  // Checks that the image is a field of velocities that points can follow.
  void RequirePath() const {
    const Geometry& geometry = job_.geometry;
    Require(request_.steps > 0 && request_.steps <= kMostSteps,
            "steps must be 1 to " + std::to_string(kMostSteps) + ".");
    Require(geometry.ndim > 1 && geometry.channels == geometry.ndim,
            "Paths need a field of 2 or 3 axes with a channel for each.");
    Require(geometry.kernel_taps == 4 && geometry.powers <= 4 &&
                geometry.padding == Padding::kBorder,
            "Paths need a cubic kernel and the padding 1 (border).");
    Require(dtype_ == source_dtype_, "Paths need a float32 or float64 field.");
    double with_margin = 1;
    for (size_t axis = 0; axis < ndim_; ++axis) {
      with_margin *= static_cast<double>(geometry.size[axis] + kMarginOfField);
    }
    Require(with_margin <= static_cast<double>(kMostPixelsOfField),
            "The field has more than " + std::to_string(kMostPixelsOfField) +
                " pixels, with a margin of " + std::to_string(kMarginOfField) + " along each axis.");
    bool shared = job_.d_image.batch.is_shared();
    for (const Result& result : job_.d_source) shared |= result.batch.is_shared();
    Require(!shared, "The gradients of paths must have full batch axes.");
  }

  void RequireBoxes() const {
    Require(dtype_ == source_dtype_, "Box means are float32 or float64.");
    Require(job_.geometry.kernel == Kernel::kLinear, "Box means need the linear kernel.");
    Require(!job_.d_image && (job_.out || job_.boxes.d_edge),
            "Box means have gradients to coordinates and edges alone.");
    for (int64_t part = 0; part < job_.image.batch.parts(); ++part) {
      const std::vector<int64_t> items = job_.image.batch.items(part);
      for (int64_t item : items) {
        Require(job_.fill.batch.part(item) == job_.fill.batch.part(items.front()),
                "An image of box means must have one fill value.");
      }
    }
    for (const Result& result : {job_.d_source[0], job_.d_source[1], job_.d_source[2],
                                 job_.boxes.d_edge}) {
      Require(!result.batch.is_shared(), "The gradients of box means must have full batch axes.");
    }
  }

  const Request& request_;
  Arrays arrays_;
  Job job_ = {};
  size_t batch_rank_ = 0, ndim_ = 0;
  Dims full_batch_, image_dims_, out_, source_dims_[kMaxNdim];
  DataType dtype_ = DataType::INVALID, source_dtype_ = DataType::INVALID;
  int64_t element_bytes_ = 0;
};

Array ArrayOf(xla::ffi::AnyBuffer buffer) {
  auto dims = buffer.dimensions();
  return {"", static_cast<char*>(buffer.untyped_data()), buffer.element_type(),
          Dims(dims.begin(), dims.end())};
}

Array Named(Array array, const std::string& name) {
  array.name = name;
  return array;
}

}  // namespace

Arrays::Arrays(xla::ffi::RemainingArgs args, xla::ffi::RemainingRets rets) {
  for (size_t i = 0; i < args.size(); ++i) {
    operands_.push_back(ArrayOf(args.get<xla::ffi::AnyBuffer>(i).value()));
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    results_.push_back(ArrayOf(*rets.get<xla::ffi::AnyBuffer>(i).value()));
  }
}

Array Arrays::NextOperand(const std::string& name) {
  Require(next_operand_ < operands_.size(), "There is no operand for the " + name + ".");
  return Named(operands_[next_operand_++], name);
}

Array Arrays::NextResult(const std::string& name) {
  Require(next_result_ < results_.size(), "There is no result for the " + name + ".");
  return Named(results_[next_result_++], name);
}

Array Arrays::LastOperand(const std::string& name) const {
  Require(!operands_.empty(), "There is no operand for the " + name + ".");
  return Named(operands_.back(), name);
}

Array Arrays::FirstResult(const std::string& name) const {
  Require(!results_.empty(), "There is no " + name + ".");
  return Named(results_.front(), name);
}

void Arrays::RequireEnd() const {
  Require(next_operand_ == operands_.size(), "There are more operands than expected.");
  Require(next_result_ == results_.size(), "There are more results than expected.");
}

Job MakeJob(const Request& request, Arrays arrays) {
  return Builder(request, std::move(arrays)).Build();
}

}  // namespace stn
