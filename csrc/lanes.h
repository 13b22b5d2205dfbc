// Eight int32 lanes of a CPU, as a lane type for jpeg_math.h, and how samples are read into them and written back.
//
// The compiler's vector extensions spell them: one register under AVX2, two under SSE2 or NEON, half of one under
// AVX-512. This file is compiled once for each instruction set (see codec_cpu_rows.h), so every function is inlined.
#pragma once

#include <cstdint>
#include <cstring>

#include "codec.h"
#include "jpeg_math.h"

// Lambdas that hold vectors must become part of their caller: a vector passed by value has no stable calling convention.
#define FDJPEG_LAMBDA_INLINE __attribute__((always_inline))

namespace fdjpeg {

constexpr int kLanes = 8;

typedef int32_t Ints __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(8)));
typedef uint16_t Shorts __attribute__((vector_size(16)));

#if defined(__clang__) || __GNUC__ >= 12
#define FDJPEG_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FDJPEG_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

template <class To, class From>
FDJPEG_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V, class T>
FDJPEG_INLINE V load(const T* source) {
  V v;
  std::memcpy(&v, source, sizeof v);
  return v;
}

template <class V, class T>
FDJPEG_INLINE void store(T* target, V v) {
  std::memcpy(target, &v, sizeof v);
}

template <>
struct Lane<Ints> {
  using Real = Floats;
  static FDJPEG_INLINE Floats to_real(Ints x) {
    return __builtin_convertvector(x, Floats);
  }
  static FDJPEG_INLINE Ints truncate(Floats x) {
    return __builtin_convertvector(x, Ints);
  }
  static FDJPEG_INLINE Floats copy_sign(Floats magnitude, Floats sign) {
    return bit_cast<Floats>((bit_cast<Ints>(sign) & INT32_MIN) | bit_cast<Ints>(magnitude));
  }
};

FDJPEG_INLINE Ints load_bytes(const uint8_t* source) {
  return __builtin_convertvector(load<Bytes>(source), Ints);
}

FDJPEG_INLINE void store_bytes(uint8_t* target, Ints x) {
  store(target, __builtin_convertvector(x, Bytes));
}

// x[i] holds row i; afterwards lane j of x[i] is what lane i of x[j] was.
template <class V>
FDJPEG_INLINE void transpose(V x[8]) {
  V a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = FDJPEG_SHUFFLE(x[2 * i], x[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[2 * i + 1] = FDJPEG_SHUFFLE(x[2 * i], x[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = FDJPEG_SHUFFLE(a[i + j], a[i + 2 + j], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 2 * j + 1] = FDJPEG_SHUFFLE(a[i + j], a[i + 2 + j], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = FDJPEG_SHUFFLE(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = FDJPEG_SHUFFLE(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Half formats, by their bits

FDJPEG_INLINE Floats float16_to_float(Ints h) {
  const Ints magnitude = h & 0x7fff;
  // Shifted into float's fields the exponent lacks 127 - 15; the product restores it, and subnormals come out right.
  const Floats finite = bit_cast<Floats>(magnitude << 13) * 0x1p112f;
  const Ints special = magnitude >= 0x7c00 ? Ints{} + 0x7f800000 : Ints{};  // infinity and NaN keep all ones
  return bit_cast<Floats>(bit_cast<Ints>(finite) | special | ((h & 0x8000) << 16));
}

FDJPEG_INLINE Ints float_to_float16(Floats f) {
  const Ints bits = bit_cast<Ints>(f), magnitude = bits & 0x7fffffff;
  const Ints even = (magnitude >> 13) & 1;
  const Ints normal = (magnitude - (112 << 23) + 0xfff + even) >> 13;
  // Next to 0.5 a float's last fraction bit weighs as much as float16's smallest subnormal: the sum rounds to it.
  const Ints subnormal = bit_cast<Ints>(bit_cast<Floats>(magnitude) + 0.5f) - (126 << 23);
  const Ints special = magnitude > 0x7f800000 ? Ints{} + 0x7e00 : Ints{} + 0x7c00;
  Ints h = magnitude < (113 << 23) ? subnormal : normal;
  h = magnitude >= (143 << 23) ? special : h;
  return h | ((bits >> 16) & 0x8000);
}

FDJPEG_INLINE Floats bfloat16_to_float(Ints h) {
  return bit_cast<Floats>(h << 16);
}

FDJPEG_INLINE Ints float_to_bfloat16(Floats f) {
  const Ints bits = bit_cast<Ints>(f);
  const Ints rounded = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) & 0xffff;
  return (bits & 0x7fffffff) > 0x7f800000 ? Ints{} + 0x7fc0 : rounded;
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples
//
// Sample<type>::load_byte    rint(255 x), half to even, saturating, NaN as 0; sets the lanes of `odd` where x is NaN or
//                            above 1, which backward and the caller's warning look into
// Sample<type>::store_byte   byte / 255, correctly rounded, then rounded to the type
// Sample<type>::load, store  the value itself, for gradients

FDJPEG_INLINE Ints byte_of_real(Floats x) {
  Floats t = x * 255.0f;
  t = t > 0.0f ? t : Floats{};  // false for NaN
  t = t < 255.0f ? t : Floats{} + 255.0f;
  return bit_cast<Ints>(t + 12582912.0f) & 0xff;  // 1.5 · 2^23: the sum's last bit weighs 1
}

FDJPEG_INLINE Ints byte_of_real(Doubles x) {
  Doubles t = x * 255.0;
  t = t > 0.0 ? t : Doubles{};
  t = t < 255.0 ? t : Doubles{} + 255.0;
  return __builtin_convertvector(bit_cast<Longs>(t + 6755399441055744.0) & 0xff, Ints);  // 1.5 · 2^52
}

template <SampleType>
struct Sample;

// What every floating type shares, given load() and store().
template <class Self, class RealLanes>
struct FloatingSample {
  using Reals = RealLanes;
  template <class T>
  static FDJPEG_INLINE Ints load_byte(const T* source, Ints& odd) {
    const Reals x = Self::load(source);
    odd |= __builtin_convertvector(~(x <= 1), Ints);
    return byte_of_real(x);
  }
  template <class T>
  static FDJPEG_INLINE void store_byte(T* target, Ints byte) {
    Self::store(target, __builtin_convertvector(byte, Reals) / 255);
  }
};

template <>
struct Sample<SampleType::uint8> {
  using Stored = uint8_t;
  using Reals = Floats;
  static FDJPEG_INLINE Ints load_byte(const uint8_t* source, Ints&) {
    return load_bytes(source);
  }
  static FDJPEG_INLINE void store_byte(uint8_t* target, Ints byte) {
    store_bytes(target, byte);
  }
};

template <>
struct Sample<SampleType::float32> : FloatingSample<Sample<SampleType::float32>, Floats> {
  using Stored = float;
  static FDJPEG_INLINE Floats load(const float* source) {
    return fdjpeg::load<Floats>(source);
  }
  static FDJPEG_INLINE void store(float* target, Floats x) {
    fdjpeg::store(target, x);
  }
};

template <>
struct Sample<SampleType::float64> : FloatingSample<Sample<SampleType::float64>, Doubles> {
  using Stored = double;
  static FDJPEG_INLINE Doubles load(const double* source) {
    return fdjpeg::load<Doubles>(source);
  }
  static FDJPEG_INLINE void store(double* target, Doubles x) {
    fdjpeg::store(target, x);
  }
};

template <>
struct Sample<SampleType::float16> : FloatingSample<Sample<SampleType::float16>, Floats> {
  using Stored = uint16_t;
  static FDJPEG_INLINE Floats load(const uint16_t* source) {
    return float16_to_float(__builtin_convertvector(fdjpeg::load<Shorts>(source), Ints));
  }
  static FDJPEG_INLINE void store(uint16_t* target, Floats x) {
    fdjpeg::store(target, __builtin_convertvector(float_to_float16(x), Shorts));
  }
};

template <>
struct Sample<SampleType::bfloat16> : FloatingSample<Sample<SampleType::bfloat16>, Floats> {
  using Stored = uint16_t;
  static FDJPEG_INLINE Floats load(const uint16_t* source) {
    return bfloat16_to_float(__builtin_convertvector(fdjpeg::load<Shorts>(source), Ints));
  }
  static FDJPEG_INLINE void store(uint16_t* target, Floats x) {
    fdjpeg::store(target, __builtin_convertvector(float_to_bfloat16(x), Shorts));
  }
};

}  // namespace fdjpeg
