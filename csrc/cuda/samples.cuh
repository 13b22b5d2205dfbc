// The parts that all kernels share: sizes as a thread computes with them, and the samples of images in memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"
#include "cuda/processor.cuh"
#include "cuda/tuning.h"

namespace fdjpeg {

#if defined(__CUDACC__)
#define FDJPEG_DEVICE __device__ __forceinline__
#else
#define FDJPEG_DEVICE FDJPEG_INLINE
#endif

// Before a loop over numbers in registers, as their indices must be known to the compiler; and before one whose body
// is large.
#if defined(__CUDA_ARCH__)
#define FDJPEG_UNROLL _Pragma("unroll")
#define FDJPEG_ROLLED _Pragma("unroll 1")
#else
#define FDJPEG_UNROLL
#define FDJPEG_ROLLED
#endif

constexpr int kWarp = 32;
constexpr int kBanks = 32;  // of shared memory, a word of four bytes each

// Resources of every architecture from sm_75 on: registers of a multiprocessor, of which a thread takes a multiple of
// eight; bytes of shared memory that a block may declare. And what the target, sm_90, has of it for all blocks.
constexpr int kProcessorRegisters = 65536;
constexpr size_t kBlockShared = 48 * 1024, kProcessorShared = 227 * 1024;

// The registers that a thread may use where a multiprocessor is to hold so many blocks of so many threads.
constexpr int registers_left(int threads, int blocks) {
  return kProcessorRegisters / (threads * blocks) / 8 * 8;
}

// Whether the lanes of a warp, each of which accesses `words` neighbouring words from word_of(lane) on, use each bank
// once in a turn: shared memory serves as many lanes at once as there are banks for their words.
template <int words, class WordOf>
constexpr bool spreads_over_banks(WordOf word_of) {
  for (int first = 0; first < kWarp; first += kWarp / words) {
    bool used[kBanks] = {};
    for (int lane = first; lane < first + kWarp / words; ++lane) {
      for (int i = 0; i < words; ++i) {
        bool& bank = used[(word_of(lane) + i) % kBanks];
        if (bank) return false;
        bank = true;
      }
    }
  }
  return true;
}

// n / divisor for 0 <= n < 2^31 by one multiplication (Granlund and Montgomery, PLDI 1994): with 2^(s-1) < divisor <=
// 2^s the multiplier ceil(2^(31+s) / divisor) fits 32 bits, and its error stays under 1 / divisor.
struct Divider {
  unsigned divisor;
  unsigned multiplier;
  int shift;

  static Divider by(int64_t divisor) {
    int s = 0;
    while ((int64_t{1} << s) < divisor) ++s;
    const uint64_t power = uint64_t{1} << (31 + s);
    return {static_cast<unsigned>(divisor), static_cast<unsigned>((power + divisor - 1) / divisor), 31 + s};
  }

  FDJPEG_INLINE int quotient(int n) const {
    return static_cast<int>((static_cast<uint64_t>(static_cast<unsigned>(n)) * multiplier) >> shift);
  }
  FDJPEG_INLINE int remainder(int n, int quotient) const {
    return n - quotient * static_cast<int>(divisor);
  }
};

// The sizes of a Geometry, in the ints that a thread computes with.
struct Sizes {
  int height, width;
  int chroma_height, chroma_width;
  int luma_rows, luma_columns;      // blocks
  int chroma_rows, chroma_columns;  // blocks
  int mcu_rows, mcu_columns;
  unsigned cb_offset, cr_offset, flag_offset;  // the planes of one image stay below 2^32 bytes
  int64_t plane_bytes;

  static Sizes of(const Geometry& g) {
    const auto narrow = [](int64_t size) { return static_cast<int>(size); };
    const auto offset = [](int64_t bytes) { return static_cast<unsigned>(bytes); };
    return {narrow(g.height),      narrow(g.width),        narrow(g.chroma_height), narrow(g.chroma_width),
            narrow(g.luma_rows),   narrow(g.luma_columns), narrow(g.chroma_rows),   narrow(g.chroma_columns),
            narrow(g.mcu_rows),    narrow(g.mcu_columns),  offset(g.cb_offset),     offset(g.cr_offset),
            offset(g.flag_offset), g.plane_bytes};
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Samples in memory

struct alignas(16) Word16 {
  unsigned x, y, z, w;
};

template <SampleType type>
struct Sample;

// Bits of floats, read as an unsigned number, that are greater than these belong to a float above 1, below 0 or NaN.
constexpr unsigned kOrderOfOne = 0x3f800000u;

// 1.5 · 2^23, and how its bits read: a float of this size has no fraction bits, so adding it rounds to an integer, half
// to even, which is then in the low bits.
constexpr float kRounder = 12582912.0f;
constexpr unsigned kRounderBits = 0x4b400000u;

// 1 / 255 as a sum of two floats: v * kHigh + v * kLow, rounded twice, is v / 255 correctly rounded for each v of
// 0 … 255 (a test tries all).
constexpr float kHigh = 1.0f / 255.0f;
constexpr float kLow = static_cast<float>(1.0 / 255.0 - static_cast<double>(kHigh));

// An int of any size as a fraction of 255, limited to [0, 1].
FDJPEG_DEVICE float fraction(int value) {
  const float v = static_cast<float>(value);
  return processor::saturate(processor::fused(v, kHigh, processor::multiply(v, kLow)));
}

// The bits of rint(255 x) + kRounder, where x is limited to [0, 1] and NaN counts as 0. The byte is the lowest of them;
// colour conversion does not mind the others, as its coefficients add up to 2^16 or 0, and so their sum, times
// kRounderBits, is a multiple of 2^32.
FDJPEG_DEVICE unsigned rounded_byte(float x) {
  return processor::bits_of(processor::add(processor::multiply(processor::saturate(x), 255.0f), kRounder));
}

template <>
struct Sample<SampleType::uint8> {
  using Stored = uint8_t;
  using Real = float;
  static constexpr bool kFloating = false;
  static FDJPEG_DEVICE unsigned byte(uint8_t x) {
    return x;
  }
  template <int count>
  static FDJPEG_DEVICE void pack(const int* value, uint8_t* samples) {
    FDJPEG_UNROLL
    for (int i = 0; i < count; i += 4) {
      const unsigned word = processor::pack_saturated(value[i], value[i + 1], value[i + 2], value[i + 3]);
      __builtin_memcpy(samples + i, &word, 4);
    }
  }
};

// The two 16-bit types differ only in how they widen and narrow.
template <float (*widen)(uint16_t), unsigned (*narrow)(float, float)>
struct SixteenBits {
  using Stored = uint16_t;
  using Real = float;
  static constexpr bool kFloating = true;
  static FDJPEG_DEVICE unsigned byte(uint16_t x) {
    return rounded_byte(widen(x));
  }
  static FDJPEG_DEVICE unsigned order(uint16_t x) {
    return processor::bits_of(widen(x));
  }
  template <int count>
  static FDJPEG_DEVICE void pack(const int* value, uint16_t* samples) {
    FDJPEG_UNROLL
    for (int i = 0; i < count; i += 2) {
      const unsigned word = narrow(fraction(value[i]), fraction(value[i + 1]));
      __builtin_memcpy(samples + i, &word, 4);
    }
  }
  static FDJPEG_DEVICE float real(uint16_t x) {
    return widen(x);
  }
  static FDJPEG_DEVICE uint16_t stored(float x) {
    return static_cast<uint16_t>(narrow(x, 0.0f));
  }
};

template <>
struct Sample<SampleType::float16> : SixteenBits<processor::widen_half, processor::narrow_halves> {};
template <>
struct Sample<SampleType::bfloat16> : SixteenBits<processor::widen_bfloat, processor::narrow_bfloats> {};

template <>
struct Sample<SampleType::float32> {
  using Stored = float;
  using Real = float;
  static constexpr bool kFloating = true;
  static FDJPEG_DEVICE unsigned byte(float x) {
    return rounded_byte(x);
  }
  static FDJPEG_DEVICE unsigned order(float x) {
    return processor::bits_of(x);
  }
  template <int count>
  static FDJPEG_DEVICE void pack(const int* value, float* samples) {
    FDJPEG_UNROLL
    for (int i = 0; i < count; ++i) samples[i] = fraction(value[i]);
  }
  static FDJPEG_DEVICE float real(float x) {
    return x;
  }
  static FDJPEG_DEVICE float stored(float x) {
    return x;
  }
};

template <>
struct Sample<SampleType::float64> {
  using Stored = double;
  using Real = double;
  static constexpr bool kFloating = true;
  static FDJPEG_DEVICE unsigned byte(double x) {
    double scaled = processor::multiply(x, 255.0);
    scaled = scaled > 0.0 ? scaled : 0.0;  // NaN too
    scaled = scaled < 255.0 ? scaled : 255.0;
    return static_cast<unsigned>(processor::round_to_int(scaled));
  }
  static FDJPEG_DEVICE unsigned order(double x) {
    return x >= 0.0 && x <= 1.0 ? 0u : ~0u;
  }
  static FDJPEG_DEVICE double of(int value) {
    return static_cast<double>(clamp(value, 0, kMaxSample)) / 255.0;
  }
  template <int count>
  static FDJPEG_DEVICE void pack(const int* value, double* samples) {
    FDJPEG_UNROLL
    for (int i = 0; i < count; ++i) samples[i] = of(value[i]);
  }
  static FDJPEG_DEVICE double real(double x) {
    return x;
  }
  static FDJPEG_DEVICE double stored(double x) {
    return x;
  }
};

// How many blocks of threads a multiprocessor should hold, and so how many registers a thread may use: numbers in
// double precision take two each, and get as many as there are.
template <SampleType type, int blocks>
constexpr int kResident = type == SampleType::float64 ? 1 : blocks;

template <class T>
FDJPEG_DEVICE T* address_of(const Image& image, int64_t n, int64_t row, int64_t column) {
  return processor::keep(
      static_cast<T*>(image.data) + (n * image.stride[0] + row * image.stride[2] + column * image.stride[3]));
}

// The widest word that so many bytes are a multiple of.
template <int bytes>
using WordOf = std::conditional_t<bytes % 16 == 0, uint4, std::conditional_t<bytes == 8, uint2, unsigned>>;

// `count` samples of a row, one beyond sample `last` as that one. `whole` promises that all are there, together, and at
// an address that is a multiple of their bytes, or of 16.
template <int count, class T>
FDJPEG_DEVICE void read_samples(const T* row, int64_t stride, int last, bool whole, T (&samples)[count]) {
  if (whole) {
    using Word = WordOf<sizeof(samples)>;
    static_assert(sizeof(samples) % sizeof(Word) == 0);
    FDJPEG_UNROLL
    for (size_t i = 0; i < sizeof(samples); i += sizeof(Word)) {
      const Word word = processor::load_once(reinterpret_cast<const Word*>(row) + i / sizeof(Word));
      __builtin_memcpy(reinterpret_cast<char*>(samples) + i, &word, sizeof(Word));
    }
    return;
  }
  FDJPEG_UNROLL
  for (int i = 0; i < count; ++i) samples[i] = row[smaller(i, last) * stride];
}

// Writes `count` samples of a row, none beyond sample `last`.
template <int count, class T>
FDJPEG_DEVICE void write_samples(T* row, int64_t stride, int last, bool whole, const T (&samples)[count]) {
  if (whole) {
    using Word = WordOf<sizeof(samples)>;
    static_assert(sizeof(samples) % sizeof(Word) == 0);
    FDJPEG_UNROLL
    for (size_t i = 0; i < sizeof(samples); i += sizeof(Word)) {
      Word word;
      __builtin_memcpy(&word, reinterpret_cast<const char*>(samples) + i, sizeof(Word));
      processor::store_once(reinterpret_cast<Word*>(row) + i / sizeof(Word), word);
    }
    return;
  }
  FDJPEG_UNROLL
  for (int i = 0; i < count; ++i) {
    if (i <= last) row[i * stride] = samples[i];
  }
}

// Cb and Cr of one place in the halves of a word, so that one instruction works on both. As a lane type of exact_math.h
// it is good for sums under 2^16; a shift leaves bits of Cr above the byte of Cb.
struct Twin {
  unsigned word;

  static FDJPEG_INLINE Twin of(unsigned cb, unsigned cr) {
    return {cb | cr << 16};
  }
  FDJPEG_INLINE unsigned cb() const {
    return word & 0xff;
  }
  FDJPEG_INLINE unsigned cr() const {
    return word >> 16;
  }
  friend FDJPEG_INLINE Twin operator+(Twin a, Twin b) {
    return {a.word + b.word};
  }
  friend FDJPEG_INLINE Twin operator+(Twin a, int b) {
    return {a.word + 0x10001u * static_cast<unsigned>(b)};
  }
  friend FDJPEG_INLINE Twin operator*(int a, Twin b) {
    return {static_cast<unsigned>(a) * b.word};
  }
  friend FDJPEG_INLINE Twin operator>>(Twin a, int bits) {
    return {a.word >> bits};
  }
};

}  // namespace fdjpeg
