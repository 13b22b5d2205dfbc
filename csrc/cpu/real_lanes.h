// The vectors of a CPU as lane types for real_math.h: rows of one block, or of two side by side where a register holds
// 16 floats.
//
// Compiled once for each instruction set, like lanes.h, which this builds on.
#pragma once

#include "codec/real_math.h"
#include "cpu/lanes.h"

namespace fdjpeg {

template <class R>
struct VectorOf;

template <>
struct VectorOf<float> {
  static constexpr int kBytes = FDJPEG_VECTOR_BYTES == 64 ? 64 : 32;
  typedef float Real __attribute__((vector_size(kBytes)));
  typedef int32_t Bits __attribute__((vector_size(kBytes)));
  typedef uint8_t Mask __attribute__((vector_size(kBytes / 4)));
};

template <>
struct VectorOf<double> {
  static constexpr int kBytes = 64;
  typedef double Real __attribute__((vector_size(kBytes)));
  typedef int64_t Bits __attribute__((vector_size(kBytes)));
  typedef uint8_t Mask __attribute__((vector_size(kBytes / 8)));
};

template <class R>
using Reals = typename VectorOf<R>::Real;

template <class R>
constexpr int kRealLanes = VectorOf<R>::kBytes / static_cast<int>(sizeof(R));

template <class R>
constexpr int kRealBlocks = kRealLanes<R> / kBlock;  // side by side

// Half to even: beyond the sum's last fraction bit nothing is left of a number that is smaller than `kNoFraction`.
template <class R>
FDJPEG_INLINE Reals<R> round_by_sum(Reals<R> x) {
  constexpr R kNoFraction = sizeof(R) == sizeof(double) ? R(4503599627370496.0) : R(8388608.0);  // 2^52 or 2^23
  const Reals<R> size = absolute(x), whole = (size + kNoFraction) - kNoFraction;
  return size < kNoFraction ? with_sign(whole, x) : x;
}

template <>
struct RealLane<Reals<float>> {
  using Scalar = float;
  using Bits = VectorOf<float>::Bits;
  static FDJPEG_INLINE Reals<float> round(Reals<float> x) {
#if FDJPEG_VECTOR_BYTES == 64
    return reinterpret_cast<Reals<float>>(_mm512_roundscale_ps(FDJPEG_X86_FLOAT(x), _MM_FROUND_TO_NEAREST_INT));
#elif FDJPEG_VECTOR_BYTES == 32
    return reinterpret_cast<Reals<float>>(
        _mm256_round_ps(FDJPEG_X86_FLOAT(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    return round_by_sum<float>(x);
#endif
  }
};

template <>
struct RealLane<Reals<double>> {
  using Scalar = double;
  using Bits = VectorOf<double>::Bits;
  static FDJPEG_INLINE Reals<double> round(Reals<double> x) {
    return round_by_sum<double>(x);
  }
};

#if FDJPEG_VECTOR_BYTES == 64
// transpose() of lanes.h for each of two blocks side by side.
FDJPEG_INLINE void transpose(Reals<float> x[8]) {
  Reals<float> a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = FDJPEG_SHUFFLE(x[2 * i], x[2 * i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    a[2 * i + 1] = FDJPEG_SHUFFLE(x[2 * i], x[2 * i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = FDJPEG_SHUFFLE(a[i + j], a[i + 2 + j], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      b[i + 2 * j + 1] =
          FDJPEG_SHUFFLE(a[i + j], a[i + 2 + j], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = FDJPEG_SHUFFLE(b[i], b[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    x[i + 4] = FDJPEG_SHUFFLE(b[i], b[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
}
#endif

}  // namespace fdjpeg
