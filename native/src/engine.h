// The interface between handlers and kernels: plain structures and a table of functions.
//
// The kernels are compiled once for each instruction set. Both sides share only this header.

#ifndef STN_JAX_NATIVE_ENGINE_H_
#define STN_JAX_NATIVE_ENGINE_H_

#include <cstdint>

namespace stn {

constexpr int kMaxNdim = 3;

// A kernel has at most this many taps along an axis, and as many coefficients for each.
constexpr int kMaxTaps = 8;

// Points per block, counted from the first point of a batch item. Work is divided among tasks only
// between blocks, so the division does not change the numbers.
constexpr int kBlock = 64;

enum class DType { kF32, kF64, kBF16, kF16 };
constexpr int kNumDTypes = 4;

enum class Kernel { kNearest, kLinear, kPolynomial };
enum class Padding { kConstant = 0, kBorder = 1, kReflection = 2, kWrap = 3 };

// Half-open: `first` belongs to it, `last` does not.
struct Range {
  int64_t first;
  int64_t last;
};

// The properties that all batch items share.
struct Geometry {
  int ndim;
  int64_t size[kMaxNdim];  // Pixels along each axis, in array order.
  int64_t pixels;          // In one image.
  int64_t channels;
  int64_t points;  // In one batch item.
  // Whether pixels and weights are computed from coordinates; otherwise they are given.
  bool from_coordinates;
  Kernel kernel;
  // Of a polynomial kernel: its taps along an axis, and the polynomial of each in the fraction by
  // which a coordinate lies into its cell, the constant first.
  int kernel_taps;
  int powers;
  double coefficients[kMaxTaps][kMaxTaps];
  Padding padding;
  bool align_corners;
  // Runge-Kutta steps of a path along the field that the image holds; 0 for a sum at points.
  int64_t steps;
  int64_t taps[kMaxNdim];  // Pixels read along each axis, in array order.

  // Channels in the accumulators of an image's gradient. Three are stored as four, which one
  // instruction adds.
  int64_t padded_channels() const { return channels == 3 ? 4 : channels; }
};

// The arrays of one batch item. Arrays for each axis are in array order (z, y, x).
struct Item {
  const void* image;                // [*space, channels]
  const void* fill;                 // [channels]
  const void* source[kMaxNdim];     // Coordinates [points], or weights [taps, points].
  const int32_t* index[kMaxNdim];   // [taps, points]; used if given.
  void* out;                        // [points, channels]; forward only.
  const void* cotangent;            // [points, channels]; backward only.
  void* d_source[kMaxNdim];         // As `source`; null if not wanted.
  void* d_image;  // Accumulators [pixels of the band, padded channels]; null if not wanted.
  // The rows of the image that were loaded into the cache for earlier points, if given; updated.
  Range* rows_ahead;
};

// The regular lattice of target points, whose source points an affine map gives. Arrays along axes
// are in array order. Tables of coordinates have the coordinates' type; kernels may read kOverrun
// numbers past their ends.
struct Lattice {
  int64_t size[kMaxNdim];            // Points along each axis.
  const void* normalized[kMaxNdim];  // The normalised coordinates along each axis.
  const void* pixel[kMaxNdim];       // The same points in pixels of the image.
  double scale[kMaxNdim];            // Pixels of the image in a unit of length.
  // A coordinate has the rounding error of points this many pixels apart.
  double rounding_length[kMaxNdim];
};

// Numbers that may be read or written past the end of an array of coordinates.
constexpr int64_t kOverrun = 8;

// The boxes around the points of one batch item, whose means an array holds. Along an axis the boxes
// of all levels lie one behind the other. Arrays along axes are in array order.
struct Boxes {
  bool each_point;  // Whether levels and edges differ between points; else there is one for all.
  int32_t reach;    // Entries by which a point may lie outside its level.
  int32_t levels[kMaxNdim];         // Along each axis.
  const int32_t* start[kMaxNdim];   // The entry of each level's first box.
  const int32_t* level[kMaxNdim];   // [points], or one.
  // The edges of footprints, [points] or one: how far along each axis the boxes lie on one side.
  const void* edge[kMaxNdim][kMaxNdim];
};

// The gradients to the points of a range and to their boxes, from those to the coordinates of a box in
// the array.
struct BoxGradients {
  const void* slope[kMaxNdim];  // Of the range's points, from the first on.
  void* d_pixel[kMaxNdim];      // [points]; added to.
  // [points], or one number, a sum over the range's points; added to.
  void* d_edge[kMaxNdim][kMaxNdim];
};

// The rows (indices along the first axis) that the points of a block touch; empty if first >= last.
struct Rows {
  int32_t first;
  int32_t last;
};

// Kernels for one dtype of images. Sources, their gradients and accumulators are float64 for
// float64 images and float32 otherwise; all other arrays have the image's dtype.
struct Kernels {
  // Writes the points of a range.
  void (*forward)(const Geometry&, const Item&, Range points);
  // Writes the gradients to the sources for the points of a range, and adds the contributions of
  // these points to the image's gradient within a band of pixels.
  void (*pull)(const Geometry&, const Item&, Range points, Range band);
  // Rows touched by each block of a range.
  void (*touched_rows)(const Geometry&, const Item&, Range blocks, Rows* rows);
  // Rounds accumulators to the image's dtype.
  void (*finish)(const Geometry&, const void* accumulators, int64_t pixels, void* d_image);
  // Adds `count` accumulators to others.
  void (*add)(const void* terms, int64_t count, void* sums);
  // Writes the coordinates of lattice points, from the matrix [ndim, ndim + 1] of an affine map less
  // the identity. The matrix is in the order x, y, z, arrays along axes in array order.
  void (*coordinates)(const Geometry&, const Lattice&, const void* matrix, Range points,
                      void* const* coordinates);
  // Writes the matrix's gradient, from the gradients to the coordinates of these points.
  void (*matrix_gradient)(const Geometry&, const Lattice&, const void* const* slopes, Range points,
                          void* gradient);
  // Writes the coordinates of a box of each point of a range in the array of box means of an image with
  // this geometry. Adds the gradients to the points and edges. A point of level -1 has no boxes.
  void (*box_places)(const Geometry&, const Boxes&, int64_t box, const void* const* pixels,
                     Range points, void* const* places);
  void (*box_places_pull)(const Geometry&, const Boxes&, int64_t box, const void* const* pixels,
                          Range points, const BoxGradients&);
  // For float32 and float64 alone. `follow` writes the displacements of the points of a range along
  // their paths. `follow_pull` writes the gradients to their coordinates, and their contribution to the
  // gradient to the field; it does not add to the numbers there.
  void (*follow)(const Geometry&, const Item&, Range points);
  void (*follow_pull)(const Geometry&, const Item&, Range points);
};

// Nearest pixels as bytes; coordinates are float32 or float64.
using BytesKernel = void (*)(const Geometry&, const Item&, Range points);

// All kernels for one instruction set.
struct Variant {
  const char* name;
  Kernels kernels[kNumDTypes];
  BytesKernel bytes[4][2];  // By log2 of the element's size; by coordinates: float32, float64.
};

}  // namespace stn

#endif  // STN_JAX_NATIVE_ENGINE_H_
