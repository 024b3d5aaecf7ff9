// Addresses of pixels, including those that are not in the image.

#ifndef STN_JAX_NATIVE_KERNELS_PIXELS_H_
#define STN_JAX_NATIVE_KERNELS_PIXELS_H_

#include "block.h"

namespace stn::STN_VARIANT {

// Up to this many channels are read by one vector of four, which reads past the pixel's end.
constexpr int kFewChannels = 4;

// The addresses of pixels.
template <class T>
class Pixels {
 public:
  // `others` points past the end of the array of pixels that are not in the image.
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

// The pixels of one batch item that are not in the image: zeros and the fill value.
template <class T>
class PixelsOfItem {
 public:
  PixelsOfItem(const Geometry& geometry, const Item& item)
      : channels_(geometry.channels),
        memory_((3 * channels_ + kFewChannels) * static_cast<int64_t>(sizeof(T))),
        others_(memory_.template take<T>(3 * channels_) + 3 * channels_),
        image_(static_cast<const T*>(item.image)) {
    std::memset(others_ + kZero * channels_, 0, static_cast<size_t>(channels_) * sizeof(T));
    // A vector of four may read past the last of them.
    std::memset(others_, 0, kFewChannels * sizeof(T));
    CopyTo(kFill, static_cast<const T*>(item.fill));
    CopyTo(kLast, image_ + (geometry.pixels - 1) * channels_);
  }

  Pixels<T> pixels() const { return {image_, others_}; }
  const T* fill() const { return others_ + kFill * channels_; }

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

#if defined(__AVX2__)
// Two neighbouring numbers at each of two places.
STN_INLINE __m128 TwoPairs(const float* image, int32_t first, int32_t second) {
  const __m128 low = _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64*>(image + first));
  return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(image + second));
}

// The numbers at each of eight places, and their right neighbours.
STN_INLINE void EightPairs(const float* image, const int32_t* at, Vector<float, 8>& left,
                           Vector<float, 8>& right) {
  const __m256 even =
      _mm256_set_m128(TwoPairs(image, at[4], at[5]), TwoPairs(image, at[0], at[1]));
  const __m256 odd = _mm256_set_m128(TwoPairs(image, at[6], at[7]), TwoPairs(image, at[2], at[3]));
  left = (Vector<float, 8>)_mm256_shuffle_ps(even, odd, _MM_SHUFFLE(2, 0, 2, 0));
  right = (Vector<float, 8>)_mm256_shuffle_ps(even, odd, _MM_SHUFFLE(3, 1, 3, 1));
}
#endif

// Whether vectors of four may read past the end of the image.
inline bool ReadsPastLast(const Geometry& geometry) {
  return geometry.channels == 2 || geometry.channels == 3;
}

}  // namespace stn::STN_VARIANT

#endif  // STN_JAX_NATIVE_KERNELS_PIXELS_H_
