// How samples of each type are read into the lanes of lanes.h, and written back.
//
// Compiled once for each instruction set, like lanes.h.
#pragma once

#include "cpu/lanes.h"

namespace fdjpeg {

// ---------------------------------------------------------------------------------------------------------------------
// Half formats

#if FDJPEG_VECTOR_BYTES == 64
FDJPEG_INLINE Floats float16_to_float(HalfShorts h) {
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(h)));
}
FDJPEG_INLINE HalfShorts float_to_float16(Floats f) {
  return reinterpret_cast<HalfShorts>(
      _mm512_cvtps_ph(FDJPEG_X86_FLOAT(f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif FDJPEG_VECTOR_BYTES == 32
FDJPEG_INLINE Floats float16_to_float(HalfShorts h) {
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(h)));
}
FDJPEG_INLINE HalfShorts float_to_float16(Floats f) {
  return reinterpret_cast<HalfShorts>(_mm256_cvtps_ph(FDJPEG_X86_FLOAT(f), _MM_FROUND_TO_NEAREST_INT));
}
#else
FDJPEG_INLINE Floats float16_to_float(HalfShorts half) {
  const Ints h = __builtin_convertvector(half, Ints), magnitude = h & 0x7fff;
  // Shifted into float's fields the exponent lacks 127 - 15; the product restores it, and subnormals come out right.
  const Floats finite = bit_cast<Floats>(magnitude << 13) * 0x1p112f;
  const Ints special = magnitude >= 0x7c00 ? Ints{} + 0x7f800000 : Ints{};  // infinity and NaN keep all ones
  return bit_cast<Floats>(bit_cast<Ints>(finite) | special | ((h & 0x8000) << 16));
}
FDJPEG_INLINE HalfShorts float_to_float16(Floats f) {
  const Ints bits = bit_cast<Ints>(f), magnitude = bits & 0x7fffffff;
  const Ints even = (magnitude >> 13) & 1;
  const Ints normal = (magnitude - (112 << 23) + 0xfff + even) >> 13;
  // Next to 0.5 a float's last fraction bit weighs as much as float16's smallest subnormal: the sum rounds to it.
  const Ints subnormal = bit_cast<Ints>(bit_cast<Floats>(magnitude) + 0.5f) - (126 << 23);
  const Ints special = magnitude > 0x7f800000 ? Ints{} + 0x7e00 : Ints{} + 0x7c00;
  Ints h = magnitude < (113 << 23) ? subnormal : normal;
  h = magnitude >= (143 << 23) ? special : h;
  return __builtin_convertvector(h | ((bits >> 16) & 0x8000), HalfShorts);
}
#endif

FDJPEG_INLINE Floats bfloat16_to_float(HalfShorts h) {
  return bit_cast<Floats>(__builtin_convertvector(h, Ints) << 16);
}

FDJPEG_INLINE HalfShorts float_to_bfloat16(Floats f) {
  const Ints bits = bit_cast<Ints>(f);
  const Ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Ints magnitude = bits & 0x7fffffff;
  return __builtin_convertvector(magnitude > 0x7f800000 ? Ints{} + 0x7fc0 : rounded, HalfShorts);
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples
//
//   Sample<type>::load_bytes    kLanes of rint(255 x), half to even, saturating, NaN as 0; notes where x is NaN or
//   above
//                               1, which backward and the caller's warning look into
//   Sample<type>::store_bytes   kLanes of byte / 255, correctly rounded, then rounded to the type; bytes are forced
//   into
//                               0 … 255 first
//   Sample<type>::load, store   kHalf of the values themselves, for gradients
//   Sample<type>::is_nan        of one of them

// Whether any sample was NaN or above 1.
class OddSamples {
 public:
#if FDJPEG_VECTOR_BYTES == 64
  FDJPEG_INLINE void note(Floats a, Floats b) {
    const __mmask16 ordinary = _mm512_cmp_ps_mask(FDJPEG_X86_FLOAT(a), _mm512_set1_ps(1), _CMP_LE_OQ);
    // Only the short step below waits for what was noted before.
    ordinary_ &= _mm512_mask_cmp_ps_mask(ordinary, FDJPEG_X86_FLOAT(b), _mm512_set1_ps(1), _CMP_LE_OQ);
  }
  FDJPEG_INLINE bool any() const {
    return ordinary_ != 0xffff;
  }

 private:
  __mmask16 ordinary_ = 0xffff;
#else
  FDJPEG_INLINE void note(Floats a, Floats b) {
    lanes_ |= ~(a <= 1) | ~(b <= 1);
  }
  FDJPEG_INLINE bool any() const {
    int32_t any = 0;
    for (int i = 0; i < kHalf; ++i) any |= lanes_[i];
    return any != 0;
  }

 private:
  Ints lanes_{};
#endif
};

template <SampleType>
struct Sample;

// The parts that the types worked on as floats share, given load() and store().
template <class Self>
struct FloatingSample {
  template <class T>
  static FDJPEG_INLINE Shorts load_bytes(const T* source, OddSamples& odd) {
    const Floats low = Self::load(source), high = Self::load(source + kHalf);
    odd.note(low, high);
    return narrow_saturating(byte(low), byte(high));
  }
  template <bool around_caches, class T>
  static FDJPEG_INLINE void store_bytes(T* target, Shorts bytes) {
    const Fractions fractions = fractions_of_bytes(bytes);
    Self::template store<around_caches>(target, fractions.low);
    Self::template store<around_caches>(target + kHalf, fractions.high);
  }

 private:
  static FDJPEG_INLINE Ints byte(Floats x) {
    return rounded(smaller_or_second(splat<Floats>(255), x * 255.0f));
  }
};

template <>
struct Sample<SampleType::uint8> {
  using Stored = uint8_t;
  static FDJPEG_INLINE Shorts load_bytes(const uint8_t* source, OddSamples&) {
    return fdjpeg::load_bytes(source);
  }
  template <bool around_caches>
  static FDJPEG_INLINE void store_bytes(uint8_t* target, Shorts bytes) {
    fdjpeg::store<around_caches>(target, pack_bytes_saturating(bytes));
  }
};

template <>
struct Sample<SampleType::float32> : FloatingSample<Sample<SampleType::float32>> {
  using Stored = float;
  static FDJPEG_INLINE bool is_nan(float x) {
    return x != x;
  }
  static FDJPEG_INLINE Floats load(const float* source) {
    return fdjpeg::load<Floats>(source);
  }
  template <bool around_caches = false>
  static FDJPEG_INLINE void store(float* target, Floats x) {
    fdjpeg::store<around_caches>(target, x);
  }
};

// The two half types, given widen() and narrow() between kHalf of them and floats.
template <class Self, uint16_t infinity>
struct HalfSample : FloatingSample<Self> {
  using Stored = uint16_t;
  static FDJPEG_INLINE bool is_nan(uint16_t x) {
    return (x & 0x7fff) > infinity;
  }
  static FDJPEG_INLINE Floats load(const uint16_t* source) {
    return Self::widen(fdjpeg::load<HalfShorts>(source));
  }
  template <bool around_caches = false>
  static FDJPEG_INLINE void store(uint16_t* target, Floats x) {
    fdjpeg::store<around_caches>(target, Self::narrow(x));
  }
};

template <>
struct Sample<SampleType::float16> : HalfSample<Sample<SampleType::float16>, 0x7c00> {
  static FDJPEG_INLINE Floats widen(HalfShorts h) {
    return float16_to_float(h);
  }
  static FDJPEG_INLINE HalfShorts narrow(Floats f) {
    return float_to_float16(f);
  }
};

template <>
struct Sample<SampleType::bfloat16> : HalfSample<Sample<SampleType::bfloat16>, 0x7f80> {
  static FDJPEG_INLINE Floats widen(HalfShorts h) {
    return bfloat16_to_float(h);
  }
  static FDJPEG_INLINE HalfShorts narrow(Floats f) {
    return float_to_bfloat16(f);
  }
  // The binary digits of a byte / 255 repeat, so half a unit of the last place, a 1 before zeros, never remains.
  template <bool around_caches>
  static FDJPEG_INLINE void store_bytes(uint16_t* target, Shorts bytes) {
    const Fractions fractions = fractions_of_bytes(bytes);
    const auto nearest = [](Floats x) FDJPEG_LAMBDA_INLINE { return (bit_cast<Ints>(x) + (1 << 15)) >> 16; };
    fdjpeg::store<around_caches>(target, narrow_saturating(nearest(fractions.low), nearest(fractions.high)));
  }
};

// Rare in images, so left to the compiler: one sample at a time.
template <>
struct Sample<SampleType::float64> {
  using Stored = double;
  static FDJPEG_INLINE bool is_nan(double x) {
    return x != x;
  }
  static FDJPEG_INLINE Shorts load_bytes(const double* source, OddSamples& odd) {
    int16_t bytes[kLanes];
    bool above = false;
    for (int i = 0; i < kLanes; ++i) {
      const double t = source[i] * 255.0, bounded = t > 0.0 ? (t < 255.0 ? t : 255.0) : 0.0;  // false for NaN
      bytes[i] = static_cast<int16_t>((bounded + 6755399441055744.0) - 6755399441055744.0);   // 1.5 · 2^52
      above |= !(source[i] <= 1.0);
    }
    odd.note(Floats{}, splat<Floats>(above ? 2 : 0));
    return fdjpeg::load<Shorts>(bytes);
  }
  template <bool around_caches>
  static FDJPEG_INLINE void store_bytes(double* target, Shorts bytes) {
    for (int i = 0; i < kLanes; ++i) target[i] = clamp(static_cast<int>(bytes[i]), 0, kMaxSample) / 255.0;
  }
};

}  // namespace fdjpeg
