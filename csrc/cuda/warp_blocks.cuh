// Blocks of samples in a warp: eight threads a block, a row and then a column each, in registers; between them a tile
// in shared memory.
#pragma once

#include "cuda/samples.cuh"

namespace fdjpeg {

// A row of eight numbers takes nine words, so that neither rows nor columns of four blocks meet in a bank: a row r of
// block b starts at bank 8 b + 9 r, a column c at 8 b + c, each a permutation of the 32 banks over b < 4, r < 8, c < 8.
constexpr int kTileRow = 9;
constexpr int kTileBlock = kBlock * kTileRow;
static_assert(spreads_over_banks<1>([](int lane) { return lane / kBlock * kTileBlock + lane % kBlock * kTileRow; }));
static_assert(spreads_over_banks<1>([](int lane) { return lane / kBlock * kTileBlock + lane % kBlock; }));

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
  static constexpr int kPatchWide = horizontal == 4 ? 2 * kBlock : kBlock;  // pixels across that a thread handles
  static constexpr int kCells = kPatchWide / horizontal;  // samples of either chroma under a row of them
  static constexpr int kPasses = kBlocks / 4;             // a warp has 32 threads for the rows of four blocks
  static_assert(kThreads == 8 || kThreads == 16, "a shuffle by 8 joins the two halves of a row of chroma");
  static_assert(kLumaBlocks == 4 * kLumaRows && kBlocks == 4 * (kLumaRows + kChromaRows));

  // A thread's two rows are not neighbours in the tile: rows 2 i and 2 i + 1, or blocks 2 g and 2 g + 1. A skew of
  // every four blocks puts the second four into the banks that the first leave free.
  static constexpr int kSkew = vertical == 2 ? 1 : horizontal == 4 ? 8 : 0;
  static constexpr int kTile = kBlocks * kTileBlock + (kBlocks / 4 - 1) * kSkew;

  static constexpr FDJPEG_INLINE int block_start(int block) {
    return block * kTileBlock + block / 4 * kSkew;
  }

  // Which of the warp's MCUs a block of the tile belongs to, and its place in there, in blocks of luma: a block of
  // chroma at the top left.
  static FDJPEG_INLINE int mcu_of(int block) {
    const int of_chroma = block - kLumaBlocks;
    return of_chroma < 0 ? block / (horizontal * vertical) : horizontal == 1 ? of_chroma % kMcus : of_chroma / 2;
  }
  static FDJPEG_INLINE int row_in_mcu(int block) {
    return block < kLumaBlocks ? block / horizontal % vertical : 0;
  }
  static FDJPEG_INLINE int column_in_mcu(int block) {
    return block < kLumaBlocks ? block % horizontal : 0;
  }
};

// A thread's place in its warp's MCUs.
template <class L>
struct Place {
  int mcu;    // of those of the warp
  int group;  // of eight threads within the MCU
  int row;    // of the group's eight

  constexpr FDJPEG_INLINE explicit Place(unsigned lane)
      : mcu(static_cast<int>(lane / L::kThreads)),
        group(static_cast<int>(lane % L::kThreads / kBlock)),
        row(static_cast<int>(lane % kBlock)) {}

  // The luma row that the thread handles in turn v: its row and its block's column and row within the MCU.
  constexpr FDJPEG_INLINE int luma_row(int v) const {
    return L::kVertical == 2 ? 2 * row + v : row;
  }
  constexpr FDJPEG_INLINE int luma_column(int v) const {
    return L::kHorizontal == 4 ? 2 * group + v : group;
  }
  constexpr FDJPEG_INLINE int luma_tile(int v) const {
    const int y = luma_row(v);
    const int block = (mcu * L::kVertical + y / kBlock) * L::kHorizontal + luma_column(v);
    return L::block_start(block) + y % kBlock * kTileRow;
  }
  // Where Cb and Cr are whole rows in a thread it has one of each; else one thread has Cb and its partner Cr.
  constexpr FDJPEG_INLINE int chroma_component(int v) const {
    return 1 + (L::kHorizontal == 1 ? v : group);
  }
  constexpr FDJPEG_INLINE int chroma_tile(int v) const {
    const int block = L::kHorizontal == 1 ? v * L::kMcus + mcu : 2 * mcu + group;
    return L::block_start(L::kLumaBlocks + block) + row * kTileRow;
  }
  // The samples of chroma under the thread's pixels: a whole row of each component, or half of one.
  template <int component>
  constexpr FDJPEG_INLINE int chroma_cells() const {
    if constexpr (L::kHorizontal == 1) {
      return chroma_tile(component - 1);
    } else {
      const int half = group * (kBlock / 2);
      return L::block_start(L::kLumaBlocks + 2 * mcu + component - 1) + row * kTileRow + half;
    }
  }
};

// A warp's rows of its MCUs, turn by turn, are in different banks. (The halves of rows that chroma_cells() returns are
// not: they meet in pairs, in one of fourteen accesses at 4:2:0.)
template <class L>
constexpr bool rows_spread_over_banks() {
  for (int v = 0; v < L::kLumaRows; ++v) {
    if (!spreads_over_banks<1>([v](unsigned lane) { return Place<L>(lane).luma_tile(v); })) return false;
  }
  for (int v = 0; v < L::kChromaRows; ++v) {
    if (!spreads_over_banks<1>([v](unsigned lane) { return Place<L>(lane).chroma_tile(v); })) return false;
  }
  return true;
}
static_assert(rows_spread_over_banks<Layout<1, 1, false>>() && rows_spread_over_banks<Layout<1, 1, true>>());
static_assert(rows_spread_over_banks<Layout<2, 1, false>>() && rows_spread_over_banks<Layout<2, 2, false>>());
static_assert(rows_spread_over_banks<Layout<1, 2, false>>() && rows_spread_over_banks<Layout<4, 1, false>>());

// The component of a thread's column in a pass over four blocks of the tile.
template <class L>
FDJPEG_INLINE int component_of_pass(int pass, int lane) {
  if (pass < L::kLumaRows) return 0;
  return 1 + (L::kHorizontal == 1 ? pass - L::kLumaRows : lane / kBlock % 2);
}

// A thread's columns are of so many components: luma, and each of chroma or, where it is subsampled across, one of
// them.
template <class L>
constexpr int kSlots = L::kGrey ? 1
    : L::kHorizontal == 1       ? 3
                                : 2;

template <class L>
FDJPEG_DEVICE int slot_of_pass(int pass) {
  return pass < L::kLumaRows ? 0 : L::kHorizontal == 1 ? 1 + pass - L::kLumaRows : 1;
}

static __constant__ uint8_t kStandardSteps[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};

FDJPEG_DEVICE int step_of(const Steps& steps, int64_t image, int component, int index) {
  if (steps.tables == nullptr) return standard_step(kStandardSteps[component > 0][index], steps.scale);
  return table_step(steps.tables[image * steps.image_stride + component * kBlockSize + index]);
}

// The steps of an image in shared memory, by columns, as a thread needs them. A column takes 20 words, so that two
// steps of each of the eight columns, 16 bytes a thread, are in different banks: 20 c mod 32 are eight multiples of 4.
struct alignas(16) SharedSteps {
  struct Step {
    float reciprocal;  // 1 / (8 step)
    int step;
  };
  static constexpr int kColumn = 10;
  static_assert(spreads_over_banks<4>([](int lane) { return lane % kBlock * 2 * kColumn; }));
  Step step[3][kBlock][kColumn];

  static FDJPEG_DEVICE Step of(int q) {
    return {reciprocal_step(q), q};
  }

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
      step[component][index % kBlock][index / kBlock] = of(q);
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

// The first pixel of a thread's luma row v. Below the image's last row that one stands in.
template <class L, class T>
FDJPEG_DEVICE const T* luma_row_of(
    const Sizes& sizes, const Image& input, int64_t n, int mcu_row, int mcu_column, const Place<L>& place, int v) {
  const int y = smaller(mcu_row * kBlock * L::kVertical + place.luma_row(v), sizes.height - 1);
  const int x0 = (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock;
  return address_of<const T>(input, n, y, x0);
}

// Eight pixels, those of a thread's luma row v. Beyond the image's edges these are repeated.
template <class L, class T, int channels>
FDJPEG_DEVICE void read_pixels(
    const Sizes& sizes, const Image& input, bool vectors, int64_t n, int mcu_row, int mcu_column, const Place<L>& place,
    int v, T (&samples)[channels][kBlock]) {
  const T* row = luma_row_of<L, T>(sizes, input, n, mcu_row, mcu_column, place, v);
  const int x0 = (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock;
  const int last = sizes.width - 1 - x0;
  const bool whole = vectors && last >= kBlock - 1;
  FDJPEG_UNROLL
  for (int c = 0; c < channels; ++c) {
    read_samples(row + c * input.stride[1], input.stride[3], last, whole, samples[c]);
  }
}

// Room in shared memory for the samples of a block's threads, a thread's words of 16 bytes next to its neighbours'; or
// none, if they are not copied ahead.
template <class L, class T, int threads, bool async>
struct Ahead {};

template <class L, class T, int threads>
struct Ahead<L, T, threads, true> {
  using Word = WordOf<kBlock * sizeof(T)>;
  static constexpr int kChannels = L::kGrey ? 1 : 3, kWords = kBlock * sizeof(T) / sizeof(Word);
  Word word[L::kLumaRows][kChannels][kWords][threads];

  // Starts to copy the pixels of a thread. Returns whether it did: all must be there, and allow whole words.
  FDJPEG_DEVICE bool start(
      const Sizes& sizes, const Image& input, bool vectors, int64_t n, int mcu_row, int mcu_column,
      const Place<L>& place, int thread) {
    const int last = sizes.width - (mcu_column * L::kHorizontal + place.luma_column(L::kLumaRows - 1) + 1) * kBlock;
    if (!vectors || last < 0) return false;
    FDJPEG_UNROLL
    for (int v = 0; v < L::kLumaRows; ++v) {
      const T* row = luma_row_of<L, T>(sizes, input, n, mcu_row, mcu_column, place, v);
      FDJPEG_UNROLL
      for (int c = 0; c < kChannels; ++c) {
        const Word* words = reinterpret_cast<const Word*>(row + c * input.stride[1]);
        FDJPEG_UNROLL
        for (int i = 0; i < kWords; ++i) processor::copy_async(&word[v][c][i][thread], words + i);
      }
    }
    return true;
  }

  // The pixels of luma row v, which were copied.
  FDJPEG_DEVICE void read(int v, int thread, T (&samples)[kChannels][kBlock]) const {
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      FDJPEG_UNROLL
      for (int i = 0; i < kWords; ++i) {
        const Word one = word[v][c][i][thread];
        __builtin_memcpy(reinterpret_cast<char*>(samples[c]) + i * sizeof(Word), &one, sizeof(Word));
      }
    }
  }
};

// Reads the rows of a thread, converts, subsamples, transforms them along the rows and leaves them in the tile. Returns
// whether a sample was NaN or outside [0, 1].
template <class L, SampleType type, class AheadOf = Ahead<L, typename Sample<type>::Stored, 0, false>>
FDJPEG_DEVICE bool transform_rows(
    const Sizes& sizes, const Image& input, bool vectors, int64_t n, int mcu_row, int mcu_column, const Place<L>& place,
    int lane, int* tile, [[maybe_unused]] AheadOf* ahead = nullptr) {
  using S = Sample<type>;
  using T = typename S::Stored;
  constexpr int kChannels = L::kGrey ? 1 : 3;
  constexpr int kSums = L::kHorizontal == 1 ? 8 : 4;
  constexpr bool kAhead = !std::is_empty_v<AheadOf>;
  unsigned highest = 0;
  Twin sums[kSums];
  bool copied = false;
  if constexpr (kAhead) {
    copied = ahead->start(sizes, input, vectors, n, mcu_row, mcu_column, place, static_cast<int>(threadIdx.x));
    processor::wait_for_copies();
  }
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    T samples[kChannels][kBlock];
    if (copied) {
      if constexpr (kAhead) ahead->read(v, static_cast<int>(threadIdx.x), samples);
    } else {
      read_pixels(sizes, input, vectors, n, mcu_row, mcu_column, place, v, samples);
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

}  // namespace fdjpeg
