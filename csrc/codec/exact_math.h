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

#include <cstdint>

#if defined(__CUDACC__)
#define FDJPEG_INLINE __host__ __device__ __forceinline__
#else
#define FDJPEG_INLINE inline __attribute__((always_inline))
#endif

namespace fdjpeg {

// Two operands of a dot product; a lane type may keep them in its own order.
template <class I>
struct Pair {
  I first, second;
};

template <class I>
FDJPEG_INLINE Pair<I> operator+(Pair<I> a, Pair<I> b) {
  return {a.first + b.first, a.second + b.second};
}

template <class I>
FDJPEG_INLINE Pair<I> operator-(Pair<I> a, Pair<I> b) {
  return {a.first - b.first, a.second - b.second};
}

// Operations that C++ spells differently for each lane type. `Wide` holds sums of products: 32 bits, whatever the
// lanes' width. These are the operations of lanes that are 32 bits wide themselves; lanes.h specialises them for lanes
// of 16 bits.
template <class I>
struct PlainLane {
  using Wide = I;
  // Fraction bits that the lanes have beyond libjpeg's: what goes into a first pass, and the transforms' constants.
  static constexpr int kInputBits = 0, kConstantBits = 0;
  static FDJPEG_INLINE I all(int x) {
    return I{} + x;
  }
  static FDJPEG_INLINE Pair<I> pair(I a, I b) {
    return {a, b};
  }
  // Half of 2^bits: what a sum starts from if narrow() is to round half up.
  template <int bits>
  static FDJPEG_INLINE Wide half() {
    return I{} + (1 << (bits - 1));
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<I> p) {
    return p.first * c1 + p.second * c2;
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<I> p, Wide sum) {
    return sum + p.first * c1 + p.second * c2;
  }
  template <int bits>
  static FDJPEG_INLINE I narrow(Wide sum) {
    return sum >> bits;
  }
  // (first + sign · second) / 2^bits, rounded half up.
  template <int sign, int bits>
  static FDJPEG_INLINE I scaled_sum(Pair<I> p) {
    const I sum = sign > 0 ? p.first + p.second : p.first - p.second;
    if constexpr (bits <= 0) {
      return sum << -bits;
    } else {
      return (sum + (1 << (bits - 1))) >> bits;
    }
  }
  // (c1 a + c2 b + c3 c + bias) / 2^16 of samples, rounded down.
  template <int c1, int c2, int c3, int bias>
  static FDJPEG_INLINE I weigh(I a, I b, I c) {
    return (c1 * a + c2 * b + c3 * c + bias) >> 16;
  }
  // The same of one or two samples less the level shift, rounded half up.
  template <int c>
  static FDJPEG_INLINE I scale(I a) {
    return (c * a + (1 << 15)) >> 16;
  }
  template <int c1, int c2>
  static FDJPEG_INLINE I scale(I a, I b) {
    return (c1 * a + c2 * b + (1 << 15)) >> 16;
  }
};

template <class I>
struct Lane : PlainLane<I> {};

template <>
struct Lane<int> : PlainLane<int> {
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

// Sums that wrap around 2^32, on purpose: a GPU's bytes may have more bits above them (see rounded_byte).
template <>
struct Lane<unsigned> : PlainLane<unsigned> {
  template <int c1, int c2, int c3, int bias>
  static FDJPEG_INLINE unsigned weigh(unsigned a, unsigned b, unsigned c) {
    return (unsigned(c1) * a + unsigned(c2) * b + unsigned(c3) * c + unsigned(bias)) >> 16;
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
  return smaller(larger(x, Lane<I>::all(low)), Lane<I>::all(high));
}

// x / 2^bits, rounded half up.
template <int bits, class I>
FDJPEG_INLINE I descale(I x) {
  return (x + (1 << (bits - 1))) >> bits;
}

constexpr int kBlock = 8;  // a block is 8 × 8 samples (T.81 A.1.3)
constexpr int kBlockSize = 64;
constexpr int kLevelShift = 128;  // half of the sample range (T.81 A.3.1)
constexpr int kMaxSample = 255;
constexpr int kMaxQuality = 100;

// ---------------------------------------------------------------------------------------------------------------------
// Tables

// T.81 Annex K.1 (luminance) and K.2 (chrominance), row-major: [vertical frequency][horizontal frequency].
#define FDJPEG_STANDARD_LUMA                                                                         \
  {16, 11,  10,  16, 24, 40, 51, 61, 12,  12,  14,  19,  26, 58, 60, 55,  14,  13,  16,  24, 40, 57, \
   69, 56,  14,  17, 22, 29, 51, 87, 80,  62,  18,  22,  37, 56, 68, 109, 103, 77,  24,  35, 55, 64, \
   81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98,  112, 100, 103, 99}
#define FDJPEG_STANDARD_CHROMA                                                             \
  {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, \
   99, 99, 47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, \
   99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99}

// libjpeg's percentage by which a quality of 1 … 100 scales the standard tables: rounded down where the quality is an
// int, as a double not rounded. A number outside acts as the nearer end, NaN as 1. (Written so that a comparison with
// NaN chooses the 1.)
template <class Number>
FDJPEG_INLINE Number quality_percentage(Number quality) {
  Number q = quality > 1 ? quality : Number(1);
  q = q < kMaxQuality ? q : Number(kMaxQuality);
  return q < 50 ? 5000 / q : 200 - 2 * q;
}

// The whole percentage of any quality, which libjpeg scales by.
inline int quality_scale(double quality) {
  return static_cast<int>(quality_percentage(quality));
}

FDJPEG_INLINE int standard_step(int base, int scale) {
  return clamp((base * scale + 50) / 100, 1, kMaxSample);
}

// The step that a float means: rounded half to even, kept in 1 … 255, NaN as 1.
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
  using L = Lane<I>;
  constexpr int kLumaBias = 1 << 15;
  constexpr int kChromaBias = (kLevelShift << 16) + (1 << 15) - 1;  // one less than a half: libjpeg's choice
  return {
      L::template weigh<fix16(.29900), fix16(.58700), fix16(.11400), kLumaBias>(r, g, b),
      L::template weigh<-fix16(.16874), -fix16(.33126), fix16(.5), kChromaBias>(r, g, b),
      L::template weigh<fix16(.5), -fix16(.41869), -fix16(.08131), kChromaBias>(r, g, b),
  };
}

// R, G and B before the clamp to 0 … 255; backward asks whether they are inside.
template <class I>
FDJPEG_INLINE RGB<I> ycbcr_to_rgb(I y, I cb, I cr) {
  using L = Lane<I>;
  const I u = cb - kLevelShift, v = cr - kLevelShift;
  return {
      y + L::template scale<fix16(1.40200)>(v),
      y + L::template scale<-fix16(.34414), -fix16(.71414)>(u, v),
      y + L::template scale<fix16(1.77200)>(u),
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

// The rotation by 3π/8 of the even half, as a matrix: on coefficients 2 and 6 or the sums that they come from.
struct EvenMatrix {
  int m[2][2];
};

constexpr FDJPEG_INLINE EvenMatrix even_matrix() {
  const int z = fix13(.541196100);
  return {{{z + fix13(.765366865), z}, {z, z - fix13(1.847759065)}}};
}

// The odd half as a matrix, the product of libjpeg's factors. Rows and columns are those of the coefficients 7, 5, 3,
// 1, and for the differences that they come from, in the order 3, 2, 1, 0.
struct OddMatrix {
  int m[4][4];
};

constexpr FDJPEG_INLINE OddMatrix odd_matrix() {
  const int own[4] = {fix13(.298631336), fix13(2.053119869), fix13(3.072711026), fix13(1.501321110)};
  const int z1 = -fix13(.899976223), z2 = -fix13(2.562915447);                           // of 0 and 3; 1 and 2
  const int z3 = -fix13(1.961570560), z4 = -fix13(.390180644), z5 = fix13(1.175875602);  // of 0 and 2; 1 and 3; all
  OddMatrix odd{};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      odd.m[i][j] = z5;
      if (i == j) odd.m[i][j] += own[i];
      if (i == j || i + j == 3) odd.m[i][j] += i % 3 == 0 ? z1 : z2;
      if (i % 2 == j % 2) odd.m[i][j] += i % 2 == 0 ? z3 : z4;
    }
  }
  return odd;
}

// The sums and differences that the forward DCT starts with: of samples 0 and 7, 1 and 6; of 3 and 4, 2 and 5.
template <class I>
struct Butterflies {
  Pair<I> outer_sums, outer_differences, inner_sums, inner_differences;
};

template <class I>
FDJPEG_INLINE Butterflies<I> butterflies(Pair<I> x01, Pair<I> x76, Pair<I> x32, Pair<I> x45) {
  return {x01 + x76, x01 - x76, x32 + x45, x32 - x45};
}

// The coefficients that the inverse DCT works on together.
template <class I>
struct CoefficientPairs {
  Pair<I> p04, p26, p75, p13;
};

// A row of the odd matrix times two pairs of its columns, those of 7 and 5 and of 1 and 3, added to `sum` where there
// is one.
template <int row, class I>
FDJPEG_INLINE typename Lane<I>::Wide odd_sum(Pair<I> p, Pair<I> q, typename Lane<I>::Wide sum) {
  constexpr OddMatrix kOdd = odd_matrix();
  constexpr int kOne = 1 << Lane<I>::kConstantBits;
  sum = Lane<I>::template dot<kOne * kOdd.m[row][0], kOne * kOdd.m[row][1]>(p, sum);
  return Lane<I>::template dot<kOne * kOdd.m[row][3], kOne * kOdd.m[row][2]>(q, sum);
}

template <int row, class I>
FDJPEG_INLINE typename Lane<I>::Wide odd_sum(Pair<I> p, Pair<I> q) {
  constexpr OddMatrix kOdd = odd_matrix();
  constexpr int kOne = 1 << Lane<I>::kConstantBits;
  const typename Lane<I>::Wide sum = Lane<I>::template dot<kOne * kOdd.m[row][0], kOne * kOdd.m[row][1]>(p);
  return Lane<I>::template dot<kOne * kOdd.m[row][3], kOne * kOdd.m[row][2]>(q, sum);
}

// A row of the even matrix times a pair.
template <int row, class I>
FDJPEG_INLINE typename Lane<I>::Wide even_sum(Pair<I> p, typename Lane<I>::Wide sum) {
  constexpr EvenMatrix kEven = even_matrix();
  constexpr int kOne = 1 << Lane<I>::kConstantBits;
  return Lane<I>::template dot<kOne * kEven.m[row][0], kOne * kEven.m[row][1]>(p, sum);
}

template <int row, class I>
FDJPEG_INLINE typename Lane<I>::Wide even_sum(Pair<I> p) {
  constexpr EvenMatrix kEven = even_matrix();
  constexpr int kOne = 1 << Lane<I>::kConstantBits;
  return Lane<I>::template dot<kOne * kEven.m[row][0], kOne * kEven.m[row][1]>(p);
}

// One pass of the forward DCT, to x[0] … x[7]. The first pass keeps kPass1Bits fraction bits, the second removes them.
template <bool first_pass, class I>
FDJPEG_INLINE void fdct_pass(const Butterflies<I>& b, I x[8]) {
  using L = Lane<I>;
  constexpr int kShift =
      (first_pass ? kConstBits - kPass1Bits + L::kInputBits : kConstBits + kPass1Bits) + L::kConstantBits;
  const Pair<I> p = b.inner_differences, q = b.outer_differences;
  const Pair<I> sums = b.outer_sums + b.inner_sums, differences = b.outer_sums - b.inner_sums;
  const typename L::Wide half = L::template half<kShift>();
  constexpr int kWholeShift = kShift - kConstBits - L::kConstantBits;
  x[0] = L::template scaled_sum<1, kWholeShift>(sums);
  x[4] = L::template scaled_sum<-1, kWholeShift>(sums);
  x[2] = L::template narrow<kShift>(even_sum<0>(differences, half));
  x[6] = L::template narrow<kShift>(even_sum<1>(differences, half));
  x[7] = L::template narrow<kShift>(odd_sum<0>(p, q, half));
  x[5] = L::template narrow<kShift>(odd_sum<1>(p, q, half));
  x[3] = L::template narrow<kShift>(odd_sum<2>(p, q, half));
  x[1] = L::template narrow<kShift>(odd_sum<3>(p, q, half));
}

// The same along x[0] … x[7].
template <bool first_pass, class I>
FDJPEG_INLINE void fdct_pass(I x[8]) {
  using L = Lane<I>;
  const I s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
  const Pair<I> p = L::pair(x[3] - x[4], x[2] - x[5]), q = L::pair(x[0] - x[7], x[1] - x[6]);
  fdct_pass<first_pass>(Butterflies<I>{L::pair(s0, s1), q, L::pair(s3, s2), p}, x);
}

// One pass of the inverse DCT, to x[0] … x[7]; after the second pass the samples lack only the level shift.
template <bool first_pass, class I>
FDJPEG_INLINE void idct_pass(const CoefficientPairs<I>& c, I x[8]) {
  using L = Lane<I>;
  using Wide = typename L::Wide;
  constexpr int kShift =
      (first_pass ? kConstBits - kPass1Bits + L::kInputBits : kConstBits + kPass1Bits + 3) + L::kConstantBits;
  constexpr int kOne = 1 << (kConstBits + L::kConstantBits);
  const Wide half = L::template half<kShift>();
  const Wide sum = L::template dot<kOne, kOne>(c.p04, half), difference = L::template dot<kOne, -kOne>(c.p04, half);
  const Wide outer = even_sum<0>(c.p26), inner = even_sum<1>(c.p26);
  const Wide even[4] = {sum + outer, difference + inner, difference - inner, sum - outer};
  const Wide odd[4] = {
      odd_sum<3>(c.p75, c.p13), odd_sum<2>(c.p75, c.p13), odd_sum<1>(c.p75, c.p13), odd_sum<0>(c.p75, c.p13)};
  for (int i = 0; i < 4; ++i) {
    x[i] = L::template narrow<kShift>(even[i] + odd[i]);
    x[7 - i] = L::template narrow<kShift>(even[i] - odd[i]);
  }
}

// The same along x[0] … x[7].
template <bool first_pass, class I>
FDJPEG_INLINE void idct_pass(I x[8]) {
  using L = Lane<I>;
  idct_pass<first_pass>(
      CoefficientPairs<I>{L::pair(x[0], x[4]), L::pair(x[2], x[6]), L::pair(x[7], x[5]), L::pair(x[1], x[3])}, x);
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

// The same in 16 bits: two unsigned multiplications of which the upper halves are kept. With t = ceil(log2 q) and
// R = ceil(2^(15 + t) / q) < 2^16 it takes n R / 2^(18 + t), rounded down, for n = |c| + 4 q. R is too large by less
// than one part in 2^15, and n / (8 q) lies 1 / (8 q) or more below the next integer, so it is exact for n < 2^15; the
// forward transform of bytes stays below 2^13 + 2^4 and 4 q below 2^10.
struct NarrowStep {
  uint16_t reciprocal, scale;  // R, 2^(14 - t)
};

constexpr NarrowStep narrow_step(int q) {
  int t = 0;
  while ((1 << t) < q) ++t;
  return {static_cast<uint16_t>(((1 << (15 + t)) + q - 1) / q), static_cast<uint16_t>(1 << (14 - t))};
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
