// The lanes of a CPU as lane types for exact_math.h.
//
//   Shorts   a register of int16, the lanes of encode and of the round trip: each 128 bits hold a row of eight samples
//            of a block, so a register handles 1, 2 or 4 blocks side by side
//   Eights   eight int32, a row of one block: where coefficients may be hostile, their sums must wrap in 32 bits
//
// This file is compiled once for each instruction set (see exact_table.h), which gives the width of a register by
// FDJPEG_VECTOR_BYTES: 16 means any processor, spelt in the compiler's vector extensions alone; 32 means AVX2 and 64
// AVX-512, whose intrinsics have the same names but for a prefix. Every function is inlined.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"

#if FDJPEG_VECTOR_BYTES == 64
#include <immintrin.h>
#define FDJPEG_X86(name) _mm512_##name
#define FDJPEG_X86_INT(x) reinterpret_cast<__m512i>(x)
#define FDJPEG_X86_FLOAT(x) reinterpret_cast<__m512>(x)
#elif FDJPEG_VECTOR_BYTES == 32
#include <immintrin.h>
#define FDJPEG_X86(name) _mm256_##name
#define FDJPEG_X86_INT(x) reinterpret_cast<__m256i>(x)
#define FDJPEG_X86_FLOAT(x) reinterpret_cast<__m256>(x)
#elif FDJPEG_VECTOR_BYTES != 16
#error "FDJPEG_VECTOR_BYTES must be 16, 32 or 64"
#endif

// Lambdas that hold vectors must become part of their caller: a vector passed by value has no stable calling
// convention.
#define FDJPEG_LAMBDA_INLINE __attribute__((always_inline))

namespace fdjpeg {

constexpr int kLanes = FDJPEG_VECTOR_BYTES / 2;  // 16-bit lanes of a register
constexpr int kHalf = kLanes / 2;                // 32-bit lanes of a register
constexpr int kBlocks = kLanes / kBlock;         // blocks side by side in a register

typedef int16_t Shorts __attribute__((vector_size(FDJPEG_VECTOR_BYTES)));
typedef uint16_t UShorts __attribute__((vector_size(FDJPEG_VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(FDJPEG_VECTOR_BYTES)));
typedef float Floats __attribute__((vector_size(FDJPEG_VECTOR_BYTES)));
typedef uint8_t Bytes __attribute__((vector_size(FDJPEG_VECTOR_BYTES / 2)));        // one for each 16-bit lane
typedef uint16_t HalfShorts __attribute__((vector_size(FDJPEG_VECTOR_BYTES / 2)));  // one for each 32-bit lane

typedef int32_t Eights __attribute__((vector_size(32)));
typedef float EightFloats __attribute__((vector_size(32)));
typedef int16_t EightShorts __attribute__((vector_size(16)));
typedef uint8_t EightBytes __attribute__((vector_size(8)));

// As many real numbers as there are 32-bit lanes.
template <class R>
struct LanesOf {
  typedef R Vector __attribute__((vector_size(kHalf * sizeof(R))));
  using Bits = std::conditional_t<sizeof(R) == sizeof(int32_t), int32_t, int64_t>;
  typedef Bits BitVector __attribute__((vector_size(kHalf * sizeof(R))));
};

template <class R>
using RealLanes = typename LanesOf<R>::Vector;

#if defined(__clang__) || __GNUC__ >= 12
#define FDJPEG_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#error "fdjpeg's CPU kernels need clang or GCC 12 or newer"
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

// Stores a register; `around_caches`, on a processor that can, straight to memory, where it must be aligned.
template <bool around_caches = false, class V, class T>
FDJPEG_INLINE void store(T* target, V v) {
#if FDJPEG_VECTOR_BYTES > 16
  if constexpr (around_caches && sizeof v == 32) {
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(target), bit_cast<__m256i>(v));
  } else if constexpr (around_caches && sizeof v == 16) {
    return _mm_stream_si128(reinterpret_cast<__m128i*>(target), bit_cast<__m128i>(v));
  }
#endif
#if FDJPEG_VECTOR_BYTES == 64
  if constexpr (around_caches && sizeof v == 64) {
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(target), bit_cast<__m512i>(v));
  }
#endif
  std::memcpy(target, &v, sizeof v);
}

// Other threads see what was stored around the caches before this, once they see anything stored after it.
FDJPEG_INLINE void finish_stores_around_caches() {
#if FDJPEG_VECTOR_BYTES > 16
  _mm_sfence();
#endif
}

template <class V>
FDJPEG_INLINE V splat(double x) {
  return V{} + static_cast<std::remove_reference_t<decltype(V{}[0])>>(x);
}

// ---------------------------------------------------------------------------------------------------------------------
// What a processor does in an instruction of its own
//
//   interleave_low<bits>, interleave_high<bits>   the elements of the lower or upper half of each 128 bits, in turns
//   shuffle_bytes                                 the bytes at given places of the same 128 bits
//   weigh_bytes                                   sums of two neighbouring bytes, each times a signed byte
//   multiply_high_unsigned                        the upper 16 bits of each product
//   multiply_rounded                              (a b + 2^14) >> 15
//   magnitude, with_sign_of                       |x|; x where `sign` is positive, -x where negative (0 may be either)
//   pack_bytes_saturating                         a byte of each 16-bit lane, forced into 0 … 255
//   pack_rows, pack_rows_signed                   the same of two registers, to a row of each in each 128 bits; forced
//                                                 into 0 … 255, or into -128 … 127
//   even_in_turns, odd_in_turns                   the lanes of two registers at even, or odd places, in turns
//   adjacent_sums                                 of each two neighbours in two registers
//   load_bytes                                    as many bytes, as 16-bit lanes
//   repeat                                        a row of eight for each of the blocks
//   narrow_saturating                             two registers of 32-bit lanes up to 65535 to 16-bit ones, negative
//                                                 ones as 0
//   widen                                         16-bit lanes to two registers of 32-bit ones; not for AVX-512
//   rounded                                       to the nearest integer, half to even; some negative number for NaN
//   smaller_or_second                             the smaller of both; the second where one is NaN

// 32-bit sums, one for each 16-bit lane: in whatever order interleaving leaves them.
struct WideSums {
  Ints low, high;
};

FDJPEG_INLINE WideSums operator+(WideSums a, WideSums b) {
  return {a.low + b.low, a.high + b.high};
}

FDJPEG_INLINE WideSums operator-(WideSums a, WideSums b) {
  return {a.low - b.low, a.high - b.high};
}

#if FDJPEG_VECTOR_BYTES > 16

#define FDJPEG_INTERLEAVE(name, intrinsic)                                                        \
  FDJPEG_INLINE Shorts name(Shorts a, Shorts b) {                                                 \
    return reinterpret_cast<Shorts>(FDJPEG_X86(intrinsic)(FDJPEG_X86_INT(a), FDJPEG_X86_INT(b))); \
  }
FDJPEG_INTERLEAVE(interleave_low16, unpacklo_epi16)
FDJPEG_INTERLEAVE(interleave_high16, unpackhi_epi16)
FDJPEG_INTERLEAVE(interleave_low32, unpacklo_epi32)
FDJPEG_INTERLEAVE(interleave_high32, unpackhi_epi32)
FDJPEG_INTERLEAVE(interleave_low64, unpacklo_epi64)
FDJPEG_INTERLEAVE(interleave_high64, unpackhi_epi64)
FDJPEG_INTERLEAVE(interleave_low8, unpacklo_epi8)
FDJPEG_INTERLEAVE(interleave_high8, unpackhi_epi8)
FDJPEG_INTERLEAVE(multiply_high_unsigned, mulhi_epu16)
FDJPEG_INTERLEAVE(multiply_rounded, mulhrs_epi16)
FDJPEG_INTERLEAVE(pack_rows, packus_epi16)
FDJPEG_INTERLEAVE(pack_rows_signed, packs_epi16)
FDJPEG_INTERLEAVE(shuffle_bytes, shuffle_epi8)
FDJPEG_INTERLEAVE(weigh_bytes, maddubs_epi16)

FDJPEG_INLINE Shorts magnitude(Shorts x) {
  return reinterpret_cast<Shorts>(FDJPEG_X86(abs_epi16)(FDJPEG_X86_INT(x)));
}

FDJPEG_INLINE Ints rounded(Floats x) {
  return reinterpret_cast<Ints>(FDJPEG_X86(cvtps_epi32)(FDJPEG_X86_FLOAT(x)));
}

FDJPEG_INLINE Floats smaller_or_second(Floats a, Floats b) {
  return reinterpret_cast<Floats>(FDJPEG_X86(min_ps)(FDJPEG_X86_FLOAT(a), FDJPEG_X86_FLOAT(b)));
}

template <int c1, int c2>
FDJPEG_INLINE Shorts alternating() {
  static_assert(c1 == static_cast<int16_t>(c1) && c2 == static_cast<int16_t>(c2));
  return reinterpret_cast<Shorts>(
      Ints{} + static_cast<int32_t>(static_cast<uint16_t>(c1) | static_cast<uint32_t>(c2) << 16));
}

#endif

#if FDJPEG_VECTOR_BYTES == 64

FDJPEG_INLINE Shorts even_in_turns(Shorts a, Shorts b) {
  const __m512i shifted = _mm512_slli_epi32(FDJPEG_X86_INT(b), 16);
  return reinterpret_cast<Shorts>(_mm512_mask_blend_epi16(0xaaaaaaaa, FDJPEG_X86_INT(a), shifted));
}

FDJPEG_INLINE Shorts odd_in_turns(Shorts a, Shorts b) {
  const __m512i shifted = _mm512_srli_epi32(FDJPEG_X86_INT(a), 16);
  return reinterpret_cast<Shorts>(_mm512_mask_blend_epi16(0xaaaaaaaa, shifted, FDJPEG_X86_INT(b)));
}

FDJPEG_INLINE Shorts with_sign_of(Shorts x, Shorts sign) {
  const __m512i v = FDJPEG_X86_INT(x);
  return reinterpret_cast<Shorts>(
      _mm512_mask_sub_epi16(v, _mm512_movepi16_mask(FDJPEG_X86_INT(sign)), _mm512_setzero_si512(), v));
}

FDJPEG_INLINE Shorts load_bytes(const uint8_t* source) {
  return reinterpret_cast<Shorts>(_mm512_cvtepu8_epi16(load<__m256i>(source)));
}

FDJPEG_INLINE Bytes pack_bytes_saturating(Shorts x) {
  return reinterpret_cast<Bytes>(_mm512_cvtusepi16_epi8(_mm512_max_epi16(FDJPEG_X86_INT(x), _mm512_setzero_si512())));
}

FDJPEG_INLINE Shorts narrow_saturating(Ints low, Ints high) {
  const __m512i in_turns = _mm512_packus_epi32(FDJPEG_X86_INT(low), FDJPEG_X86_INT(high));
  return reinterpret_cast<Shorts>(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), in_turns));
}

FDJPEG_INLINE Shorts repeat(EightShorts x) {
  return reinterpret_cast<Shorts>(_mm512_broadcast_i32x4(reinterpret_cast<__m128i>(x)));
}

FDJPEG_INLINE Ints multiply_add(Shorts a, Shorts b, Ints sum) {
  return reinterpret_cast<Ints>(_mm512_dpwssd_epi32(FDJPEG_X86_INT(sum), FDJPEG_X86_INT(a), FDJPEG_X86_INT(b)));
}

#elif FDJPEG_VECTOR_BYTES == 32

FDJPEG_INLINE Shorts even_in_turns(Shorts a, Shorts b) {
  return reinterpret_cast<Shorts>(
      _mm256_blend_epi16(FDJPEG_X86_INT(a), _mm256_slli_epi32(FDJPEG_X86_INT(b), 16), 0xaa));
}

FDJPEG_INLINE Shorts odd_in_turns(Shorts a, Shorts b) {
  return reinterpret_cast<Shorts>(
      _mm256_blend_epi16(_mm256_srli_epi32(FDJPEG_X86_INT(a), 16), FDJPEG_X86_INT(b), 0xaa));
}

FDJPEG_INLINE Shorts with_sign_of(Shorts x, Shorts sign) {
  return reinterpret_cast<Shorts>(_mm256_sign_epi16(FDJPEG_X86_INT(x), FDJPEG_X86_INT(sign)));
}

FDJPEG_INLINE Shorts load_bytes(const uint8_t* source) {
  return reinterpret_cast<Shorts>(_mm256_cvtepu8_epi16(load<__m128i>(source)));
}

FDJPEG_INLINE Bytes pack_bytes_saturating(Shorts x) {
  const __m256i v = FDJPEG_X86_INT(x);
  return reinterpret_cast<Bytes>(_mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

FDJPEG_INLINE Shorts narrow_saturating(Ints low, Ints high) {
  return reinterpret_cast<Shorts>(
      _mm256_permute4x64_epi64(_mm256_packus_epi32(FDJPEG_X86_INT(low), FDJPEG_X86_INT(high)), 0xd8));
}

FDJPEG_INLINE WideSums widen(Shorts x) {
  const __m256i v = FDJPEG_X86_INT(x);
  return {
      reinterpret_cast<Ints>(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(v))),
      reinterpret_cast<Ints>(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(v, 1)))};
}

FDJPEG_INLINE Shorts repeat(EightShorts x) {
  return reinterpret_cast<Shorts>(_mm256_broadcastsi128_si256(reinterpret_cast<__m128i>(x)));
}

FDJPEG_INLINE Ints multiply_add(Shorts a, Shorts b, Ints sum) {
  return sum + reinterpret_cast<Ints>(_mm256_madd_epi16(FDJPEG_X86_INT(a), FDJPEG_X86_INT(b)));
}

#else

FDJPEG_INLINE Shorts interleave_low16(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
FDJPEG_INLINE Shorts interleave_high16(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
FDJPEG_INLINE Shorts interleave_low32(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 0, 1, 8, 9, 2, 3, 10, 11);
}
FDJPEG_INLINE Shorts interleave_high32(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 4, 5, 12, 13, 6, 7, 14, 15);
}
FDJPEG_INLINE Shorts interleave_low64(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}
FDJPEG_INLINE Shorts interleave_high64(Shorts a, Shorts b) {
  return FDJPEG_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

FDJPEG_INLINE Shorts load_bytes(const uint8_t* source) {
  return __builtin_convertvector(load<Bytes>(source), Shorts);
}

FDJPEG_INLINE Shorts pack_rows(Shorts a, Shorts b) {
  typedef uint8_t Sixteen __attribute__((vector_size(16)));
  return reinterpret_cast<Shorts>(FDJPEG_SHUFFLE(
      reinterpret_cast<Sixteen>(a), reinterpret_cast<Sixteen>(b), 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
      30));
}

FDJPEG_INLINE Shorts multiply_rounded(Shorts a, Shorts b) {
  const Eights product = __builtin_convertvector(a, Eights) * __builtin_convertvector(b, Eights);
  return __builtin_convertvector((product + (1 << 14)) >> 15, Shorts);
}

FDJPEG_INLINE Shorts multiply_high_unsigned(Shorts a, Shorts b) {
  typedef uint32_t Unsigned __attribute__((vector_size(32)));
  const Unsigned product = __builtin_convertvector(reinterpret_cast<UShorts>(a), Unsigned) *
      __builtin_convertvector(reinterpret_cast<UShorts>(b), Unsigned);
  return __builtin_convertvector(product >> 16, Shorts);
}

FDJPEG_INLINE Shorts with_sign_of(Shorts x, Shorts sign) {
  const Shorts negative = sign >> 15;
  return (x ^ negative) - negative;
}

FDJPEG_INLINE Shorts magnitude(Shorts x) {
  return with_sign_of(x, x);
}

FDJPEG_INLINE Bytes pack_bytes_saturating(Shorts x) {
  return __builtin_convertvector(clamp(x, 0, kMaxSample), Bytes);
}

FDJPEG_INLINE Shorts narrow_saturating(Ints low, Ints high) {
  low = larger(low, Ints{});
  high = larger(high, Ints{});
  return reinterpret_cast<Shorts>(FDJPEG_SHUFFLE(
      __builtin_convertvector(low, HalfShorts), __builtin_convertvector(high, HalfShorts), 0, 1, 2, 3, 4, 5, 6, 7));
}

FDJPEG_INLINE WideSums widen(Shorts x) {
  typedef int16_t Four __attribute__((vector_size(8)));
  return {
      __builtin_convertvector(load<Four>(&x), Ints),
      __builtin_convertvector(load<Four>(reinterpret_cast<const char*>(&x) + sizeof(Four)), Ints)};
}

FDJPEG_INLINE Shorts repeat(EightShorts x) {
  return x;
}

FDJPEG_INLINE Ints rounded(Floats x) {
  // 1.5 · 2^23: the sum's last bit weighs 1. What is too small, or NaN, need only stay negative.
  const Floats bounded = x > -1.0f ? x : splat<Floats>(-1);
  return bit_cast<Ints>(bounded + 12582912.0f) - bit_cast<Ints>(splat<Floats>(12582912.0));
}

FDJPEG_INLINE Floats smaller_or_second(Floats a, Floats b) {
  return a < b ? a : b;
}

#endif

#if FDJPEG_VECTOR_BYTES > 16
// A register that has these bytes in each 128 bits.
FDJPEG_INLINE Shorts sixteen_bytes(const int8_t (&bytes)[16]) {
  return repeat(load<EightShorts>(bytes));
}
#endif

// byte / 255 of each lane, forced into 0 … 255, correctly rounded.
//
// Repeated three times, a byte b is the number v = 65793 b, exact in a float, and b / 255 = v / (2^24 - 1). That lies
// above v / 2^24 by v / (2^25 - 2^k) > 1/2 units of the last place of a number from 2^k on, and by less than one; so it
// rounds to the float after v / 2^24, except for 0.
struct Fractions {
  Floats low, high;
};

FDJPEG_INLINE Fractions fractions_of_bytes(Shorts x) {
#if FDJPEG_VECTOR_BYTES > 16
  // Fours of bytes as 32-bit lanes: of each 128 bits of a result, one for `low` and one for `high`.
  const Ints bytes = reinterpret_cast<Ints>(FDJPEG_X86(packus_epi16)(FDJPEG_X86_INT(x), FDJPEG_X86_INT(x)));
#if FDJPEG_VECTOR_BYTES == 64
  const Ints fours = FDJPEG_SHUFFLE(bytes, bytes, 0, 8, 0, 8, 1, 9, 1, 9, 4, 12, 4, 12, 5, 13, 5, 13);
#else
  const Ints fours = FDJPEG_SHUFFLE(bytes, bytes, 0, 4, 0, 4, 1, 5, 1, 5);
#endif
  const auto fractions = [&](Ints places) FDJPEG_LAMBDA_INLINE {
    const auto repeated = FDJPEG_X86(shuffle_epi8)(FDJPEG_X86_INT(fours), FDJPEG_X86_INT(places));
#if FDJPEG_VECTOR_BYTES == 64
    // A fourth time: what a float cannot hold is b itself, so rounding up goes to the next float.
    return reinterpret_cast<Floats>(_mm512_cvt_roundepu32_ps(repeated, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)) *
        0x1p-32f;
#else
    const Floats v = reinterpret_cast<Floats>(_mm256_cvtepi32_ps(repeated));
    return reinterpret_cast<Floats>(
        _mm256_fmadd_ps(FDJPEG_X86_FLOAT(v), _mm256_set1_ps(0x1p-24f), FDJPEG_X86_FLOAT(v * 0x1p-48f)));
#endif
  };
  constexpr int kRepeat = FDJPEG_VECTOR_BYTES == 64 ? 0x01010101 : 0x00010101;
  constexpr int kNone = FDJPEG_VECTOR_BYTES == 64 ? 0 : INT32_MIN;  // a place of -128 is a byte of 0
  Ints places{};
  for (int i = 0; i < kHalf; ++i) places[i] = i % 4 * kRepeat + kNone;
  return {fractions(places), fractions(places + 4 * kRepeat)};
#else
  const WideSums wide = widen(clamp(x, 0, kMaxSample));
  return {__builtin_convertvector(wide.low, Floats) / 255, __builtin_convertvector(wide.high, Floats) / 255};
#endif
}

FDJPEG_INLINE Shorts adjacent_sums(Shorts a, Shorts b) {
#if FDJPEG_VECTOR_BYTES > 16
  const Shorts ones = alternating<1, 1>();
  const auto sums = [&](Shorts x) FDJPEG_LAMBDA_INLINE {
    return reinterpret_cast<Ints>(FDJPEG_X86(madd_epi16)(FDJPEG_X86_INT(x), FDJPEG_X86_INT(ones)));
  };
  return narrow_saturating(sums(a), sums(b));
#else
  return FDJPEG_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + FDJPEG_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#endif
}

// Which 32-bit lanes are meant, for the lower and the upper half of the 16-bit lanes.
#if FDJPEG_VECTOR_BYTES == 64
using LaneMask = __mmask16;
#else
using LaneMask = Ints;
#endif
struct LaneMasks {
  LaneMask low, high;
};

// Where a sample before the clamp is a byte.
FDJPEG_INLINE LaneMasks are_bytes(Shorts x) {
#if FDJPEG_VECTOR_BYTES == 64
  const __mmask32 all = _mm512_testn_epi16_mask(FDJPEG_X86_INT(x), _mm512_set1_epi16(~kMaxSample));
  return {static_cast<__mmask16>(all), static_cast<__mmask16>(all >> 16)};
#else
  const WideSums all = widen((x & ~kMaxSample) == 0);
  return {all.low, all.high};
#endif
}

// x in the lanes that are meant, and 0 in the others.
template <class V>
FDJPEG_INLINE V where(LaneMask mask, V x) {
  using R = std::remove_reference_t<decltype(V{}[0])>;
  using Bits = typename LanesOf<R>::BitVector;
#if FDJPEG_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<R, float>) return reinterpret_cast<V>(_mm512_maskz_mov_ps(mask, FDJPEG_X86_FLOAT(x)));
  const Ints chosen = reinterpret_cast<Ints>(_mm512_movm_epi32(mask));
#else
  const Ints chosen = mask;
#endif
  return bit_cast<V>(bit_cast<Bits>(x) & __builtin_convertvector(chosen, Bits));
}

// The lanes of two registers at even, and at odd places.
template <class V>
FDJPEG_INLINE V even_lanes(V a, V b) {
#if FDJPEG_VECTOR_BYTES == 64
  return FDJPEG_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif FDJPEG_VECTOR_BYTES == 32
  return FDJPEG_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return FDJPEG_SHUFFLE(a, b, 0, 2, 4, 6);
#endif
}

template <class V>
FDJPEG_INLINE V odd_lanes(V a, V b) {
#if FDJPEG_VECTOR_BYTES == 64
  return FDJPEG_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif FDJPEG_VECTOR_BYTES == 32
  return FDJPEG_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  return FDJPEG_SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Lane types

template <>
struct Lane<Shorts> {
  static FDJPEG_INLINE Shorts all(int x) {
    return Shorts{} + static_cast<int16_t>(x);
  }
#if FDJPEG_VECTOR_BYTES > 16
  // The sums of a transform have 16 fraction bits, so that narrowing them takes their upper halves.
  static constexpr int kInputBits = 4, kConstantBits = 1;
  using Wide = WideSums;
  // The even lanes' pairs and those of the odd lanes, so that narrow() puts sums in their places.
  static FDJPEG_INLINE Pair<Shorts> pair(Shorts a, Shorts b) {
    return {even_in_turns(a, b), odd_in_turns(a, b)};
  }
  // Where a sum has more fraction bits than 16, narrow() itself rounds.
  template <int bits>
  static FDJPEG_INLINE Wide half() {
    return constant(bits > 16 ? 0 : 1 << (bits - 1));
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<Shorts> p) {
    const Shorts c = alternating<c1, c2>();
    return {
        reinterpret_cast<Ints>(FDJPEG_X86(madd_epi16)(FDJPEG_X86_INT(p.first), FDJPEG_X86_INT(c))),
        reinterpret_cast<Ints>(FDJPEG_X86(madd_epi16)(FDJPEG_X86_INT(p.second), FDJPEG_X86_INT(c)))};
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<Shorts> p, Wide sum) {
    const Shorts c = alternating<c1, c2>();
    return {multiply_add(p.first, c, sum.low), multiply_add(p.second, c, sum.high)};
  }
  template <int sign, int bits>
  static FDJPEG_INLINE Shorts scaled_sum(Pair<Shorts> p) {
    return narrow<16>(dot<1 << (16 - bits), sign * (1 << (16 - bits))>(p, half<16>()));
  }
  template <int bits>
  static FDJPEG_INLINE Shorts narrow(Wide sum) {
    static_assert(bits >= 16 && bits < 31);
    const Shorts upper = odd_in_turns(reinterpret_cast<Shorts>(sum.low), reinterpret_cast<Shorts>(sum.high));
    if constexpr (bits == 16) {
      return upper;
    } else {
      return multiply_rounded(upper, all(1 << (31 - bits)));
    }
  }
  static FDJPEG_INLINE Wide constant(int x) {
    return {Ints{} + x, Ints{} + x};
  }
#else
  static constexpr int kInputBits = 0, kConstantBits = 0;
  using Wide = Eights;
  static FDJPEG_INLINE Pair<Shorts> pair(Shorts a, Shorts b) {
    return {a, b};
  }
  template <int bits>
  static FDJPEG_INLINE Wide half() {
    return constant(1 << (bits - 1));
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<Shorts> p) {
    return __builtin_convertvector(p.first, Eights) * c1 + __builtin_convertvector(p.second, Eights) * c2;
  }
  template <int c1, int c2>
  static FDJPEG_INLINE Wide dot(Pair<Shorts> p, Wide sum) {
    return sum + dot<c1, c2>(p);
  }
  template <int sign, int bits>
  static FDJPEG_INLINE Shorts scaled_sum(Pair<Shorts> p) {
    return PlainLane<Shorts>::scaled_sum<sign, bits>(p);
  }
  template <int bits>
  static FDJPEG_INLINE Shorts narrow(Wide sum) {
    return __builtin_convertvector(sum >> bits, Shorts);
  }
  static FDJPEG_INLINE Wide constant(int x) {
    return Eights{} + x;
  }
#endif

  template <int c1, int c2, int c3, int bias>
  static FDJPEG_INLINE Shorts weigh(Shorts a, Shorts b, Shorts c) {
    constexpr int kLargest = 32767;
    // 2^15 is no int16 but -2^15 is: floor(s / 2^16) = -floor((65535 - s) / 2^16).
    constexpr bool kNegated = c1 > kLargest || c3 > kLargest;
    constexpr int kSign = kNegated ? -1 : 1, kBias = kNegated ? 65535 - bias : bias;
    // What 2^16 divides comes out of the sum: of the bias, and of a b whose constant is too large. The rest of the bias
    // is a product too, which spares additions.
    constexpr int kWholeBias = kBias >> 16, kRestBias = kBias & 65535, kWhole = kSign * c2 > kLargest ? 1 : 0;
    static_assert(kRestBias % 2 == 0);
    const Wide sum =
        dot<kSign * c3, kRestBias / 2>(pair(c, all(2)), dot<kSign * c1, kSign * c2 - kWhole * 65536>(pair(a, b)));
    Shorts weighed = narrow<16>(sum);
    if constexpr (kWhole != 0) weighed += b;
    if constexpr (kNegated) return all(-kWholeBias) - weighed;
    return weighed + static_cast<int16_t>(kWholeBias);
  }

  // (2 a round(c / 4) + 2^14) >> 15 is (a c + 2^15) >> 16 for the constants of colour and all samples.
  static constexpr bool scales_exactly(int c) {
    for (int a = -kLevelShift; a <= kMaxSample - kLevelShift; ++a) {
      if ((2 * a * ((c + 2) >> 2) + (1 << 14)) >> 15 != (a * c + (1 << 15)) >> 16) return false;
    }
    return true;
  }
  template <int c>
  static FDJPEG_INLINE Shorts scale(Shorts a) {
    static_assert(scales_exactly(c));
    return multiply_rounded(a + a, all((c + 2) >> 2));
  }
  // Half of each constant is an int16 that loses nothing, and the samples take the factor.
  template <int c1, int c2>
  static FDJPEG_INLINE Shorts scale(Shorts a, Shorts b) {
    static_assert(c1 % 2 == 0 && c2 % 2 == 0);
    return narrow<16>(dot<c1 / 2, c2 / 2>(pair(a + a, b + b), constant(1 << 15)));
  }
};

template <>
struct Lane<Eights> : PlainLane<Eights> {};

// x[i] holds row i of each block; afterwards lane j of x[i] is what lane i of x[j] was.
FDJPEG_INLINE void transpose(Shorts x[8]) {
  Shorts a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = interleave_low16(x[i], x[i + 1]);
    a[i + 1] = interleave_high16(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = interleave_low32(a[i + j], a[i + 2 + j]);
      b[i + 2 * j + 1] = interleave_high32(a[i + j], a[i + 2 + j]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = interleave_low64(b[i], b[i + 4]);
    x[2 * i + 1] = interleave_high64(b[i], b[i + 4]);
  }
}

// The same for one block, of int32 or float.
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

}  // namespace fdjpeg
