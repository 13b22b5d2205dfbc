// Backward through the coefficients: the tables' gradient, and a surrogate's for the image. The coefficients are
// computed again, block by block, together with the transform of the samples' gradient, in one kernel and in no
// memory but registers and shared memory.
//
// With r' the surrogate's derivative at c / (8 q), k the level that forward chose and g the gradient of the dequantized
// coefficient, which is the orthonormal DCT of the samples' gradient,
//   the coefficient's gradient is g r', the step's Σ g (k - r' c / (8 q)) over the blocks. Straight through, r' is 1.
//
// The steps before and after these products serve real_backward.cuh too, with its own type of coefficients.
#pragma once

#include <type_traits>

#include "cuda/exact_backward.cuh"
#include "cuda/warp_blocks.cuh"

namespace fdjpeg {

// Each block of threads makes the gradient of a part of an image's tiles, one after another.
struct DifferentiateBlocks {
  Differentiate common;
  Steps steps;
  bool input_vectors;   // whether eight samples of a row of the image may be read as words
  const float* slopes;  // [slope_intervals + 1], the surrogate's derivative; see RoundTripBackward
  int slope_intervals;
  float* partials;  // [images][parts][3][8][8], or null: no gradient of the tables is wanted
  int tiles;        // in each image
};

// partials[n][part][i] are added over the parts, in order.
template <class Real>
struct AddPartials {
  const Real* partials;  // [images][parts][3][8][8]
  Real* sums;            // [images][3][8][8]
  int parts;
};

// ---------------------------------------------------------------------------------------------------------------------
// A tile of pixels, and what its threads share

// The MCUs of a block's warps, two warps side by side and the others below, so that the ring around the tile is small
// against the tile.
template <class L, int warps>
struct ThroughTile {
  static constexpr int kWarpsAcross = 2, kWarpsDown = warps / kWarpsAcross;
  static constexpr int kWide = kWarpsAcross * L::kMcus * kBlock * L::kHorizontal;
  static constexpr int kTall = kWarpsDown * kBlock * L::kVertical;
  // A thread's part of it: its rows of luma are neighbours.
  static constexpr int kPatchWide = L::kPatchWide;
  static constexpr int kPatchTall = L::kVertical;
  static_assert(kPatchWide * kPatchTall == kBlock * L::kLumaRows);
  static constexpr int kCells = L::kCells;

  // Half a warp has two patches side by side and eight below each other, of one row or two. An odd length of rows that
  // are two apart, or an even one that is not a multiple of four of those that follow each other, gives these eight
  // every other pair of banks.
  static constexpr int kAcross = kWide / kPatchWide;
  static constexpr int kFineRow = (kPatchWide - 1) * (kAcross + 1) + kAcross + (kPatchTall == 1 ? 3 : 0);
};

// The gradients of upsampled chroma in a tile.
template <class L, class U, int warps, class Real>
using ThroughFine = FineChroma<
    U, Real, ThroughTile<L, warps>::kWide, ThroughTile<L, warps>::kTall, ThroughTile<L, warps>::kPatchWide,
    ThroughTile<L, warps>::kFineRow>;

template <int horizontal, int vertical>
constexpr bool fine_spreads_over_banks() {
  using L = Layout<horizontal, vertical, false>;
  return spreads_over_banks<2>([](unsigned lane) {
    const Place<L> place(lane);
    using Fine = ThroughFine<L, Upsampling<horizontal, vertical, true, false>, 4, float>;
    return 2 * Fine::place(place.luma_row(0), place.mcu * horizontal + place.luma_column(0), 0);
  });
}
static_assert(fine_spreads_over_banks<2, 2>() && fine_spreads_over_banks<2, 1>() && fine_spreads_over_banks<1, 2>());

// Shared memory: first the gradients of upsampled chroma, if the triangle makes that of one thread another's concern;
// then each warp's coefficients and the gradients of its MCUs; at last the sums of its tables' gradients.
template <class L, class U, int warps, class Pixel, class Coefficient, class Gradient>
union ThroughMemory {
  static_assert(L::kTile >= 3 * kBlockSize, "the sums lie where the gradients were");
  struct None {};
  std::conditional_t<U::kAcross || U::kDown, ThroughFine<L, U, warps, Pixel>, None> fine;
  struct {
    Coefficient coefficients[warps][L::kTile];
    Gradient gradients[warps][L::kTile];
  } tiles;
};

// Where a thread is at work.
template <class L, int warps>
struct ThroughPlace {
  int tile_y, tile_x;       // the first pixel of the block's tile
  int mcu_row, mcu_column;  // the thread's MCU
  int y0, x0;               // the first pixel of the thread's patch

  FDJPEG_DEVICE ThroughPlace(const Divider& tiles_across, int work, int warp, const Place<L>& place) {
    using Tile = ThroughTile<L, warps>;
    const int tile_row = tiles_across.quotient(work);
    tile_y = tile_row * Tile::kTall;
    tile_x = tiles_across.remainder(work, tile_row) * Tile::kWide;
    mcu_row = tile_row * Tile::kWarpsDown + warp / Tile::kWarpsAcross;
    mcu_column = tile_x / (kBlock * L::kHorizontal) + warp % Tile::kWarpsAcross * L::kMcus + place.mcu;
    y0 = mcu_row * kBlock * L::kVertical + place.luma_row(0);
    x0 = (mcu_column * L::kHorizontal + place.luma_column(0)) * kBlock;
  }
};

// The gradients of the samples of chroma under a thread's patch from those of the pixels, 0 for samples right of the
// component's last. chroma_of(y, x) makes the gradient of a pixel's chroma. All threads of a block must call this, and
// meet at a barrier before; after it `memory` is free.
template <class U, class L, int warps, class Memory, class Real, int wide, int tall, int cells, class ChromaOf>
FDJPEG_DEVICE void gather_chroma(
    const Sizes& sizes, Memory& memory, const ThroughPlace<L, warps>& at, bool inside,
    const PixelGradient<Real> (&pixel)[tall][wide], ChromaGradient<Real> (&cell)[1][cells], ChromaOf&& chroma_of) {
  if constexpr (U::kAcross || U::kDown) {
    auto& fine = memory.fine;
    fine.store(at.y0 - at.tile_y, at.x0 - at.tile_x, pixel);
    for (int i = static_cast<int>(threadIdx.x); i < fine.kRing; i += warps * kWarp) {
      fine.make_ring(sizes, at.tile_y, at.tile_x, i, chroma_of);
    }
    __syncthreads();
    if (inside) fine.gather(sizes, at.tile_y, at.tile_x, at.y0 - at.tile_y, at.x0 - at.tile_x, cell);
    FDJPEG_UNROLL
    for (int k = 0; k < cells; ++k) {
      if (at.x0 / L::kHorizontal + k >= sizes.chroma_width) cell[0][k] = {};
    }
    __syncthreads();
  } else {
    gather_repeated<U>(pixel, cell);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients of samples to those of coefficients, and back

// Sample i of the thread's luma row v, in a patch of which each row is one, or two where it is 16 pixels wide.
template <class L, class Real, int wide, int tall>
FDJPEG_DEVICE Real& luma_of(PixelGradient<Real> (&pixel)[tall][wide], int v, int i) {
  return L::kPatchWide > kBlock ? pixel[0][v * kBlock + i].y : pixel[v][i].y;
}

// Transforms along the rows. A thread has whole rows of luma, parts of rows of chroma. The columns may be read after a
// barrier of the warp.
template <class L, class Gradient, class Real, int wide, int tall, int cells>
FDJPEG_DEVICE void transform_gradient_rows(
    const Place<L>& place, PixelGradient<Real> (&pixel)[tall][wide], const ChromaGradient<Real> (&cell)[1][cells],
    Gradient* tile) {
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    Gradient g[kBlock];
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) g[i] = static_cast<Gradient>(luma_of<L>(pixel, v, i));
    real_dct_pass(g);
    write_tile<1>(tile + place.luma_tile(v), g);
  }
  if constexpr (!L::kGrey) {
    Gradient* cb = tile + place.template chroma_cells<1>();
    Gradient* cr = tile + place.template chroma_cells<2>();
    FDJPEG_UNROLL
    for (int k = 0; k < cells; ++k) {
      cb[k] = static_cast<Gradient>(cell[0][k].cb);
      cr[k] = static_cast<Gradient>(cell[0][k].cr);
    }
    __syncwarp();
    FDJPEG_UNROLL
    for (int v = 0; v < L::kChromaRows; ++v) {
      Gradient g[kBlock];
      read_tile<1>(tile + place.chroma_tile(v), g);
      real_dct_pass(g);
      write_tile<1>(tile + place.chroma_tile(v), g);
    }
  }
}

// Adds up x[inside] … x[7], the gradients of what the edge was replicated to.
template <class Real>
FDJPEG_DEVICE Real sum_beyond(const Real (&x)[8], int inside) {
  Real sum = 0;
  FDJPEG_UNROLL
  for (int i = 1; i < kBlock; ++i) sum += i >= inside ? x[i] : Real(0);
  return sum;
}
template <class Real>
FDJPEG_DEVICE void add_at(Real (&x)[8], int place, Real addend) {
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) x[i] += i == place ? addend : Real(0);
}

// Transforms a column of one of the tile's blocks back. Rows below the component's last were its replicas.
template <class L, class Gradient>
FDJPEG_DEVICE void restore_gradient_column(const Sizes& sizes, int mcu_row, int pass, int block, Gradient (&g)[8]) {
  real_idct_pass(g);
  const bool luma = pass < L::kLumaRows;
  const int block_row = luma ? mcu_row * L::kVertical + L::row_in_mcu(block) : mcu_row;
  const int rows = (luma ? sizes.height : sizes.chroma_height) - block_row * kBlock;
  if (rows < kBlock) add_at(g, rows - 1, sum_beyond(g, rows));
}

// Transforms the rows back, after a barrier of the warp. Luma right of the image was a replica of its last column, and
// is added to that; what chroma right of its last sample adds up to is the result: see write_patch.
template <class L, class Gradient, class Real, int wide, int tall, int cells>
FDJPEG_DEVICE ChromaGradient<Real> restore_gradient_rows(
    const Sizes& sizes, const Place<L>& place, int mcu_column, Gradient* tile, PixelGradient<Real> (&pixel)[tall][wide],
    ChromaGradient<Real> (&cell)[1][cells]) {
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    Gradient g[kBlock];
    read_tile<1>(tile + place.luma_tile(v), g);
    real_idct_pass(g);
    const int columns = sizes.width - (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock;
    if (columns < kBlock) add_at(g, columns - 1, sum_beyond(g, columns));
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) luma_of<L>(pixel, v, i) = static_cast<Real>(g[i]);
  }
  ChromaGradient<Real> replicas{};
  if constexpr (!L::kGrey) {
    const int columns = sizes.chroma_width - mcu_column * kBlock;
    FDJPEG_UNROLL
    for (int v = 0; v < L::kChromaRows; ++v) {
      Gradient g[kBlock];
      Gradient* row = tile + place.chroma_tile(v);
      read_tile<1>(row, g);
      real_idct_pass(g);
      write_tile<1>(row, g);
      if (columns > 0 && columns < kBlock) row[columns] = sum_beyond(g, columns);
    }
    __syncwarp();
    const Gradient* cb = tile + place.template chroma_cells<1>();
    const Gradient* cr = tile + place.template chroma_cells<2>();
    FDJPEG_UNROLL
    for (int k = 0; k < cells; ++k) cell[0][k] = {static_cast<Real>(cb[k]), static_cast<Real>(cr[k])};
    // Where there are samples right of the last one, the first of them now holds their sum.
    const int beyond = columns - (L::kHorizontal == 1 ? 0 : place.group * cells);
    if (columns < kBlock && beyond > 0 && beyond <= cells) {
      replicas = {static_cast<Real>(cb[beyond]), static_cast<Real>(cr[beyond])};
    }
  }
  return replicas;
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of the tables' gradients

// Adds up the sums of a warp's threads with the same column and component, then those of the warps, always in the same
// order, into partial[3][8][8]. They are where each warp's gradients were. All threads of a block must call this.
template <class L, int warps, class Real>
FDJPEG_DEVICE void write_partial(const Real (&sum)[kSlots<L>][kBlock], Real (&tiles)[warps][L::kTile], Real* partial) {
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  __syncwarp();  // the last turn's gradients were read, of which shuffles do not make sure
  FDJPEG_UNROLL
  for (int slot = 0; slot < kSlots<L>; ++slot) {
    const bool both = L::kHorizontal > 1 && slot == 1;  // every other eight threads have Cb, the others Cr
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      Real x = sum[slot][i];
      x += processor::shuffle_xor(x, 16);
      if (!both) x += processor::shuffle_xor(x, 8);
      const int component = both ? 1 + lane / kBlock % 2 : slot;
      if (lane < (both ? 16 : 8)) tiles[warp][component * kBlockSize + i * kBlock + lane % kBlock] = x;
    }
  }
  __syncthreads();
  constexpr int kComponents = L::kGrey ? 1 : 3;
  for (int i = static_cast<int>(threadIdx.x); i < 3 * kBlockSize; i += warps * kWarp) {
    Real all = 0;
    FDJPEG_UNROLL
    for (int w = 0; w < warps; ++w) all += i < kComponents * kBlockSize ? tiles[w][i] : Real(0);
    partial[i] = all;
  }
}

// The sums of one component: eight threads for each, each with every eighth part.
constexpr int kAddSlices = 8;
constexpr int kAddThreads = kAddSlices * kBlockSize;

template <class Real>
__global__ void __launch_bounds__(kAddThreads) add_partials(const __grid_constant__ AddPartials<Real> job) {
  __shared__ Real slices[kAddSlices][kBlockSize];
  const int slice = static_cast<int>(threadIdx.x / kBlockSize), i = static_cast<int>(threadIdx.x % kBlockSize);
  const int64_t table = blockIdx.x, image = table / 3, component = table % 3;
  const Real* part = job.partials + (image * job.parts * 3 + component) * kBlockSize + i;
  Real sum = 0;
  for (int p = slice; p < job.parts; p += kAddSlices) sum += part[static_cast<int64_t>(p) * 3 * kBlockSize];
  slices[slice][i] = sum;
  __syncthreads();
  if (slice > 0) return;
  sum = 0;
  FDJPEG_UNROLL
  for (int s = 0; s < kAddSlices; ++s) sum += slices[s][i];
  job.sums[table * kBlockSize + i] = sum / kMaxSample;  // the output is a byte / 255
}

// ---------------------------------------------------------------------------------------------------------------------
// The kernel

constexpr int kThroughWarps = 4;
constexpr int kThroughThreads = kThroughWarps * kWarp;
// Four blocks of 128 threads leave a thread 128 of a multiprocessor's 65536 registers, of which at 4:2:0 two rows of
// gradients, eight samples of chroma and sixteen sums take 40. Where these are 48 or more, or a row has 16 samples,
// three blocks leave it 168.
static_assert(registers_left(kThroughThreads, 4) == 128 && registers_left(kThroughThreads, 3) == 168);
template <class L>
constexpr int kThroughBlocksPerProcessor = L::kHorizontal == 4 || (L::kHorizontal == 1 && L::kVertical == 2) ? 3 : 4;

// The place of a number among equal parts: in which, and how far.
struct Part {
  int number;
  float fraction;

  FDJPEG_DEVICE Part(float position, int parts) : number(clamp(static_cast<int>(position), 0, parts - 1)) {
    fraction = position - static_cast<float>(number);
  }
};

// A surrogate's slopes in shared memory. The lanes of a warp want 32 places of them at once: of 32 banks the fullest
// then holds 3.5 on average, while the L1 cache would serve a line at a time, and 8192 slopes have 257 lines. A table
// of so many is cut into 1024 parts, a parabola through the first, the middle and the last slope of each: within 1e-6
// of the largest for the built-in surrogates. Up to 1024 intervals are parts as they are, and stay straight lines.
struct SharedSlopes {
  static constexpr int kMost = 1024;  // 2048 would leave no room for the tiles of 4:4:0
  float slope[kMost + 1];
  float bend[kMost];  // four times the height of a part's middle above the straight line

  // All threads of a block must call this, and meet at a barrier before they read.
  template <int threads>
  FDJPEG_DEVICE void fill(const float* slopes, int intervals) {
    const auto line = [&](float position) {
      const Part part(position, intervals);
      const float low = slopes[part.number], high = slopes[part.number + 1];
      return low + part.fraction * (high - low);
    };
    const int parts = smaller(intervals, kMost);
    const float ratio = static_cast<float>(intervals) / static_cast<float>(parts);
    for (int i = static_cast<int>(threadIdx.x); i <= parts; i += threads) {
      const float low = line(static_cast<float>(i) * ratio);
      slope[i] = low;
      if (i == parts) break;
      const float middle = line((static_cast<float>(i) + 0.5f) * ratio);
      const float high = line(static_cast<float>(i + 1) * ratio);
      bend[i] = 2.0f * ((middle - low) + (middle - high));
    }
  }
  // The derivative at c - k = remainder.
  FDJPEG_DEVICE float at(float remainder, int intervals) const {
    const int parts = smaller(intervals, kMost);
    const Part part((remainder + 0.5f) * static_cast<float>(parts), parts);
    const float low = slope[part.number], high = slope[part.number + 1];
    return low + part.fraction * ((high - low) + (1.0f - part.fraction) * bend[part.number]);
  }
};

// Of these types the kernel of a surrogate serves the tables' gradient straight through as well, without slopes;
// float32 and float16 have a kernel for each, which is shorter.
template <SampleType type>
constexpr bool kServesBoth = type == SampleType::bfloat16 || type == SampleType::float64;

template <class L, class U, SampleType type, bool by_surrogate>
__global__ void __launch_bounds__(kThroughThreads, kResident<type, kThroughBlocksPerProcessor<L>>)
    differentiate_blocks(const __grid_constant__ DifferentiateBlocks job) {
  using Real = typename Sample<type>::Real;
  using Tile = ThroughTile<L, kThroughWarps>;
  __shared__ SharedSteps steps;
  __shared__ ThroughMemory<L, U, kThroughWarps, Real, int, float> memory;
  struct None {};
  __shared__ std::conditional_t<by_surrogate, SharedSlopes, None> slopes;
  constexpr size_t kShared = sizeof(steps) + sizeof(memory) + (by_surrogate ? sizeof(slopes) : 0);
  static_assert(kShared <= kBlockShared && kThroughBlocksPerProcessor<L> * kShared <= kProcessorShared);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const int column = lane % kBlock;
  const Differentiate& common = job.common;
  const Sizes& sizes = common.sizes;
  const int64_t n = common.first_image + static_cast<int>(blockIdx.y);
  const Place<L> place(lane);
  const uint8_t* planes = processor::keep(common.planes + n * sizes.plane_bytes);
  const bool surrogate = by_surrogate && (!kServesBoth<type> || job.slopes != nullptr);
  int* coefficients = memory.tiles.coefficients[warp];
  float* gradients = memory.tiles.gradients[warp];

  steps.fill<L::kGrey ? 1 : 3, kThroughThreads>(job.steps, n);
  if constexpr (by_surrogate) {
    if (surrogate) slopes.template fill<kThroughThreads>(job.slopes, job.slope_intervals);
  }
  float sum[kSlots<L>][kBlock] = {};
  for (int work = static_cast<int>(blockIdx.x); work < job.tiles; work += static_cast<int>(gridDim.x)) {
    const ThroughPlace<L, kThroughWarps> at(common.tiles_across, work, warp, place);
    const bool inside = at.x0 < sizes.width && at.y0 < sizes.height;
    PixelGradient<Real> pixel[Tile::kPatchTall][Tile::kPatchWide] = {};
    ChromaGradient<Real> cell[1][Tile::kCells] = {};
    if (inside) differentiate_patch<U, type>(common, planes, n, at.y0, at.x0, pixel);
    __syncthreads();  // the steps are there; the last turn's tiles were read
    gather_chroma<U>(sizes, memory, at, inside, pixel, cell, [&](int y, int x) {
      return chroma_gradient_at<U, type>(common, planes, n, y, x);
    });
    if (!surrogate && inside) {
      const ChromaGradient<Real>* none = nullptr;
      write_patch<U, type>(common, planes, n, at.y0, at.x0, pixel, cell, none);
    }
    if (at.mcu_row >= sizes.mcu_rows) continue;

    transform_gradient_rows(place, pixel, cell, gradients);
    transform_rows<L, type>(
        sizes, common.input, job.input_vectors, n, at.mcu_row, at.mcu_column, place, lane, coefficients);
    __syncwarp();
    FDJPEG_UNROLL
    for (int pass = 0; pass < L::kPasses; ++pass) {
      const int block = 4 * pass + lane / kBlock, start = L::block_start(block) + column;
      const SharedSteps::Step* step = steps.step[component_of_pass<L>(pass, lane)][column];
      float* sums = sum[slot_of_pass<L>(pass)];
      float g[kBlock];
      read_tile<kTileRow>(gradients + start, g);
      real_dct_pass(g);
      int c[kBlock], k[kBlock];
      quantize_column(coefficients + start, step, c, k);
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) {
        const int error = kBlock * k[i] * step[i].step - c[i];  // exact: k - c / (8 q) would cancel
        const float missing = static_cast<float>(error) * step[i].reciprocal;
        if constexpr (by_surrogate) {
          if (surrogate) {
            const float slope = slopes.at(-missing, job.slope_intervals);
            sums[i] += g[i] * (static_cast<float>(k[i]) * (1.0f - slope) + missing * slope);
            g[i] *= slope;
            continue;
          }
        }
        sums[i] += g[i] * missing;
      }
      if (surrogate) {
        restore_gradient_column<L>(sizes, at.mcu_row, pass, block, g);
        write_tile<kTileRow>(gradients + start, g);
      }
    }
    if (surrogate) {
      __syncwarp();
      const ChromaGradient<Real> replicas = restore_gradient_rows(sizes, place, at.mcu_column, gradients, pixel, cell);
      if (inside) write_patch<U, type>(common, planes, n, at.y0, at.x0, pixel, cell, &replicas);
    }
  }
  if (job.partials == nullptr) return;
  write_partial<L>(sum, memory.tiles.gradients, job.partials + (n * gridDim.x + blockIdx.x) * 3 * kBlockSize);
}

}  // namespace fdjpeg
