// Addresses of pixels, including those that are not in the image.

#ifndef STN_JAX_NATIVE_KERNELS_PIXELS_H_
#define STN_JAX_NATIVE_KERNELS_PIXELS_H_

#include "block.h"

namespace stn::STN_VARIANT {

// Up to this many channels are read by one vector of four, which reads past the pixel's end.
constexpr int kFewChannels = 4;

template <class T>
class Pixels {
 public:
  Pixels(const Geometry& geometry, const Item& item)
      : channels_(geometry.channels),
        image_(static_cast<const T*>(item.image)),
        memory_((3 * channels_ + kFewChannels) * static_cast<int64_t>(sizeof(T))),
        others_(memory_.template take<T>(3 * channels_) + 3 * channels_) {
    // The zeros are there already.
    CopyTo(kFill, static_cast<const T*>(item.fill));
    CopyTo(kLast, image_ + (geometry.pixels - 1) * channels_);
  }

  const T* image() const { return image_; }
  // Behind the end of the pixels that are not in the image.
  const T* others() const { return others_; }

  // The channels of a pixel. Four may be read, except at the image's last pixel.
  STN_INLINE const T* at(int32_t pixel, int64_t channels) const {
    return (pixel < 0 ? others_ : image_) + pixel * channels;
  }

 private:
  void CopyTo(int32_t pixel, const T* from) {
    if (channels_ > 0) {
      std::memcpy(others_ + pixel * channels_, from, static_cast<size_t>(channels_) * sizeof(T));
    }
  }

  int64_t channels_;
  const T* image_;
  Memory memory_;
  T* others_;
};

// Sends reads of the last pixel to its copy.
template <class U>
void RedirectLast(const Geometry& geometry, Block<U>& block) {
  const auto last = static_cast<int32_t>(geometry.pixels - 1);
  for (int64_t tap = 0; tap < block.taps; ++tap) {
    int32_t* __restrict pixel = block.pixel + tap * kBlock;
    for (int i = 0; i < block.filled; ++i) pixel[i] = pixel[i] == last ? kLast : pixel[i];
  }
}

// Sends reads of weight 0 to zeros, so that a NaN or an infinity there is not seen.
template <class U>
void LeaveOutWeightless(Block<U>& block) {
  for (int64_t tap = 0; tap < block.taps; ++tap) {
    int32_t* __restrict pixel = block.pixel + tap * kBlock;
    const U* __restrict weight = block.weight + tap * kBlock;
    for (int i = 0; i < block.filled; ++i) pixel[i] = weight[i] == 0 ? kZero : pixel[i];
  }
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_PIXELS_H_
