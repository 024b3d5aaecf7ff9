// Addresses of pixels, including those that are not in the image.

#ifndef STN_JAX_NATIVE_KERNELS_PIXELS_H_
#define STN_JAX_NATIVE_KERNELS_PIXELS_H_

#include "block.h"

namespace stn::STN_VARIANT {

// Up to this many channels are read by one vector of four, which reads past the pixel's end.
constexpr int kFewChannels = 4;

// Says where pixels are.
template <class T>
class Pixels {
 public:
  // `others` is behind the end of the pixels that are not in the image.
  Pixels(const T* image, const T* others) : image_(image), others_(others) {}

  const T* image() const { return image_; }
  const T* others() const { return others_; }

  // The channels of a pixel. Four may be read, except at the image's last pixel.
  STN_INLINE const T* operator()(int32_t pixel, int64_t channels) const {
    return (pixel < 0 ? others_ : image_) + pixel * channels;
  }

 private:
  const T* image_;
  const T* others_;
};

// Holds the pixels of one batch item that are not in the image.
template <class T>
class PixelsOfItem {
 public:
  PixelsOfItem(const Geometry& geometry, const Item& item)
      : channels_(geometry.channels),
        memory_((3 * channels_ + kFewChannels) * static_cast<int64_t>(sizeof(T))),
        others_(memory_.template take<T>(3 * channels_) + 3 * channels_),
        image_(static_cast<const T*>(item.image)) {
    // The zeros are there already.
    CopyTo(kFill, static_cast<const T*>(item.fill));
    CopyTo(kLast, image_ + (geometry.pixels - 1) * channels_);
  }

  Pixels<T> pixels() const { return {image_, others_}; }

 private:
  void CopyTo(int32_t pixel, const T* from) {
    if (channels_ > 0) {
      std::memcpy(others_ + pixel * channels_, from, static_cast<size_t>(channels_) * sizeof(T));
    }
  }

  int64_t channels_;
  Memory memory_;
  T* others_;
  const T* image_;
};

// Whether vectors of four may read past the end of the image.
inline bool ReadsPastLast(const Geometry& geometry) {
  return geometry.channels == 2 || geometry.channels == 3;
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_PIXELS_H_
