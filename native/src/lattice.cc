#include "lattice.h"

#include <cstring>

namespace stn {
namespace {

// The normalised coordinate of point i of `count` along an axis.
double Normalized(int64_t i, int64_t count, bool align_corners) {
  const int64_t length = align_corners ? (count > 1 ? count - 1 : 1) : count;
  return static_cast<double>(2 * i + 1 - count) / static_cast<double>(length);
}

// The same point in pixels of an axis of `size`; whole if count = size.
double PixelOf(int64_t i, int64_t count, int64_t size, bool align_corners) {
  const auto n = static_cast<double>(size);
  if (!align_corners) {
    return (static_cast<double>(2 * i + 1) * n - static_cast<double>(count)) /
           static_cast<double>(2 * count);
  }
  if (count == 1) return (n - 1) / 2;
  return static_cast<double>(i) * (n - 1) / static_cast<double>(count - 1);
}

void Write(double number, bool as_double, char* to) {
  if (as_double) {
    std::memcpy(to, &number, sizeof(number));
  } else {
    const auto rounded = static_cast<float>(number);
    std::memcpy(to, &rounded, sizeof(rounded));
  }
}

}  // namespace

LatticeTables::LatticeTables(const Geometry& geometry, const Dims& out, bool doubles) {
  const int64_t bytes = doubles ? 8 : 4;
  int64_t numbers = 0;
  for (int64_t count : out) numbers += 2 * (count + kOverrun);
  numbers_.resize(static_cast<size_t>(numbers * bytes));
  char* next = numbers_.data();
  for (int axis = 0; axis < geometry.ndim; ++axis) {
    const int64_t count = out[static_cast<size_t>(axis)], size = geometry.size[axis];
    const bool aligned = geometry.align_corners;
    lattice_.size[axis] = count;
    lattice_.scale[axis] = static_cast<double>(aligned ? size - 1 : size) / 2;
    // The rounding errors of the lattice point, of its target and of their difference together.
    lattice_.rounding_length[axis] = 2.5 * static_cast<double>(size);
    lattice_.normalized[axis] = next;
    for (int64_t i = 0; i < count; ++i) {
      Write(Normalized(i, count, aligned), doubles, next + i * bytes);
    }
    next += (count + kOverrun) * bytes;
    lattice_.pixel[axis] = next;
    for (int64_t i = 0; i < count; ++i) {
      Write(PixelOf(i, count, size, aligned), doubles, next + i * bytes);
    }
    next += (count + kOverrun) * bytes;
  }
}

}  // namespace stn
