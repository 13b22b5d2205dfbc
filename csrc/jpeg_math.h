// The arithmetic of libjpeg-turbo's 8-bit codec, written once for every processor.
//
// Each function is a template over a *lane* type: `int` where a thread holds one sample (a GPU), a vector of int32
// where an instruction holds several (a CPU). A lane type needs + - * >> < ?: on itself and on int constants, and a
// specialisation of Lane<> with its companion types. Nothing here knows of torch, of threads or of memory.
//
// The constants and the structure of the two transforms are those of the "islow" DCT of the Independent JPEG Group's
// library: C. Loeffler, A. Ligtenberg, G. Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications",
// ICASSP 1989. A pass is an exact integer linear map and one rounding shift at its end, so any order of its additions
// gives the same bits. Signed overflow is never relied on for valid data; the host is compiled with -fwrapv so that
// hostile coefficients wrap in a defined way.
#pragma once

#if defined(__CUDACC__)
#define FDJPEG_INLINE __host__ __device__ __forceinline__
#else
#define FDJPEG_INLINE inline __attribute__((always_inline))
#endif

namespace fdjpeg {

// What belongs to a lane type: Real, its floating companion, and the operations that C++ cannot spell for both.
template <class I>
struct Lane;

template <>
struct Lane<int> {
  using Real = float;
  static FDJPEG_INLINE float to_real(int x) {
    return static_cast<float>(x);
  }
  static FDJPEG_INLINE int truncate(float x) {
    return static_cast<int>(x);
  }
  static FDJPEG_INLINE float copy_sign(float magnitude, float sign) {
    return __builtin_copysignf(magnitude, sign);
  }
};

template <class I>
FDJPEG_INLINE I smaller(I a, I b) {
  return a < b ? a : b;
}

template <class I>
FDJPEG_INLINE I larger(I a, I b) {
  return a > b ? a : b;
}

template <class I>
FDJPEG_INLINE I clamp(I x, int low, int high) {
  return smaller(larger(x, I{} + low), I{} + high);
}

// x / 2^bits, rounded half up.
template <int bits, class I>
FDJPEG_INLINE I descale(I x) {
  return (x + (1 << (bits - 1))) >> bits;
}

constexpr int kBlock = 8;           // a block is 8 × 8 samples (T.81 A.1.3)
constexpr int kBlockSize = 64;
constexpr int kLevelShift = 128;    // half of the sample range (T.81 A.3.1)
constexpr int kMaxSample = 255;

// ---------------------------------------------------------------------------------------------------------------------
// Tables

// T.81 Annex K.1 (luminance) and K.2 (chrominance), row-major: [vertical frequency][horizontal frequency].
#define FDJPEG_STANDARD_LUMA                                                                                      \
  {16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,   \
   51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,     \
   120, 101, 72, 92, 95, 98, 112, 100, 103, 99}
#define FDJPEG_STANDARD_CHROMA                                                                                    \
  {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,   \
   99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,   \
   99, 99, 99, 99, 99, 99, 99, 99}

// libjpeg's percentage by which a quality of 1 … 100 scales the standard tables. A number outside acts as the nearer
// end, NaN as 1. (Written so that a comparison with NaN chooses the 1.)
inline int quality_scale(double quality) {
  double q = quality > 1.0 ? quality : 1.0;
  q = q < 100.0 ? q : 100.0;
  return static_cast<int>(q < 50.0 ? 5000.0 / q : 200.0 - 2.0 * q);
}

FDJPEG_INLINE int standard_step(int base, int scale) {
  return clamp((base * scale + 50) / 100, 1, kMaxSample);
}

// The step that a float stands for: rounded half to even, kept in 1 … 255, NaN as 1.
FDJPEG_INLINE int table_step(float q) {
  float bounded = q > 1.0f ? q : 1.0f;
  bounded = bounded < 255.0f ? bounded : 255.0f;
  return static_cast<int>((bounded + 12582912.0f) - 12582912.0f);  // 1.5 · 2^23: the sum has no fraction bits
}

// ---------------------------------------------------------------------------------------------------------------------
// Colour (BT.601 full range, 16 fraction bits)

constexpr FDJPEG_INLINE int fix16(double x) {
  return static_cast<int>(x * 65536 + 0.5);
}

template <class I>
struct YCbCr {
  I y, cb, cr;
};

template <class I>
struct RGB {
  I r, g, b;
};

template <class I>
FDJPEG_INLINE YCbCr<I> rgb_to_ycbcr(I r, I g, I b) {
  constexpr int kLumaBias = 1 << 15;
  constexpr int kChromaBias = (kLevelShift << 16) + (1 << 15) - 1;  // one less than a half: libjpeg's choice
  return {
      (fix16(.29900) * r + fix16(.58700) * g + fix16(.11400) * b + kLumaBias) >> 16,
      (fix16(.5) * b - fix16(.16874) * r - fix16(.33126) * g + kChromaBias) >> 16,
      (fix16(.5) * r - fix16(.41869) * g - fix16(.08131) * b + kChromaBias) >> 16,
  };
}

// R, G and B before the clamp to 0 … 255; backward asks whether they lie inside.
template <class I>
FDJPEG_INLINE RGB<I> ycbcr_to_rgb(I y, I cb, I cr) {
  constexpr int kHalf = 1 << 15;
  const I u = cb - kLevelShift, v = cr - kLevelShift;
  return {
      y + ((fix16(1.40200) * v + kHalf) >> 16),
      y + ((kHalf - fix16(.34414) * u - fix16(.71414) * v) >> 16),
      y + ((fix16(1.77200) * u + kHalf) >> 16),
  };
}

// The bias with which libjpeg averages a sample of a subsampled row, by the parity of its column.
FDJPEG_INLINE int average_bias(int horizontal, int vertical, int column) {
  if (horizontal == 2) return vertical == 2 ? 1 + (column & 1) : column & 1;
  return horizontal * vertical / 2;
}

// ---------------------------------------------------------------------------------------------------------------------
// The two transforms

constexpr int kConstBits = 13;  // fraction bits of the constants
constexpr int kPass1Bits = 2;   // fraction bits that survive between the passes

constexpr FDJPEG_INLINE int fix13(double x) {
  return static_cast<int>(x * 8192 + 0.5);
}

// The rotation by 3π/8 of the even half: on (a, b) = (coefficient 2, coefficient 6) or their sums.
template <class I>
struct Pair {
  I first, second;
};

template <class I>
FDJPEG_INLINE Pair<I> even_rotation(I a, I b) {
  const I z = (a + b) * fix13(.541196100);
  return {z + a * fix13(.765366865), z - b * fix13(1.847759065)};
}

// The odd half: the same symmetric map takes sums to the coefficients 7, 5, 3, 1 and these back to sums.
template <class I>
FDJPEG_INLINE void odd_rotations(I x[4]) {
  const I z5 = (x[0] + x[2] + x[1] + x[3]) * fix13(1.175875602);
  const I z1 = (x[0] + x[3]) * -fix13(.899976223);
  const I z2 = (x[1] + x[2]) * -fix13(2.562915447);
  const I z3 = (x[0] + x[2]) * -fix13(1.961570560) + z5;
  const I z4 = (x[1] + x[3]) * -fix13(.390180644) + z5;
  x[0] = x[0] * fix13(.298631336) + z1 + z3;
  x[1] = x[1] * fix13(2.053119869) + z2 + z4;
  x[2] = x[2] * fix13(3.072711026) + z2 + z3;
  x[3] = x[3] * fix13(1.501321110) + z1 + z4;
}

// One pass of the forward DCT along x[0] … x[7]. The first pass keeps kPass1Bits fraction bits, the second removes them.
template <bool first_pass, class I>
FDJPEG_INLINE void fdct_pass(I x[8]) {
  constexpr int kShift = first_pass ? kConstBits - kPass1Bits : kConstBits + kPass1Bits;
  const I s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
  I odd[4] = {x[3] - x[4], x[2] - x[5], x[1] - x[6], x[0] - x[7]};
  const I sum = s0 + s3, difference = s0 - s3, inner_sum = s1 + s2, inner_difference = s1 - s2;
  const I dc = sum + inner_sum, c4 = sum - inner_sum;
  x[0] = first_pass ? dc << kPass1Bits : descale<kPass1Bits>(dc);
  x[4] = first_pass ? c4 << kPass1Bits : descale<kPass1Bits>(c4);
  const Pair<I> even = even_rotation(difference, inner_difference);
  x[2] = descale<kShift>(even.first);
  x[6] = descale<kShift>(even.second);
  odd_rotations(odd);
  x[7] = descale<kShift>(odd[0]);
  x[5] = descale<kShift>(odd[1]);
  x[3] = descale<kShift>(odd[2]);
  x[1] = descale<kShift>(odd[3]);
}

// One pass of the inverse DCT along x[0] … x[7]; after the second pass the samples lack only the level shift.
template <bool first_pass, class I>
FDJPEG_INLINE void idct_pass(I x[8]) {
  constexpr int kShift = first_pass ? kConstBits - kPass1Bits : kConstBits + kPass1Bits + 3;
  const Pair<I> even = even_rotation(x[2], x[6]);
  const I sum = (x[0] + x[4]) << kConstBits, difference = (x[0] - x[4]) << kConstBits;
  const I e0 = sum + even.first, e3 = sum - even.first;
  const I e1 = difference + even.second, e2 = difference - even.second;
  I odd[4] = {x[7], x[5], x[3], x[1]};
  odd_rotations(odd);
  x[0] = descale<kShift>(e0 + odd[3]);
  x[7] = descale<kShift>(e0 - odd[3]);
  x[1] = descale<kShift>(e1 + odd[2]);
  x[6] = descale<kShift>(e1 - odd[2]);
  x[2] = descale<kShift>(e2 + odd[1]);
  x[5] = descale<kShift>(e2 - odd[1]);
  x[3] = descale<kShift>(e3 + odd[0]);
  x[4] = descale<kShift>(e3 - odd[0]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Quantization

// The forward transform's output is 8 times the orthonormal DCT, so a step q divides it by 8 q.
FDJPEG_INLINE float reciprocal_step(int q) {
  return 1.0f / static_cast<float>(kBlock * q);
}

// sign(c) · ((|c| + 4 q) / (8 q)) for |c| <= 32768 and q in 1 … 255, reciprocal = 1 / (8 q): half away from zero. The
// half is widened by half of a unit of c, which no rounding of the product can reach; so the quotient is exact whether
// or not the compiler fuses the multiplication and the addition.
template <class I, class R = typename Lane<I>::Real>
FDJPEG_INLINE I quantize(I c, R reciprocal) {
  const R f = Lane<I>::to_real(c);
  return Lane<I>::truncate(f * reciprocal + Lane<I>::copy_sign(reciprocal * 0.5f + 0.5f, f));
}

// Coefficients that no 8-bit encoder makes are saturated, so that the sums of the inverse DCT wrap in 32 bits at worst.
template <class I>
FDJPEG_INLINE I dequantize_saturating(I k, I q) {
  return clamp(k * q, -32767, 32767);
}

// ---------------------------------------------------------------------------------------------------------------------
// Upsampling ("fancy": a triangle over the two nearest samples)

// One of two outputs between a sample and a neighbour; `late` is the output on the far side (right or below).
template <bool late, class I>
FDJPEG_INLINE I triangle(I near, I far) {
  return (3 * near + far + (late ? 2 : 1)) >> 2;
}

// The same across columns where rows were already blended, s = 3 · near row + far row.
template <class I>
FDJPEG_INLINE I blend_rows(I near, I far) {
  return 3 * near + far;
}

template <bool late, class I>
FDJPEG_INLINE I triangle_of_blend(I near, I far) {
  return (3 * near + far + (late ? 7 : 8)) >> 4;
}

}  // namespace fdjpeg
