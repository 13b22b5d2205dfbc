// The arithmetic of JPEG in real numbers, written once for every processor.
//
// Each function is a template over a lane type: float or double where a thread holds one sample (a GPU), a vector of
// them where an instruction holds several (a CPU). A lane type needs + - * / < ?: on itself and on constants of its
// scalar type, and a specialisation of RealLane<>. Compilers may fuse multiplications and additions as they like.
#pragma once

#include "codec/exact_math.h"
#include "codec/real_jobs.h"

namespace fdjpeg {

// Operations that C++ spells differently for each lane type: `Scalar`, the type of one lane; `Bits`, integers of the
// same width; and round(), to the nearest whole number, half to even.
template <class X>
struct RealLane;

template <>
struct RealLane<float> {
  using Scalar = float;
  using Bits = int32_t;
  static FDJPEG_INLINE float round(float x) {
    return __builtin_rintf(x);
  }
};

template <>
struct RealLane<double> {
  using Scalar = double;
  using Bits = int64_t;
  static FDJPEG_INLINE double round(double x) {
    return __builtin_rint(x);
  }
};

template <class X>
using ScalarOf = typename RealLane<X>::Scalar;

template <class X>
constexpr bool kIsDouble = sizeof(ScalarOf<X>) == sizeof(double);

// |x|; NaN stays NaN.
template <class X>
FDJPEG_INLINE X absolute(X x) {
  return x < 0 ? -x : x;
}

template <class X>
FDJPEG_INLINE X with_sign(X magnitude, X sign) {
  return sign < 0 ? -magnitude : magnitude;
}

// ---------------------------------------------------------------------------------------------------------------------
// Colour: ITU-R BT.601, of which all follows from the weights of red and blue in luma

constexpr double kRedWeight = .299, kBlueWeight = .114, kGreenWeight = 1 - kRedWeight - kBlueWeight;
constexpr double kCbRange = 2 - 2 * kBlueWeight, kCrRange = 2 - 2 * kRedWeight;  // B = Y + kCbRange Cb, R likewise

// Cb and Cr about 0.
template <class X>
FDJPEG_INLINE YCbCr<X> real_rgb_to_ycbcr(X r, X g, X b) {
  using S = ScalarOf<X>;
  const X y = S(kRedWeight) * r + S(kGreenWeight) * g + S(kBlueWeight) * b;
  return {y, S(1 / kCbRange) * (b - y), S(1 / kCrRange) * (r - y)};
}

template <class X>
FDJPEG_INLINE RGB<X> real_ycbcr_to_rgb(X y, X cb, X cr) {
  using S = ScalarOf<X>;
  const X blue = S(kCbRange) * cb, red = S(kCrRange) * cr;
  return {y + red, y - S(kBlueWeight / kGreenWeight) * blue - S(kRedWeight / kGreenWeight) * red, y + blue};
}

// The transposed maps: gradients of what went in from gradients of what came out.
template <class X>
FDJPEG_INLINE RGB<X> real_rgb_to_ycbcr_adjoint(X y, X cb, X cr) {
  using S = ScalarOf<X>;
  const X blue = S(1 / kCbRange) * cb, red = S(1 / kCrRange) * cr;
  const X of_luma = y - blue - red;
  return {S(kRedWeight) * of_luma + red, S(kGreenWeight) * of_luma, S(kBlueWeight) * of_luma + blue};
}

template <class X>
FDJPEG_INLINE YCbCr<X> real_ycbcr_to_rgb_adjoint(X r, X g, X b) {
  using S = ScalarOf<X>;
  return {
      r + g + b,
      S(kCbRange) * (b - S(kBlueWeight / kGreenWeight) * g),
      S(kCrRange) * (r - S(kRedWeight / kGreenWeight) * g),
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// The orthonormal DCT-II of eight samples (T.81 A.3.3); rows of its matrix are even or odd about the middle

// cos(i pi / 16) / 2
constexpr double kHalfCosine[8] = {
    0.5,
    0.49039264020161522456,
    0.46193976625564337806,
    0.41573480615127261854,
    0.35355339059327376220,
    0.27778511650980111237,
    0.19134171618254488586,
    0.09754516100806413392};

template <class X>
FDJPEG_INLINE void real_dct_pass(X x[8]) {
  using S = ScalarOf<X>;
  constexpr S c1 = S(kHalfCosine[1]), c2 = S(kHalfCosine[2]), c3 = S(kHalfCosine[3]), c4 = S(kHalfCosine[4]),
              c5 = S(kHalfCosine[5]), c6 = S(kHalfCosine[6]), c7 = S(kHalfCosine[7]);
  const X s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
  const X d0 = x[0] - x[7], d1 = x[1] - x[6], d2 = x[2] - x[5], d3 = x[3] - x[4];
  const X outer = s0 + s3, inner = s1 + s2, outer_difference = s0 - s3, inner_difference = s1 - s2;
  x[0] = c4 * (outer + inner);
  x[4] = c4 * (outer - inner);
  x[2] = c2 * outer_difference + c6 * inner_difference;
  x[6] = c6 * outer_difference - c2 * inner_difference;
  x[1] = c1 * d0 + c3 * d1 + c5 * d2 + c7 * d3;
  x[3] = c3 * d0 - c7 * d1 - c1 * d2 - c5 * d3;
  x[5] = c5 * d0 - c1 * d1 + c7 * d2 + c3 * d3;
  x[7] = c7 * d0 - c5 * d1 + c3 * d2 - c1 * d3;
}

// Its inverse, which is its transpose.
template <class X>
FDJPEG_INLINE void real_idct_pass(X x[8]) {
  using S = ScalarOf<X>;
  constexpr S c1 = S(kHalfCosine[1]), c2 = S(kHalfCosine[2]), c3 = S(kHalfCosine[3]), c4 = S(kHalfCosine[4]),
              c5 = S(kHalfCosine[5]), c6 = S(kHalfCosine[6]), c7 = S(kHalfCosine[7]);
  const X sum = c4 * (x[0] + x[4]), difference = c4 * (x[0] - x[4]);
  const X outer = c2 * x[2] + c6 * x[6], inner = c6 * x[2] - c2 * x[6];
  const X e0 = sum + outer, e1 = difference + inner, e2 = difference - inner, e3 = sum - outer;
  const X o0 = c1 * x[1] + c3 * x[3] + c5 * x[5] + c7 * x[7];
  const X o1 = c3 * x[1] - c7 * x[3] - c1 * x[5] - c5 * x[7];
  const X o2 = c5 * x[1] - c1 * x[3] + c7 * x[5] + c3 * x[7];
  const X o3 = c7 * x[1] - c5 * x[3] + c3 * x[5] - c1 * x[7];
  x[0] = e0 + o0;
  x[1] = e1 + o1;
  x[2] = e2 + o2;
  x[3] = e3 + o3;
  x[4] = e3 - o3;
  x[5] = e2 - o2;
  x[6] = e1 - o1;
  x[7] = e0 - o0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Two elementary functions

// The sum of coefficient[i] x^i.
template <int count, class X>
FDJPEG_INLINE X polynomial(const double (&coefficient)[count], X x) {
  using S = ScalarOf<X>;
  X sum = X{} + S(coefficient[count - 1]);
  for (int i = count - 2; i >= 0; --i) sum = sum * x + S(coefficient[i]);
  return sum;
}

template <int count>
struct Coefficients {
  double of[count];
};

constexpr double kPi = 3.14159265358979323846, kLn2 = 0.69314718055994530942;

// Of sin(pi x) / x, by powers of x^2.
template <int count>
constexpr FDJPEG_INLINE Coefficients<count> sine_series() {
  Coefficients<count> series{};
  double term = kPi;
  for (int i = 0; i < count; ++i) {
    series.of[i] = term;
    term *= -kPi * kPi / ((2 * i + 2) * (2 * i + 3));
  }
  return series;
}

// Of 2^x.
template <int count>
constexpr FDJPEG_INLINE Coefficients<count> power_series() {
  Coefficients<count> series{};
  double term = 1;
  for (int i = 0; i < count; ++i) {
    series.of[i] = term;
    term *= kLn2 / (i + 1);
  }
  return series;
}

// sin(pi x), |x| <= 1/2; the first term left out is below 1e-9 in float and 1e-17 in double.
template <class X>
FDJPEG_INLINE X sin_pi(X x) {
  constexpr auto kSeries = sine_series<kIsDouble<X> ? 11 : 7>();
  return x * polynomial(kSeries.of, x * x);
}

// A number as n + remainder, n whole and |remainder| <= 1/2; the lowest bits of `bits` are those of n.
template <class X>
struct Split {
  X remainder;
  typename RealLane<X>::Bits bits;
};

// |x| < 2^22.
template <class X>
FDJPEG_INLINE Split<X> split(X x) {
  using S = ScalarOf<X>;
  constexpr S kNoFraction = kIsDouble<X> ? S(6755399441055744.0) : S(12582912.0);  // 1.5 times 2^52 or 2^23
  const X shifted = x + kNoFraction;
  Split<X> result;
  result.remainder = x - (shifted - kNoFraction);
  __builtin_memcpy(&result.bits, &shifted, sizeof shifted);
  return result;
}

// sin(pi x), |x| < 2^22.
template <class X>
FDJPEG_INLINE X sin_pi_of_any(X x) {
  constexpr int kSignBit = 8 * sizeof(ScalarOf<X>) - 1;
  const Split<X> parts = split(x);
  const X sine = sin_pi(parts.remainder);
  typename RealLane<X>::Bits bits;
  __builtin_memcpy(&bits, &sine, sizeof sine);
  bits ^= parts.bits << kSignBit;  // odd n turn the sign
  X result;
  __builtin_memcpy(&result, &bits, sizeof bits);
  return result;
}

// exp(-x), x >= 0; it stops at the smallest normal number.
template <class X>
FDJPEG_INLINE X exp_of_minus(X x) {
  using S = ScalarOf<X>;
  constexpr auto kSeries = power_series<kIsDouble<X> ? 14 : 8>();
  constexpr int kBias = kIsDouble<X> ? 1023 : 127, kFractionBits = kIsDouble<X> ? 52 : 23;
  X power = S(-1 / kLn2) * x;
  power = power < S(1 - kBias) ? X{} + S(1 - kBias) : power;
  const Split<X> parts = split(power);
  const typename RealLane<X>::Bits bits = (parts.bits + kBias) << kFractionBits;
  X scale;
  __builtin_memcpy(&scale, &bits, sizeof bits);
  return polynomial(kSeries.of, parts.remainder) * scale;
}

// ---------------------------------------------------------------------------------------------------------------------
// Surrogates of rounding, of t = c - round(c)

// r(c) = round(c) + offset, r'(c) = slope; a caller that wants one of them pays for one.
template <class X>
struct Stair {
  X offset, slope;
};

template <class X>
FDJPEG_INLINE Stair<X> cubic_stair(X t) {
  return {t * t * t, ScalarOf<X>(3) * t * t};
}

template <class X>
FDJPEG_INLINE Stair<X> sine_stair(X t) {
  using S = ScalarOf<X>;
  const X sine = sin_pi(t), cosine = sin_pi(S(.5) - absolute(t));
  return {t - S(1 / kPi) * sine * cosine, S(2) * sine * sine};
}

// With w = 1/2 - |t| the terms' signs fall away: sin(2 pi n t) = ± (-1)^(n + 1) sin(2 pi n w).
template <class X>
FDJPEG_INLINE Stair<X> fourier_stair(X t, int terms) {
  using S = ScalarOf<X>;
  const X w = S(.5) - absolute(t);
  const X half_sine = sin_pi(w), half_cosine = sin_pi(absolute(t));
  const X sine = S(2) * half_sine * half_cosine, cosine = S(1) - S(2) * half_sine * half_sine;
  X s = sine, c = cosine, sum = S(1 / kPi) * sine;
  for (int n = 2; n <= terms; ++n) {
    const X turned = s * cosine + c * sine;
    c = c * cosine - s * sine;
    s = turned;
    sum += S(1 / (kPi * n)) * s;
  }
  // The derivative's sum is Dirichlet's kernel.
  const S odd = S(2 * terms + 1);
  const X slope = sin_pi_of_any(odd * w) / half_sine;
  return {t - with_sign(sum, t), half_sine > 0 ? slope : X{} + odd};
}

template <class X>
FDJPEG_INLINE Stair<X> tanh_stair(X t, double alpha, double norm) {
  using S = ScalarOf<X>;
  const X w = S(.5) - absolute(t);
  const X e = exp_of_minus(S(2 * alpha) * w), inverse = S(1) / (S(1) + e);
  return {with_sign(S(.5) - S(norm) * (S(1) - e) * inverse, t), S(4 * alpha * norm) * e * inverse * inverse};
}

// Weights of the whole numbers next to round(c), that of round(c) being 1: `near` of the one on t's side, `opposite` of
// the one across. Those two steps away have the squares, times exp(-2 alpha).
template <class X>
FDJPEG_INLINE Stair<X> softmax_stair(X t, double alpha, double norm) {
  using S = ScalarOf<X>;
  const X twice = S(2) * absolute(t);
  const X near = exp_of_minus(S(alpha) * (S(1) - twice)), opposite = exp_of_minus(S(alpha) * (S(1) + twice));
  const X far = S(norm) * near * near, far_opposite = S(norm) * opposite * opposite;
  const X inverse = S(1) / (S(1) + near + opposite + far + far_opposite);
  const X mean = (near - opposite + S(2) * (far - far_opposite)) * inverse;
  const X square = (near + opposite + S(4) * (far + far_opposite)) * inverse;
  return {with_sign(mean, t), S(2 * alpha) * (square - mean * mean)};
}

template <Surrogate surrogate, class X>
FDJPEG_INLINE Stair<X> stair(X t, const Rounding& rounding) {
  using S = ScalarOf<X>;
  if constexpr (surrogate == Surrogate::cubic) return cubic_stair(t);
  if constexpr (surrogate == Surrogate::sine) return sine_stair(t);
  if constexpr (surrogate == Surrogate::fourier) return fourier_stair(t, rounding.terms);
  if constexpr (surrogate == Surrogate::tanh) return tanh_stair(t, rounding.alpha, rounding.norm);
  if constexpr (surrogate == Surrogate::softmax) return softmax_stair(t, rounding.alpha, rounding.norm);
  return {X{}, X{} + S(surrogate == Surrogate::straight_through ? 1 : 0)};
}

// Calls body.template operator()<surrogate>() for the surrogate in use; all threads of a GPU take the same branch.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // `body` runs where its caller runs
#endif
template <class Body>
FDJPEG_INLINE void with_surrogate(Surrogate surrogate, Body&& body) {
  switch (surrogate) {
    case Surrogate::straight_through:
      return body.template operator()<Surrogate::straight_through>();
    case Surrogate::zero:
      return body.template operator()<Surrogate::zero>();
    case Surrogate::cubic:
      return body.template operator()<Surrogate::cubic>();
    case Surrogate::sine:
      return body.template operator()<Surrogate::sine>();
    case Surrogate::fourier:
      return body.template operator()<Surrogate::fourier>();
    case Surrogate::tanh:
      return body.template operator()<Surrogate::tanh>();
    case Surrogate::softmax:
      return body.template operator()<Surrogate::softmax>();
  }
  __builtin_unreachable();  // these are all
}

// The number that forward uses for c.
template <Surrogate surrogate, class X>
FDJPEG_INLINE X rounded_or_soft(X c, const Rounding& rounding) {
  const X k = RealLane<X>::round(c);
  return rounding.soft ? k + stair<surrogate>(c - k, rounding).offset : k;
}

// Factors that turn a coefficient's gradient into that of the coefficient before rounding (r') and into that of its
// step (the number that forward used, less c r').
template <class X>
struct Derivatives {
  X of_coefficient, of_step;
};

template <Surrogate surrogate, class X>
FDJPEG_INLINE Derivatives<X> derivatives_of_rounding(X c, const Rounding& rounding) {
  using S = ScalarOf<X>;
  const X k = RealLane<X>::round(c), t = c - k;
  Stair<X> s = stair<surrogate>(t, rounding);
  if (rounding.floor > 0) s.slope = s.slope < S(rounding.floor) ? X{} + S(rounding.floor) : s.slope;
  if (!rounding.soft) s.offset = X{};
  return {s.slope, k * (S(1) - s.slope) + (s.offset - t * s.slope)};
}

}  // namespace fdjpeg
