// The GPU's kernels. They map the arithmetic of jpeg_math.h to threads and launch nothing, so that a CPU can run them
// in tests.
//
//   code_blocks     image -> decoded 8-bit planes, or quantized coefficients
//   decode_blocks   quantized coefficients -> decoded 8-bit planes
//   emit_image      planes -> image: upsampling and colour
//   differentiate   the straight-through gradient of the image, an adjoint stencil
//   sum_tables      the gradient of the tables, by recomputation; partial sums that add_partials adds in a fixed order
//
// Forward is two kernels with 8-bit planes between them: fused, the triangle upsampling would need a halo of whole
// MCUs, while the planes cost an eighth of the float32 image's bytes and tell backward where the last clamp was at
// work.
#pragma once

#include <cstdint>

#include "codec.h"
#include "jpeg_math.h"
#include "processor.cuh"

namespace fdjpeg {

#if defined(__CUDACC__)
#define FDJPEG_DEVICE __device__ __forceinline__
#else
#define FDJPEG_DEVICE FDJPEG_INLINE
#endif

// Before a loop over what lies in registers: their indices must be known to the compiler.
#if defined(__CUDA_ARCH__)
#define FDJPEG_UNROLL _Pragma("unroll")
#else
#define FDJPEG_UNROLL
#endif

constexpr int kWarp = 32;

// ---------------------------------------------------------------------------------------------------------------------
// What the launches hand over

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

// Each warp codes a few MCUs side by side.
struct CodeBlocks {
  Sizes sizes;
  Steps steps;
  Image input;
  bool vectors;              // whether eight samples of a row may be read as words of 16 bytes
  uint8_t* planes;           // [images][plane_bytes], or null: write coefficients
  int16_t* coefficients[3];  // [images][rows][columns][8][8]
  int first_image;           // of this launch
  int warps;                 // of work in each image
  Divider warps_across;      // how many of them lie side by side
};

// Each warp decodes four blocks of one component.
struct DecodeBlocks {
  Steps steps;
  int component;
  const int16_t* coefficients;  // [images][blocks][8][8]
  uint8_t* planes;              // the component within the first image
  int64_t plane_bytes;
  int first_image;
  int blocks;       // in each image
  Divider columns;  // of blocks
};

// Each thread makes a patch of 16 pixels.
struct EmitImage {
  Sizes sizes;
  const uint8_t* planes;  // [images][plane_bytes]
  Image output;
  bool vectors;  // whether a patch's row may be written as words
  int first_image;
  int patches;  // in each image
  Divider patches_across;
};

// Each block of threads makes a tile of the gradient.
struct Differentiate {
  Sizes sizes;
  Image grad_output;
  bool read_vectors;
  const uint8_t* planes;  // [images][plane_bytes]
  Image input;            // read where an MCU may hold NaN
  Image grad_input;
  bool write_vectors;
  float* plane_gradients;  // [images][samples of all planes], laid out as the planes are, or null: not wanted
  int first_image;
  Divider tiles_across;
};

// Each block of threads sums over a part of an image's MCUs.
struct SumTables {
  Sizes sizes;
  Steps steps;
  Image input;
  bool vectors;
  const float* plane_gradients;  // as above; read only within the planes' true sizes
  float* partials;               // [images][parts][3][8][8]
  int first_image;
  int warps;  // of work in each image
  Divider warps_across;
};

// partials[n][part][i] are added over the parts, in order.
struct AddPartials {
  const float* partials;  // [images][parts][3][8][8]
  float* sums;            // [images][3][8][8]
  int parts;
  int64_t count;  // of sums
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
// to even, which then stands in the low bits.
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
  static FDJPEG_DEVICE uint8_t of(int value) {
    return static_cast<uint8_t>(clamp(value, 0, kMaxSample));
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
  static FDJPEG_DEVICE uint16_t of(int value) {
    return static_cast<uint16_t>(narrow(fraction(value), 0.0f));
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
  static FDJPEG_DEVICE float of(int value) {
    return fraction(value);
  }
  template <int count>
  static FDJPEG_DEVICE void pack(const int* value, float* samples) {
    FDJPEG_UNROLL
    for (int i = 0; i < count; ++i) samples[i] = of(value[i]);
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

// `count` samples of a row, one beyond sample `last` as that one. `whole` promises that all are there, together, and at
// an address that is a multiple of their bytes, or of 16.
template <int count, class T>
FDJPEG_DEVICE void read_samples(const T* row, int64_t stride, int last, bool whole, T (&samples)[count]) {
  constexpr int kBytes = count * static_cast<int>(sizeof(T));
  if (whole) {
    if constexpr (kBytes % 16 == 0) {
      FDJPEG_UNROLL
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 word = processor::load_once(reinterpret_cast<const uint4*>(row) + i);
        __builtin_memcpy(reinterpret_cast<char*>(samples) + 16 * i, &word, 16);
      }
    } else {
      static_assert(kBytes == 8);
      const uint2 word = processor::load_once(reinterpret_cast<const uint2*>(row));
      __builtin_memcpy(samples, &word, 8);
    }
    return;
  }
  FDJPEG_UNROLL
  for (int i = 0; i < count; ++i) samples[i] = row[smaller(i, last) * stride];
}

// Writes `count` samples of a row, none beyond sample `last`.
template <int count, class T>
FDJPEG_DEVICE void write_samples(T* row, int64_t stride, int last, bool whole, const T (&samples)[count]) {
  constexpr int kBytes = count * static_cast<int>(sizeof(T));
  if (whole) {
    if constexpr (kBytes % 16 == 0) {
      FDJPEG_UNROLL
      for (int i = 0; i < kBytes / 16; ++i) {
        uint4 word;
        __builtin_memcpy(&word, reinterpret_cast<const char*>(samples) + 16 * i, 16);
        processor::store_once(reinterpret_cast<uint4*>(row) + i, word);
      }
    } else {
      static_assert(kBytes == 8);
      uint2 word;
      __builtin_memcpy(&word, samples, 8);
      processor::store_once(reinterpret_cast<uint2*>(row), word);
    }
    return;
  }
  FDJPEG_UNROLL
  for (int i = 0; i < count; ++i) {
    if (i <= last) row[i * stride] = samples[i];
  }
}

// Cb and Cr of one place in the halves of a word, so that one instruction works on both. As a lane type of jpeg_math.h
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

// ---------------------------------------------------------------------------------------------------------------------
// The codec: eight threads a block, a row and then a column each, in registers; between them a tile in shared memory

// A row of eight numbers takes nine words, so that neither rows nor columns of four blocks meet in a bank: a row r of
// block b starts at bank 8 b + 9 r, a column c at 8 b + c, each a permutation of the 32 banks over b < 4, r < 8, c < 8.
constexpr int kTileRow = 9;
constexpr int kTileBlock = kBlock * kTileRow;

// How a warp shares out MCUs: `kThreads` threads an MCU, each with `kLumaRows` rows of eight luma samples and
// `kChromaRows` rows of eight chroma samples, so that every thread has the same work.
template <int horizontal, int vertical, bool grey>
struct Layout {
  static constexpr int kHorizontal = horizontal, kVertical = vertical;
  static constexpr bool kGrey = grey;
  static constexpr int kLumaRows = vertical == 2 || horizontal == 4 ? 2 : 1;
  static constexpr int kThreads = kBlock * horizontal * vertical / kLumaRows;
  static constexpr int kMcus = kWarp / kThreads;
  static constexpr int kChromaRows = grey ? 0 : 2 * kBlock / kThreads;
  static constexpr int kLumaBlocks = kMcus * horizontal * vertical;
  static constexpr int kBlocks = kLumaBlocks + (grey ? 0 : 2 * kMcus);
  static constexpr int kPasses = kBlocks / 4;  // a warp has 32 threads for the rows of four blocks
  static_assert(kThreads == 8 || kThreads == 16, "a shuffle by 8 joins the two halves of a row of chroma");
  static_assert(kLumaBlocks == 4 * kLumaRows && kBlocks == 4 * (kLumaRows + kChromaRows));

  // A thread's two rows are not neighbours in the tile: rows 2 i and 2 i + 1, or blocks 2 g and 2 g + 1. A skew of
  // every four blocks puts the second four into the banks that the first leave free.
  static constexpr int kSkew = vertical == 2 ? 1 : horizontal == 4 ? 8 : 0;
  static constexpr int kTile = kBlocks * kTileBlock + (kBlocks / 4 - 1) * kSkew;

  static FDJPEG_INLINE int block_start(int block) {
    return block * kTileBlock + block / 4 * kSkew;
  }
};

// Where a thread stands in its warp's MCUs.
template <class L>
struct Place {
  int mcu;    // of those of the warp
  int group;  // of eight threads within the MCU
  int row;    // of the group's eight

  FDJPEG_INLINE explicit Place(unsigned lane)
      : mcu(static_cast<int>(lane / L::kThreads)),
        group(static_cast<int>(lane % L::kThreads / kBlock)),
        row(static_cast<int>(lane % kBlock)) {}

  // The luma row that the thread handles in turn v: its row and its block's column and row within the MCU.
  FDJPEG_INLINE int luma_row(int v) const {
    return L::kVertical == 2 ? 2 * row + v : row;
  }
  FDJPEG_INLINE int luma_column(int v) const {
    return L::kHorizontal == 4 ? 2 * group + v : group;
  }
  FDJPEG_INLINE int luma_tile(int v) const {
    const int y = luma_row(v);
    const int block = (mcu * L::kVertical + y / kBlock) * L::kHorizontal + luma_column(v);
    return L::block_start(block) + y % kBlock * kTileRow;
  }
  // Where Cb and Cr are whole rows in a thread it has one of each; else one thread has Cb and its partner Cr.
  FDJPEG_INLINE int chroma_component(int v) const {
    return 1 + (L::kHorizontal == 1 ? v : group);
  }
  FDJPEG_INLINE int chroma_tile(int v) const {
    const int block = L::kHorizontal == 1 ? v * L::kMcus + mcu : 2 * mcu + group;
    return L::block_start(L::kLumaBlocks + block) + row * kTileRow;
  }
};

// The component of a thread's column in a pass over four blocks of the tile.
template <class L>
FDJPEG_INLINE int component_of_pass(int pass, int lane) {
  if (pass < L::kLumaRows) return 0;
  return 1 + (L::kHorizontal == 1 ? pass - L::kLumaRows : lane / kBlock % 2);
}

static __constant__ uint8_t kStandardSteps[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};

FDJPEG_DEVICE int step_of(const Steps& steps, int64_t image, int component, int index) {
  if (steps.tables == nullptr) return standard_step(kStandardSteps[component > 0][index], steps.scale);
  return table_step(steps.tables[image * steps.image_stride + component * kBlockSize + index]);
}

// The steps of an image in shared memory, by columns, as a thread needs them. A column takes 20 words, so that two
// steps of each of the eight columns, 16 bytes a thread, lie in different banks: 20 c mod 32 are eight multiples of 4.
struct alignas(16) SharedSteps {
  struct Step {
    float reciprocal;  // 1 / (8 step)
    int step;
  };
  static constexpr int kColumn = 10;
  Step step[3][kBlock][kColumn];

  // All threads of a block must call this, and meet at a barrier before they read.
  template <unsigned components, unsigned threads>
  FDJPEG_DEVICE void fill(const Steps& steps, int64_t image) {
    constexpr unsigned kSteps = components * kBlockSize;
    FDJPEG_UNROLL
    for (unsigned first = 0; first < kSteps; first += threads) {
      const unsigned i = first + threadIdx.x;
      if (i >= kSteps) return;
      const unsigned component = i / kBlockSize, index = i % kBlockSize;
      const int q = step_of(steps, image, static_cast<int>(component), static_cast<int>(index));
      step[component][index % kBlock][index / kBlock] = {reciprocal_step(q), q};
    }
  }
};

// Eight numbers of a row or a column of a block in the tile.
template <int stride, class T>
FDJPEG_INLINE void read_tile(const T* tile, T (&x)[8]) {
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) x[i] = tile[i * stride];
}
template <int stride, class T>
FDJPEG_INLINE void write_tile(T* tile, const T (&x)[8]) {
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) tile[i * stride] = x[i];
}

// The forward DCT along a row of samples 0 … 255. The level shift changes the row's sum alone.
FDJPEG_DEVICE void transform_row(int (&x)[8], int* tile) {
  fdct_pass<true>(x);
  x[0] -= kBlock * kLevelShift << kPass1Bits;
  write_tile<1>(tile, x);
}

// Reads the rows of a thread, converts, subsamples, transforms them along the rows and leaves them in the tile. Returns
// whether a sample was NaN or outside [0, 1].
template <class L, SampleType type>
FDJPEG_DEVICE bool transform_rows(
    const Sizes& sizes, const Image& input, bool vectors, int64_t n, int mcu_row, int mcu_column, const Place<L>& place,
    int lane, int* tile) {
  using S = Sample<type>;
  using T = typename S::Stored;
  constexpr int kChannels = L::kGrey ? 1 : 3;
  constexpr int kSums = L::kHorizontal == 1 ? 8 : 4;
  unsigned highest = 0;
  Twin sums[kSums];
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    const int y = smaller(mcu_row * kBlock * L::kVertical + place.luma_row(v), sizes.height - 1);
    const int x0 = (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock;
    T samples[kChannels][kBlock];
    const T* row = address_of<const T>(input, n, y, x0);
    const int last = sizes.width - 1 - x0;
    const bool whole = vectors && last >= kBlock - 1;
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      read_samples(row + c * input.stride[1], input.stride[3], last, whole, samples[c]);
    }
    if constexpr (S::kFloating) {
      FDJPEG_UNROLL
      for (int c = 0; c < kChannels; ++c) {
        FDJPEG_UNROLL
        for (int i = 0; i < kBlock; i += 2) {
          highest = processor::largest(highest, S::order(samples[c][i]), S::order(samples[c][i + 1]));
        }
      }
    }
    int luma[kBlock];
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      if constexpr (L::kGrey) {
        luma[i] = static_cast<int>(S::byte(samples[0][i]) & kMaxSample);
      } else {
        const YCbCr<unsigned> pixel =
            rgb_to_ycbcr(S::byte(samples[0][i]), S::byte(samples[1][i]), S::byte(samples[2][i]));
        luma[i] = static_cast<int>(pixel.y);
        const Twin chroma = Twin::of(pixel.cb, pixel.cr);
        const int k = L::kHorizontal == 4 ? 2 * v + i / 4 : i / L::kHorizontal;
        const bool first = L::kHorizontal == 4 ? i % 4 == 0 : v == 0 && i % L::kHorizontal == 0;
        sums[k] = first ? chroma : sums[k] + chroma;
      }
    }
    transform_row(luma, tile + place.luma_tile(v));
  }
  if constexpr (!L::kGrey) {
    constexpr int kSamples = L::kHorizontal * L::kVertical;
    constexpr int kShift = kSamples == 4 ? 2 : kSamples == 2 ? 1 : 0;
    FDJPEG_UNROLL
    for (int k = 0; k < kSums; ++k) {
      const Twin sum = sums[k] + average_bias(L::kHorizontal, L::kVertical, k);
      sums[k].word = sum.word >> kShift & 0x00ff00ffu;
    }
    // Rows beyond the component's last repeat it. (Without vertical subsampling the repeated pixel rows do.)
    if (L::kVertical == 2 && (mcu_row + 1) * kBlock > sizes.chroma_height) {
      const int last = sizes.chroma_height - 1 - mcu_row * kBlock;
      FDJPEG_UNROLL
      for (int k = 0; k < kSums; ++k) {
        sums[k].word = processor::shuffle(sums[k].word, lane - place.row + smaller(place.row, last));
      }
    }
    int chroma[kBlock];
    if constexpr (L::kHorizontal == 1) {
      FDJPEG_UNROLL
      for (int v = 0; v < 2; ++v) {
        FDJPEG_UNROLL
        for (int i = 0; i < kBlock; ++i) chroma[i] = static_cast<int>(v == 0 ? sums[i].cb() : sums[i].cr());
        transform_row(chroma, tile + place.chroma_tile(v));
      }
    } else {
      // The thread has half a row of both components; its partner, eight threads on, the other half.
      constexpr unsigned kLowHalves = 0x5410, kHighHalves = 0x7632;
      const bool right = place.group != 0;
      const unsigned keep = right ? kHighHalves : kLowHalves, give = right ? kLowHalves : kHighHalves;
      unsigned halves[4];
      FDJPEG_UNROLL
      for (int k = 0; k < 2; ++k) {
        const unsigned kept = processor::permute(sums[2 * k].word, sums[2 * k + 1].word, keep);
        const unsigned given = processor::permute(sums[2 * k].word, sums[2 * k + 1].word, give);
        const unsigned got = processor::shuffle_xor(given, kBlock);
        halves[k] = right ? got : kept;
        halves[2 + k] = right ? kept : got;
      }
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) chroma[i] = static_cast<int>(halves[i / 2] >> 16 * (i % 2) & 0xffffu);
      transform_row(chroma, tile + place.chroma_tile(0));
    }
  }
  return highest > kOrderOfOne;
}

// The forward DCT down a column of the tile, quantized. x holds the coefficients, k the levels.
FDJPEG_DEVICE void quantize_column(const int* tile, const SharedSteps::Step* steps, int (&c)[8], int (&k)[8]) {
  read_tile<kTileRow>(tile, c);
  fdct_pass<false>(c);
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) k[i] = quantize(c[i], steps[i].reciprocal);
}

// The inverse DCT along a row of the tile, eight bytes. Adding the level shift to the row's first coefficient adds it
// to each sample, unless the sums wrap around, as those of hostile coefficients may.
template <bool may_wrap>
FDJPEG_DEVICE uint2 restore_row(const int* tile) {
  int x[8];
  read_tile<1>(tile, x);
  if (!may_wrap) x[0] += kBlock * kLevelShift << kPass1Bits;
  idct_pass<false>(x);
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) x[i] += may_wrap ? kLevelShift : 0;
  return {processor::pack_saturated(x[0], x[1], x[2], x[3]), processor::pack_saturated(x[4], x[5], x[6], x[7])};
}

constexpr int kCodeWarps = 8;
constexpr int kCodeThreads = kCodeWarps * kWarp;
// Four blocks of 256 threads leave a thread 64 of a multiprocessor's 65536 registers.
constexpr int kCodeBlocksPerProcessor = 4;

template <class L, SampleType type, bool encode>
__global__ void __launch_bounds__(kCodeThreads, kResident<type, kCodeBlocksPerProcessor>)
    code_blocks(const __grid_constant__ CodeBlocks job) {
  __shared__ SharedSteps steps;
  __shared__ int tiles[kCodeWarps][L::kTile];
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const Sizes& sizes = job.sizes;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int work = static_cast<int>(blockIdx.x) * kCodeWarps + warp;
  const int mcu_row = job.warps_across.quotient(work);
  const Place<L> place(lane);
  const int mcu_column = job.warps_across.remainder(work, mcu_row) * L::kMcus + place.mcu;
  int* tile = tiles[warp];
  const bool busy = work < job.warps;

  bool unusual = false;
  steps.fill<L::kGrey ? 1 : 3, kCodeThreads>(job.steps, n);
  if (busy) {
    unusual = transform_rows<L, type>(sizes, job.input, job.vectors, n, mcu_row, mcu_column, place, lane, tile);
  }
  __syncthreads();
  if (!busy) return;

  FDJPEG_UNROLL
  for (int pass = 0; pass < L::kPasses; ++pass) {
    const int column = lane % kBlock;
    int* block = tile + L::block_start(4 * pass + lane / kBlock) + column;
    const SharedSteps::Step* step = steps.step[component_of_pass<L>(pass, lane)][column];
    int c[8], k[8];
    quantize_column(block, step, c, k);
    if constexpr (!encode) {
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) k[i] *= step[i].step;
      idct_pass<true>(k);
    }
    write_tile<kTileRow>(block, k);
  }
  __syncwarp();

  uint8_t* planes = processor::keep(job.planes + n * sizes.plane_bytes);
  const auto finish_row = [&](const int* row, int component, int block_row, int y, int block_column) {
    const bool luma = component == 0;
    const int rows = luma ? sizes.luma_rows : sizes.chroma_rows;
    const int columns = luma ? sizes.luma_columns : sizes.chroma_columns;
    if (block_row >= rows || block_column >= columns) return;
    if constexpr (encode) {
      int x[8];
      read_tile<1>(row, x);
      uint4 word;
      const auto pair = [&](int i) {
        return processor::permute(static_cast<unsigned>(x[i]), static_cast<unsigned>(x[i + 1]), 0x5410);
      };
      word = {pair(0), pair(2), pair(4), pair(6)};
      const int64_t block = (n * rows + block_row) * columns + block_column;
      int16_t* target = job.coefficients[component] + (block * kBlockSize + y * kBlock);
      processor::store_once(reinterpret_cast<uint4*>(target), word);
    } else {
      const unsigned offset = luma ? 0 : component == 1 ? sizes.cb_offset : sizes.cr_offset;
      const unsigned target = offset + ((block_row * kBlock + y) * columns + block_column) * kBlock;
      *reinterpret_cast<uint2*>(planes + target) = restore_row<false>(row);
    }
  };
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    const int y = mcu_row * kBlock * L::kVertical + place.luma_row(v);
    finish_row(
        tile + place.luma_tile(v), 0, y / kBlock, y % kBlock, mcu_column * L::kHorizontal + place.luma_column(v));
  }
  FDJPEG_UNROLL
  for (int v = 0; v < L::kChromaRows; ++v) {
    finish_row(tile + place.chroma_tile(v), place.chroma_component(v), mcu_row, place.row, mcu_column);
  }

  if constexpr (!encode) {
    uint8_t* flags = planes + sizes.flag_offset;
    const unsigned all = Sample<type>::kFloating ? processor::ballot(unusual) : 0;
    if (lane % L::kThreads == 0 && mcu_column < sizes.mcu_columns) {
      const unsigned mine = all >> lane & (L::kThreads == 8 ? 0xffu : 0xffffu);
      flags[mcu_row * sizes.mcu_columns + mcu_column] = mine != 0;
    }
    // The bytes that round the planes up to a multiple of 16.
    const int used = sizes.mcu_rows * sizes.mcu_columns;
    if (work == 0 && lane < static_cast<int>(sizes.plane_bytes - sizes.flag_offset) - used) flags[used + lane] = 0;
  }
}

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

__global__ void __launch_bounds__(kDecodeThreads) decode_blocks(const __grid_constant__ DecodeBlocks job) {
  __shared__ int tiles[kDecodeWarps][4 * kTileBlock];
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int row = lane % kBlock, column = lane % kBlock;
  const int block = (static_cast<int>(blockIdx.x) * kDecodeWarps + warp) * 4 + lane / kBlock;
  const bool busy = block < job.blocks;
  int* tile = tiles[warp] + lane / kBlock * kTileBlock;
  if (busy) {
    int16_t levels[kBlock];
    const int16_t* source = job.coefficients + (n * job.blocks + block) * kBlockSize;
    read_samples(source + row * kBlock, 1, kBlock - 1, true, levels);
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) tile[row * kTileRow + i] = levels[i];
  }
  __syncwarp();
  if (busy) {
    int x[8];
    read_tile<kTileRow>(tile + column, x);
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      x[i] = dequantize_saturating(x[i], step_of(job.steps, n, job.component, i * kBlock + column));
    }
    idct_pass<true>(x);
    write_tile<kTileRow>(tile + column, x);
  }
  __syncwarp();
  if (!busy) return;
  const int64_t block_row = job.columns.quotient(block);
  const int64_t block_column = job.columns.remainder(block, static_cast<int>(block_row));
  const int64_t columns = job.columns.divisor;
  uint8_t* target = job.planes + n * job.plane_bytes + ((block_row * kBlock + row) * columns + block_column) * kBlock;
  *reinterpret_cast<uint2*>(target) = restore_row<true>(tile + row * kTileRow);
}

// ---------------------------------------------------------------------------------------------------------------------
// Upsampling and colour

// How chroma comes back to full resolution. The triangle blends along the directions that were subsampled by 2.
template <int horizontal, int vertical, bool triangle, bool grey>
struct Upsampling {
  static constexpr int kHorizontal = horizontal, kVertical = vertical;
  static constexpr bool kGrey = grey;
  static constexpr bool kAcross = triangle && horizontal == 2, kDown = triangle && vertical == 2;
};

// One value of full resolution from the four samples around it, as Place in a pixel pair tells: `late` columns look to
// the right, `lower` rows below.
template <class U, bool late, bool lower>
FDJPEG_INLINE Twin upsampled(Twin near, Twin beside, Twin vertical, Twin diagonal) {
  if constexpr (U::kAcross && U::kDown) {
    return triangle_of_blend<late>(blend_rows(near, vertical), blend_rows(beside, diagonal));
  } else if constexpr (U::kAcross) {
    return triangle<late>(near, beside);
  } else if constexpr (U::kDown) {
    return triangle<lower>(near, vertical);
  } else {
    return near;
  }
}

// Neighbouring bytes whose address is a multiple of their number.
template <int count>
FDJPEG_DEVICE void read_bytes(const uint8_t* address, uint8_t (&bytes)[count]) {
  __builtin_memcpy(bytes, __builtin_assume_aligned(address, count), count);
}

// The chroma of a patch of kWide × kTall pixels, kept in registers.
template <class U, int wide, int tall>
struct ChromaPatch {
  static constexpr int kColumns = wide / U::kHorizontal, kRows = tall / U::kVertical;
  static_assert(kColumns >= 1 && kRows >= 1 && wide % U::kHorizontal == 0 && tall % U::kVertical == 0);
  static constexpr int kHaloAcross = U::kAcross ? 1 : 0, kHaloDown = U::kDown ? 1 : 0;
  Twin sample[kRows + 2 * kHaloDown][kColumns + 2 * kHaloAcross];

  // `column` and `row` are of chroma. Beyond an edge the edge's sample stands in.
  FDJPEG_DEVICE void load(const Sizes& sizes, const uint8_t* planes, int row, int column) {
    const unsigned stride = sizes.chroma_columns * kBlock;
    const int last_column = sizes.chroma_width - 1, last_row = sizes.chroma_height - 1;
    const uint8_t* cb = planes + sizes.cb_offset;
    const uint8_t* cr = planes + sizes.cr_offset;
    FDJPEG_UNROLL
    for (int i = 0; i < kRows + 2 * kHaloDown; ++i) {
      const unsigned at = static_cast<unsigned>(clamp(row + i - kHaloDown, 0, last_row)) * stride + column;
      uint8_t near[2][kColumns];
      // A row of blocks goes on to a multiple of eight, so that all of these are there.
      read_bytes(cb + at, near[0]);
      read_bytes(cr + at, near[1]);
      FDJPEG_UNROLL
      for (int k = 0; k < kColumns; ++k) sample[i][kHaloAcross + k] = Twin::of(near[0][k], near[1][k]);
      if constexpr (U::kAcross) {
        // The bytes beside these are those of another row or plane at an edge, and not meant.
        sample[i][0] = column == 0 ? sample[i][1] : Twin::of(cb[at - 1], cr[at - 1]);
        sample[i][kColumns + 1] = Twin::of(cb[at + kColumns], cr[at + kColumns]);
        if (column + kColumns > last_column) {
          FDJPEG_UNROLL
          for (int k = 1; k <= kColumns; ++k) {
            if (column + k > last_column) sample[i][1 + k] = sample[i][k];
          }
        }
      }
    }
  }

  // The chroma of the pixel in row y and column x of the patch; both must be compile-time constants.
  template <int y, int x>
  FDJPEG_DEVICE Twin at() const {
    constexpr bool kLate = x % U::kHorizontal != 0, kLower = y % U::kVertical != 0;
    constexpr int kColumn = x / U::kHorizontal + kHaloAcross, kRow = y / U::kVertical + kHaloDown;
    constexpr int kBeside = U::kAcross ? kColumn + (kLate ? 1 : -1) : kColumn;
    constexpr int kFar = U::kDown ? kRow + (kLower ? 1 : -1) : kRow;
    return upsampled<U, kLate, kLower>(
        sample[kRow][kColumn], sample[kRow][kBeside], sample[kFar][kColumn], sample[kFar][kBeside]);
  }
};

// body.operator()<0>() … body.operator()<count - 1>().
template <int count, int from = 0, class Body>
FDJPEG_DEVICE void unrolled(Body&& body) {
  if constexpr (from < count) {
    body.template operator()<from>();
    unrolled<count, from + 1>(body);
  }
}

constexpr int kPatch = 16;  // pixels

// A row of a patch is 16 bytes of the image where that is at most eight pixels.
template <SampleType type>
constexpr int kPatchWidth = sizeof(typename Sample<type>::Stored) >= 4 ? 4 : 8;

constexpr int kEmitThreads = 256;
constexpr int kEmitBlocksPerProcessor = 4;  // as above

template <class U, SampleType type>
__global__ void __launch_bounds__(kEmitThreads, kResident<type, kEmitBlocksPerProcessor>)
    emit_image(const __grid_constant__ EmitImage job) {
  using S = Sample<type>;
  using T = typename S::Stored;
  constexpr int kWide = kPatchWidth<type>, kTall = kPatch / kWide;
  const Sizes& sizes = job.sizes;
  const int patch = static_cast<int>(blockIdx.x) * kEmitThreads + static_cast<int>(threadIdx.x);
  if (patch >= job.patches) return;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int patch_row = job.patches_across.quotient(patch);
  const int x0 = job.patches_across.remainder(patch, patch_row) * kWide, y0 = patch_row * kTall;
  const uint8_t* planes = processor::keep(job.planes + n * sizes.plane_bytes);
  const unsigned luma_stride = sizes.luma_columns * kBlock;

  ChromaPatch<U, kWide, kTall> chroma;
  if constexpr (!U::kGrey) chroma.load(sizes, planes, y0 / U::kVertical, x0 / U::kHorizontal);
  uint8_t luma[kTall][kWide];  // rows of blocks go on below the image, so that all of these are there
  FDJPEG_UNROLL
  for (int y = 0; y < kTall; ++y) {
    read_bytes(planes + ((y0 + y) * luma_stride + x0), luma[y]);
  }
  T* corner = address_of<T>(job.output, n, y0, x0);
  const int last = sizes.width - 1 - x0;
  const bool whole = job.vectors && last >= kWide - 1;
  unrolled<kTall>([&]<int y>() {
    if (y0 + y < sizes.height) {
      int value[3][kWide];
      unrolled<kWide>([&]<int x>() {
        if constexpr (U::kGrey) {
          value[0][x] = luma[y][x];
        } else {
          const Twin twin = chroma.template at<y, x>();
          const RGB<int> pixel =
              ycbcr_to_rgb(static_cast<int>(luma[y][x]), static_cast<int>(twin.cb()), static_cast<int>(twin.cr()));
          value[0][x] = pixel.r;
          value[1][x] = pixel.g;
          value[2][x] = pixel.b;
        }
      });
      FDJPEG_UNROLL
      for (int c = 0; c < (U::kGrey ? 1 : 3); ++c) {
        T samples[kWide];
        S::template pack<kWide>(value[c], samples);
        T* row = corner + y * job.output.stride[2] + c * job.output.stride[1];
        write_samples(row, job.output.stride[3], last, whole, samples);
      }
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward, straight through every rounding: the adjoint of colour and resampling, behind the last clamp's mask

// BT.601, exactly: B = Y + kCbScale Cb, R = Y + kCrScale Cr, and G from what is left of Y.
constexpr double kR = .299, kG = .587, kB = .114;
constexpr double kCbScale = 2 * (1 - kB), kCrScale = 2 * (1 - kR);

template <class Real>
struct ChromaGradient {
  Real cb, cr;
};

template <class Real>
struct PixelGradient {
  Real y;
  ChromaGradient<Real> chroma;
};

// The gradient of a pixel's Y, Cb and Cr from that of its R, G and B, where the clamp let these pass.
template <class Real>
FDJPEG_DEVICE PixelGradient<Real> to_ycbcr_gradient(int luma, Twin chroma, Real r, Real g, Real b) {
  const RGB<int> pixel = ycbcr_to_rgb(luma, static_cast<int>(chroma.cb()), static_cast<int>(chroma.cr()));
  r = static_cast<unsigned>(pixel.r) <= kMaxSample ? r : Real(0);
  g = static_cast<unsigned>(pixel.g) <= kMaxSample ? g : Real(0);
  b = static_cast<unsigned>(pixel.b) <= kMaxSample ? b : Real(0);
  return {
      r + g + b,
      {Real(kCbScale) * b - Real(kB * kCbScale / kG) * g, Real(kCrScale) * r - Real(kR * kCrScale / kG) * g}};
}

// The chroma of any one pixel.
template <class U>
FDJPEG_DEVICE Twin chroma_at(const Sizes& sizes, const uint8_t* planes, int y, int x) {
  const unsigned stride = sizes.chroma_columns * kBlock;
  const bool late = x % U::kHorizontal != 0, lower = y % U::kVertical != 0;
  const int column = x / U::kHorizontal, row = y / U::kVertical;
  const int beside = U::kAcross ? clamp(column + (late ? 1 : -1), 0, sizes.chroma_width - 1) : column;
  const int far = U::kDown ? clamp(row + (lower ? 1 : -1), 0, sizes.chroma_height - 1) : row;
  const auto twin = [&](int i, int k) {
    const unsigned at = i * stride + k;
    return Twin::of(planes[sizes.cb_offset + at], planes[sizes.cr_offset + at]);
  };
  const Twin a = twin(row, column), b = twin(row, beside), c = twin(far, column), d = twin(far, beside);
  if (late) return lower ? upsampled<U, true, true>(a, b, c, d) : upsampled<U, true, false>(a, b, c, d);
  return lower ? upsampled<U, false, true>(a, b, c, d) : upsampled<U, false, false>(a, b, c, d);
}

// 16 × 16 threads with patches of 4 × 2 pixels: the ring of pixels around their tile, which the triangle reaches, has
// fewer pixels than the block has threads, so that each thread makes at most one of them.
constexpr int kGradientThreads = 256;
constexpr int kGradientWide = 4, kGradientTall = 2;
constexpr int kTileWide = 16 * kGradientWide, kTileTall = 16 * kGradientTall;
static_assert(2 * (kTileWide + 2) + 2 * kTileTall <= kGradientThreads);
constexpr int kGradientBlocksPerProcessor = 3;

template <class U, SampleType type>
__global__ void __launch_bounds__(kGradientThreads, kResident<type, kGradientBlocksPerProcessor>)
    differentiate(const __grid_constant__ Differentiate job) {
  using S = Sample<type>;
  using T = typename S::Stored;
  using Real = typename S::Real;
  constexpr int kWide = kGradientWide, kTall = kGradientTall;
  constexpr int kChannels = U::kGrey ? 1 : 3;
  constexpr bool kRing = U::kAcross || U::kDown;
  const Sizes& sizes = job.sizes;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int tile_row = job.tiles_across.quotient(static_cast<int>(blockIdx.x));
  const int tile_x = job.tiles_across.remainder(static_cast<int>(blockIdx.x), tile_row) * kTileWide;
  const int tile_y = tile_row * kTileTall;
  const int local_x = thread % 16 * kWide, local_y = thread / 16 * kTall;
  const int x0 = tile_x + local_x, y0 = tile_y + local_y;
  const int last_x = sizes.width - 1, last_y = sizes.height - 1;
  const bool inside = x0 <= last_x && y0 <= last_y;
  const uint8_t* planes = processor::keep(job.planes + n * sizes.plane_bytes);
  const unsigned luma_stride = sizes.luma_columns * kBlock;
  PixelGradient<Real> pixel[kTall][kWide] = {};
  if (inside) {
    const T* corner = address_of<const T>(job.grad_output, n, y0, x0);
    const bool whole = job.read_vectors && x0 + kWide - 1 <= last_x;
    ChromaPatch<U, kWide, kTall> chroma;
    if constexpr (!U::kGrey) chroma.load(sizes, planes, y0 / U::kVertical, x0 / U::kHorizontal);
    unrolled<kTall>([&]<int y>() {
      if (y0 + y > last_y) return;
      T samples[kChannels][kWide];
      FDJPEG_UNROLL
      for (int c = 0; c < kChannels; ++c) {
        const T* row = corner + y * job.grad_output.stride[2] + c * job.grad_output.stride[1];
        read_samples(row, job.grad_output.stride[3], last_x - x0, whole, samples[c]);
      }
      uint8_t luma[kWide];
      read_bytes(planes + ((y0 + y) * luma_stride + x0), luma);
      unrolled<kWide>([&]<int x>() {
        if constexpr (U::kGrey) {
          // Grey samples are limited inside the inverse transform alone, which straight-through passes.
          pixel[y][x].y = S::real(samples[0][x]);
        } else if (x0 + x <= last_x) {
          pixel[y][x] = to_ycbcr_gradient<Real>(
              luma[x], chroma.template at<y, x>(), S::real(samples[0][x]), S::real(samples[1][x]),
              S::real(samples[2][x]));
        }
      });
    });
  }

  constexpr int kCellsAcross = kWide / U::kHorizontal, kCellsDown = kTall / U::kVertical;
  ChromaGradient<Real> cell[kCellsDown][kCellsAcross] = {};
  if constexpr (kRing) {
    // The gradients of upsampled chroma in the tile and the ring around it.
    __shared__ ChromaGradient<Real> fine[kTileTall + 2][kTileWide + 2];
    FDJPEG_UNROLL
    for (int y = 0; y < kTall; ++y) {
      FDJPEG_UNROLL
      for (int x = 0; x < kWide; ++x) fine[local_y + y + 1][local_x + x + 1] = pixel[y][x].chroma;
    }
    // Thread i makes pixel i of the ring: the row above, the row below, then left and right of each row.
    constexpr int kRowOfRing = kTileWide + 2;
    if (thread < 2 * kRowOfRing + 2 * kTileTall) {
      const bool level = thread < 2 * kRowOfRing;
      const int beyond = thread - 2 * kRowOfRing;
      const int ring_y = level ? (thread < kRowOfRing ? 0 : kTileTall + 1) : beyond / 2 + 1;
      const int ring_x = level ? thread % kRowOfRing : beyond % 2 * (kTileWide + 1);
      ChromaGradient<Real> ring{};
      // At an edge of the component its last sample stands in for the neighbour that is missing: so does the pixel that
      // it makes. A pixel that was cropped has no gradient.
      const int x = clamp(tile_x + ring_x - 1, 0, sizes.chroma_width * U::kHorizontal - 1);
      const int y = clamp(tile_y + ring_y - 1, 0, sizes.chroma_height * U::kVertical - 1);
      if (x <= last_x && y <= last_y) {
        const T* at = address_of<const T>(job.grad_output, n, y, x);
        const int64_t channel = job.grad_output.stride[1];
        ring = to_ycbcr_gradient<Real>(
                   planes[y * luma_stride + x], chroma_at<U>(sizes, planes, y, x), S::real(*at), S::real(at[channel]),
                   S::real(at[2 * channel]))
                   .chroma;
      }
      fine[ring_y][ring_x] = ring;
    }
    __syncthreads();
    if (!inside) return;
    // Within the tile too the edge's pixel stands in for the one beyond it.
    const int edge_x = smaller(sizes.chroma_width * U::kHorizontal - tile_x, kTileWide + 1);
    const int edge_y = smaller(sizes.chroma_height * U::kVertical - tile_y, kTileTall + 1);
    FDJPEG_UNROLL
    for (int i = 0; i < kCellsDown; ++i) {
      FDJPEG_UNROLL
      for (int k = 0; k < kCellsAcross; ++k) {
        constexpr int kReachDown = U::kDown ? 4 : U::kVertical, kReachAcross = U::kAcross ? 4 : U::kHorizontal;
        const int top = local_y + U::kVertical * i + (U::kDown ? 0 : 1);
        const int left = local_x + U::kHorizontal * k + (U::kAcross ? 0 : 1);
        FDJPEG_UNROLL
        for (int a = 0; a < kReachDown; ++a) {
          FDJPEG_UNROLL
          for (int b = 0; b < kReachAcross; ++b) {
            const Real down = !U::kDown ? Real(1) : a == 0 || a == 3 ? Real(.25) : Real(.75);
            const Real across = !U::kAcross ? Real(1) : b == 0 || b == 3 ? Real(.25) : Real(.75);
            const ChromaGradient<Real> g = fine[smaller(top + a, edge_y)][smaller(left + b, edge_x)];
            cell[i][k].cb += down * across * g.cb;
            cell[i][k].cr += down * across * g.cr;
          }
        }
      }
    }
  } else {
    if (!inside) return;
    FDJPEG_UNROLL
    for (int y = 0; y < kTall; ++y) {
      FDJPEG_UNROLL
      for (int x = 0; x < kWide; ++x) {
        cell[y / U::kVertical][x / U::kHorizontal].cb += pixel[y][x].chroma.cb;
        cell[y / U::kVertical][x / U::kHorizontal].cr += pixel[y][x].chroma.cr;
      }
    }
  }

  if (job.plane_gradients != nullptr) {
    float* gradients = job.plane_gradients + n * sizes.flag_offset;
    FDJPEG_UNROLL
    for (int y = 0; y < kTall; ++y) {
      FDJPEG_UNROLL
      for (int x = 0; x < kWide; ++x) gradients[(y0 + y) * luma_stride + x0 + x] = static_cast<float>(pixel[y][x].y);
    }
    if constexpr (!U::kGrey) {
      const unsigned stride = sizes.chroma_columns * kBlock;
      FDJPEG_UNROLL
      for (int i = 0; i < kCellsDown; ++i) {
        FDJPEG_UNROLL
        for (int k = 0; k < kCellsAcross; ++k) {
          float* at = gradients + ((y0 / U::kVertical + i) * stride + x0 / U::kHorizontal + k);
          at[sizes.cb_offset] = static_cast<float>(cell[i][k].cb);
          at[sizes.cr_offset] = static_cast<float>(cell[i][k].cr);
        }
      }
    }
  }

  T* grad_corner = address_of<T>(job.grad_input, n, y0, x0);
  const bool whole = job.write_vectors && x0 + kWide - 1 <= last_x;
  bool may_be_nan = false;
  if constexpr (S::kFloating) {
    const int mcu = y0 / (kBlock * U::kVertical) * sizes.mcu_columns + x0 / (kBlock * U::kHorizontal);
    may_be_nan = planes[sizes.flag_offset + mcu] != 0;
  }
  FDJPEG_UNROLL
  for (int y = 0; y < kTall; ++y) {
    if (y0 + y > last_y) break;
    // The last row and column also stand for their replicas, which subsampling averaged.
    const int copies_down = y0 + y == last_y ? 1 + sizes.chroma_height * U::kVertical - sizes.height : 1;
    T samples[kChannels][kWide];
    FDJPEG_UNROLL
    for (int x = 0; x < kWide; ++x) {
      const Real dy = pixel[y][x].y;
      if constexpr (U::kGrey) {
        samples[0][x] = S::stored(dy);
      } else {
        const int copies_across = x0 + x == last_x ? 1 + sizes.chroma_width * U::kHorizontal - sizes.width : 1;
        const Real weight = Real(1) / (U::kHorizontal * U::kVertical) * static_cast<Real>(copies_down * copies_across);
        const ChromaGradient<Real>& of_cell = cell[y / U::kVertical][x / U::kHorizontal];
        const Real cb = weight * of_cell.cb, cr = weight * of_cell.cr;
        samples[0][x] = S::stored(Real(kR) * dy - Real(kR / kCbScale) * cb + Real(.5) * cr);
        samples[1][x] = S::stored(Real(kG) * dy - Real(kG / kCbScale) * cb - Real(kG / kCrScale) * cr);
        samples[2][x] = S::stored(Real(kB) * dy + Real(.5) * cb - Real(kB / kCrScale) * cr);
      }
    }
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      if (may_be_nan) {
        const T* input = address_of<const T>(job.input, n, y0 + y, x0) + c * job.input.stride[1];
        FDJPEG_UNROLL
        for (int x = 0; x < kWide; ++x) {
          const T sample = input[smaller(x, last_x - x0) * job.input.stride[3]];
          if (S::real(sample) != S::real(sample)) samples[c][x] = T{};  // NaN
        }
      }
      T* row = grad_corner + y * job.grad_input.stride[2] + c * job.grad_input.stride[1];
      write_samples(row, job.grad_input.stride[3], last_x - x0, whole, samples[c]);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of the tables: for each step q the sum over blocks of g (k - c / (8 q)), where g is the gradient of the
// dequantized coefficient, the orthonormal DCT of the plane's gradient

// The orthonormal DCT-II along x[0] … x[7], its even and odd halves as matrices of cosines.
FDJPEG_DEVICE void orthonormal_pass(float (&x)[8]) {
  // cos(k π / 16) / 2
  constexpr float c1 = .49039264f, c2 = .46193977f, c3 = .41573481f, c4 = .35355339f, c5 = .27778512f, c6 = .19134172f,
                  c7 = .09754516f;
  const float s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
  const float d0 = x[0] - x[7], d1 = x[1] - x[6], d2 = x[2] - x[5], d3 = x[3] - x[4];
  x[0] = c4 * (s0 + s1 + s2 + s3);
  x[4] = c4 * (s0 - s1 - s2 + s3);
  x[2] = c2 * (s0 - s3) + c6 * (s1 - s2);
  x[6] = c6 * (s0 - s3) - c2 * (s1 - s2);
  x[1] = c1 * d0 + c3 * d1 + c5 * d2 + c7 * d3;
  x[3] = c3 * d0 - c7 * d1 - c1 * d2 - c5 * d3;
  x[5] = c5 * d0 - c1 * d1 + c7 * d2 + c3 * d3;
  x[7] = c7 * d0 - c5 * d1 + c3 * d2 - c1 * d3;
}

constexpr int kSumWarps = 4;
constexpr int kSumThreads = kSumWarps * kWarp;

template <class L, SampleType type>
__global__ void __launch_bounds__(kSumThreads) sum_tables(const __grid_constant__ SumTables job) {
  __shared__ SharedSteps steps;
  __shared__ int tiles[kSumWarps][L::kTile];
  __shared__ float gradient_tiles[kSumWarps][L::kTile];
  __shared__ float sums[kSumWarps][3][kBlockSize];
  constexpr int kComponents = L::kGrey ? 1 : 3;
  constexpr int kSums = L::kGrey ? 1 : L::kHorizontal == 1 ? 3 : 2;  // a thread's columns are of so many components
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const int column = lane % kBlock;
  const Sizes& sizes = job.sizes;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const Place<L> place(lane);
  const float* gradients = job.plane_gradients + n * sizes.flag_offset;
  int* tile = tiles[warp];
  float* gradient_tile = gradient_tiles[warp];

  steps.fill<kComponents, kSumThreads>(job.steps, n);
  __syncthreads();
  float sum[kSums][kBlock] = {};
  for (int work = static_cast<int>(blockIdx.x) * kSumWarps + warp; work < job.warps;
       work += static_cast<int>(gridDim.x) * kSumWarps) {
    const int mcu_row = job.warps_across.quotient(work);
    const int mcu_column = job.warps_across.remainder(work, mcu_row) * L::kMcus + place.mcu;
    transform_rows<L, type>(sizes, job.input, job.vectors, n, mcu_row, mcu_column, place, lane, tile);
    const auto gradient_row = [&](int offset_in_tile, unsigned offset, unsigned blocks, int y, int height, int x,
                                  int width) {
      float g[kBlock];
      const float* row = gradients + (offset + y * blocks * kBlock + x);
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) g[i] = y < height && x + i < width ? row[i] : 0.0f;
      orthonormal_pass(g);
      write_tile<1>(gradient_tile + offset_in_tile, g);
    };
    FDJPEG_UNROLL
    for (int v = 0; v < L::kLumaRows; ++v) {
      gradient_row(
          place.luma_tile(v), 0, sizes.luma_columns, mcu_row * kBlock * L::kVertical + place.luma_row(v), sizes.height,
          (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock, sizes.width);
    }
    FDJPEG_UNROLL
    for (int v = 0; v < L::kChromaRows; ++v) {
      gradient_row(
          place.chroma_tile(v), place.chroma_component(v) == 1 ? sizes.cb_offset : sizes.cr_offset,
          sizes.chroma_columns, mcu_row * kBlock + place.row, sizes.chroma_height, mcu_column * kBlock,
          sizes.chroma_width);
    }
    __syncwarp();
    FDJPEG_UNROLL
    for (int pass = 0; pass < L::kPasses; ++pass) {
      const int start = L::block_start(4 * pass + lane / kBlock) + column;
      const SharedSteps::Step* step = steps.step[component_of_pass<L>(pass, lane)][column];
      const int slot = pass < L::kLumaRows ? 0 : L::kHorizontal == 1 ? 1 + pass - L::kLumaRows : 1;
      float g[kBlock];
      read_tile<kTileRow>(gradient_tile + start, g);
      orthonormal_pass(g);
      int c[kBlock], k[kBlock];
      quantize_column(tile + start, step, c, k);
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) {
        const int error = kBlock * k[i] * step[i].step - c[i];  // exact: k - c / (8 q) would cancel
        sum[slot][i] += g[i] * static_cast<float>(error) * step[i].reciprocal;
      }
    }
    __syncwarp();
  }

  // Threads with the same column and component, then warps: always in the same order.
  FDJPEG_UNROLL
  for (int slot = 0; slot < kSums; ++slot) {
    const bool both = L::kHorizontal > 1 && slot == 1;  // every other eight threads have Cb, the others Cr
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      float x = sum[slot][i];
      x += processor::shuffle_xor(x, 16);
      if (!both) x += processor::shuffle_xor(x, 8);
      const int component = both ? 1 + lane / kBlock % 2 : slot;
      if (lane < (both ? 16 : 8)) sums[warp][component][i * kBlock + column] = x;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 3 * kBlockSize; i += kSumThreads) {
    float x = 0;
    for (int w = 0; w < kSumWarps; ++w)
      x += i < kComponents * kBlockSize ? sums[w][i / kBlockSize][i % kBlockSize] : 0.0f;
    job.partials[(n * gridDim.x + blockIdx.x) * 3 * kBlockSize + i] = x;
  }
}

constexpr int kAddThreads = 192;  // the sums of one image

__global__ void __launch_bounds__(kAddThreads) add_partials(const __grid_constant__ AddPartials job) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kAddThreads + threadIdx.x;
  if (i >= job.count) return;
  const float* part = job.partials + i / kAddThreads * job.parts * kAddThreads + i % kAddThreads;
  float sum = 0;
  for (int p = 0; p < job.parts; ++p) sum += part[static_cast<int64_t>(p) * kAddThreads];
  job.sums[i] = sum / 255.0f;  // the output is a byte / 255
}

}  // namespace fdjpeg
