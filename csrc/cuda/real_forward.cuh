// The GPU's forward kernels of the round trip in real numbers (`arithmetic="real"`): they map real_math.h to threads.
//
//   real_code_blocks     image -> decoded planes of real numbers
//   real_emit_pixels     planes -> image and the last clamp's mask
#pragma once

#include "codec/real_math.h"
#include "cuda/gpu_jobs.h"
#include "cuda/upsampling.cuh"
#include "cuda/warp_blocks.cuh"

namespace fdjpeg {

struct RealCodeBlocks {
  Sizes sizes;
  RealStepTables steps;
  Rounding rounding;
  Image input;
  bool vectors;
  void*
      planes;  // [images of the launch][samples of all planes], laid out as the 8-bit planes are, less the level shift
  int first_image;
  int warps;
  Divider warps_across;
};

struct RealEmitPixels {
  Sizes sizes;
  const void* planes;  // as above
  Image output;
  Image mask;    // [images][1][height][width]; see RealRoundTrip
  bool vectors;  // whether eight pixels of a row of both may be written as words
  int first_image;
  int groups;  // of eight pixels, in each image
  Divider groups_across;
};

template <SampleType type>
using RealOf = typename Sample<type>::Real;

template <SampleType type>
FDJPEG_DEVICE RealOf<type> real_of(typename Sample<type>::Stored x) {
  if constexpr (type == SampleType::uint8) {
    return static_cast<float>(x);
  } else {
    return Sample<type>::real(x);
  }
}

// The real steps of an image in shared memory, row-major. Eight threads read a row's and the next eight perhaps those
// of the other chroma: a component takes eight more, so that these are in the other banks.
template <class Real>
struct SharedRealSteps {
  struct Step {
    Real reciprocal, step;
  };
  static constexpr int kComponent = kBlockSize + kBlock;
  static_assert(spreads_over_banks<2>([](int lane) { return 2 * (lane / kBlock % 2 * kComponent + lane % kBlock); }));
  Step step[3][kComponent];

  template <unsigned components, unsigned threads>
  FDJPEG_DEVICE void fill(const RealStepTables& steps, int64_t image) {
    for (unsigned i = threadIdx.x; i < components * kBlockSize; i += threads) {
      const unsigned component = i / kBlockSize;
      const int64_t at = image * steps.image_stride + i;
      Real q;
      if (steps.tables != nullptr) {
        q = static_cast<Real>(
            steps.in_double ? static_cast<const double*>(steps.tables)[at]
                            : static_cast<const float*>(steps.tables)[at]);
      } else {
        const int base = kStandardSteps[component > 0][i % kBlockSize];
        const double scaled = base * (steps.percentage / 100);
        q = steps.whole ? static_cast<Real>(standard_step(base, static_cast<int>(steps.percentage)))
                        : static_cast<Real>(scaled > 1 ? scaled : 1);
      }
      step[component][i % kBlockSize] = {Real(1) / q, q};
    }
  }
};

// Reads the rows of a thread, converts, subsamples, transforms them along the rows and leaves them in the tile, which
// other threads may read after a barrier.
template <class L, SampleType type>
FDJPEG_DEVICE void real_transform_rows(
    const Sizes& sizes, const Image& input, bool vectors, int64_t n, int mcu_row, int mcu_column, const Place<L>& place,
    RealOf<type>* tile) {
  using Real = RealOf<type>;
  using T = typename Sample<type>::Stored;
  constexpr int kChannels = L::kGrey ? 1 : 3;
  constexpr int kCells = L::kCells;
  constexpr Real kScale = type == SampleType::uint8 ? Real(1) : Real(kMaxSample);
  constexpr Real kShare = Real(1) / (L::kHorizontal * L::kVertical);
  ChromaGradient<Real> cell[kCells] = {};
  FDJPEG_UNROLL
  for (int v = 0; v < L::kLumaRows; ++v) {
    T samples[kChannels][kBlock];
    read_pixels(sizes, input, vectors, n, mcu_row, mcu_column, place, v, samples);
    Real luma[kBlock];
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      const Real first = kScale * real_of<type>(samples[0][i]);
      if constexpr (L::kGrey) {
        luma[i] = first - kLevelShift;
      } else {
        const YCbCr<Real> pixel =
            real_rgb_to_ycbcr(first, kScale * real_of<type>(samples[1][i]), kScale * real_of<type>(samples[2][i]));
        luma[i] = pixel.y - kLevelShift;
        ChromaGradient<Real>& sum = cell[(L::kPatchWide > kBlock ? v * kBlock + i : i) / L::kHorizontal];
        sum.cb += kShare * pixel.cb;
        sum.cr += kShare * pixel.cr;
      }
    }
    real_dct_pass(luma);
    write_tile<1>(tile + place.luma_tile(v), luma);
  }
  if constexpr (!L::kGrey) {
    Real* cb = tile + place.template chroma_cells<1>();
    Real* cr = tile + place.template chroma_cells<2>();
    FDJPEG_UNROLL
    for (int k = 0; k < kCells; ++k) {
      cb[k] = cell[k].cb;
      cr[k] = cell[k].cr;
    }
    __syncwarp();
    // Rows beyond the component's last repeat it.
    const int beyond = larger(place.row - (sizes.chroma_height - 1 - mcu_row * kBlock), 0);
    Real rows[L::kChromaRows][kBlock];
    FDJPEG_UNROLL
    for (int v = 0; v < L::kChromaRows; ++v) read_tile<1>(tile + place.chroma_tile(v) - beyond * kTileRow, rows[v]);
    __syncwarp();
    FDJPEG_UNROLL
    for (int v = 0; v < L::kChromaRows; ++v) {
      real_dct_pass(rows[v]);
      write_tile<1>(tile + place.chroma_tile(v), rows[v]);
    }
  }
}

constexpr int kRealWarps = 4;
constexpr int kRealThreads = kRealWarps * kWarp;
constexpr int kRealBlocksPerProcessor = 4;
static_assert(registers_left(kRealThreads, kRealBlocksPerProcessor) == 128);

template <class L, SampleType type>
__global__ void __launch_bounds__(kRealThreads, kResident<type, kRealBlocksPerProcessor>)
    real_code_blocks(const __grid_constant__ RealCodeBlocks job) {
  using Real = RealOf<type>;
  __shared__ SharedRealSteps<Real> steps;
  __shared__ Real tiles[kRealWarps][L::kTile];
  static_assert(sizeof(steps) + sizeof(tiles) <= kBlockShared);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const Sizes& sizes = job.sizes;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int work = static_cast<int>(blockIdx.x) * kRealWarps + warp;
  const int mcu_row = job.warps_across.quotient(work);
  const Place<L> place(lane);
  const int mcu_column = job.warps_across.remainder(work, mcu_row) * L::kMcus + place.mcu;
  Real* tile = tiles[warp];
  const bool busy = work < job.warps;
  steps.template fill<L::kGrey ? 1 : 3, kRealThreads>(job.steps, n);
  if (busy) real_transform_rows<L, type>(sizes, job.input, job.vectors, n, mcu_row, mcu_column, place, tile);
  __syncthreads();
  if (!busy) return;

  FDJPEG_ROLLED
  for (int pass = 0; pass < L::kPasses; ++pass) {
    const int column = lane % kBlock;
    Real* samples = tile + L::block_start(4 * pass + lane / kBlock) + column;
    const auto* step = steps.step[component_of_pass<L>(pass, lane)] + column;
    Real x[kBlock];
    read_tile<kTileRow>(samples, x);
    real_dct_pass(x);
    if (job.rounding.soft) {
      // The code of a surrogate is long: once each, by way of the thread's own place in memory.
      write_tile<kTileRow>(samples, x);
      with_surrogate(job.rounding.surrogate, [&]<Surrogate surrogate>() {
        FDJPEG_ROLLED
        for (int i = 0; i < kBlock; ++i) {
          const auto [reciprocal, q] = step[i * kBlock];
          Real& coefficient = samples[i * kTileRow];
          coefficient = q * rounded_or_soft<surrogate>(coefficient * reciprocal, job.rounding);
        }
      });
      read_tile<kTileRow>(samples, x);
    } else {
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) {
        const auto [reciprocal, q] = step[i * kBlock];
        x[i] = q * RealLane<Real>::round(x[i] * reciprocal);
      }
    }
    real_idct_pass(x);
    write_tile<kTileRow>(samples, x);
  }
  __syncwarp();

  Real* planes = static_cast<Real*>(job.planes) + static_cast<int64_t>(blockIdx.y) * sizes.flag_offset;
  const auto finish_row = [&](const Real* row, int component, int block_row, int y, int block_column) {
    const int rows = component == 0 ? sizes.luma_rows : sizes.chroma_rows;
    const int columns = component == 0 ? sizes.luma_columns : sizes.chroma_columns;
    if (block_row >= rows || block_column >= columns) return;
    Real x[kBlock];
    read_tile<1>(row, x);
    real_idct_pass(x);
    const unsigned offset = component == 0 ? 0 : component == 1 ? sizes.cb_offset : sizes.cr_offset;
    const unsigned target = offset + (static_cast<unsigned>(block_row * kBlock + y) * columns + block_column) * kBlock;
    FDJPEG_UNROLL
    for (size_t i = 0; i < kBlock * sizeof(Real) / sizeof(uint4); ++i) {
      uint4 word;
      __builtin_memcpy(&word, reinterpret_cast<const char*>(x) + i * sizeof(uint4), sizeof(uint4));
      reinterpret_cast<uint4*>(planes + target)[i] = word;
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
}

// A thread makes eight pixels of a row: their luma is that of a row of a block, and their mask a word of eight bytes.
constexpr int kRealEmitThreads = 256;
constexpr int kRealEmitBlocksPerProcessor = 4;
static_assert(registers_left(kRealEmitThreads, kRealEmitBlocksPerProcessor) == 64);

template <class U, SampleType type>
__global__ void __launch_bounds__(kRealEmitThreads, kResident<type, kRealEmitBlocksPerProcessor>)
    real_emit_pixels(const __grid_constant__ RealEmitPixels job) {
  using Real = RealOf<type>;
  using T = typename Sample<type>::Stored;
  constexpr int kChannels = U::kGrey ? 1 : 3;
  const Sizes& sizes = job.sizes;
  const int group = static_cast<int>(blockIdx.x) * kRealEmitThreads + static_cast<int>(threadIdx.x);
  if (group >= job.groups) return;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int y = job.groups_across.quotient(group), x0 = job.groups_across.remainder(group, y) * kBlock;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * sizes.flag_offset;
  const Real* planes = processor::keep(static_cast<const Real*>(job.planes) + first);
  Real value[kChannels][kBlock];
  read_samples(planes + (static_cast<unsigned>(y) * sizes.luma_columns * kBlock + x0), 1, kBlock - 1, true, value[0]);
  FDJPEG_UNROLL
  for (int x = 0; x < kBlock; ++x) value[0][x] += kLevelShift;
  if constexpr (!U::kGrey) {
    const unsigned stride = sizes.chroma_columns * kBlock;
    const int row = y / U::kVertical, towards = y % U::kVertical != 0 ? 1 : -1;
    const unsigned near = row * stride, far = clamp(row + towards, 0, sizes.chroma_height - 1) * stride;
    Real cb[kBlock], cr[kBlock];
    const Real* plane = planes + sizes.cb_offset;
    real_upsample<U>(sizes, plane + near, plane + far, x0 / U::kHorizontal, cb);
    plane = planes + sizes.cr_offset;
    real_upsample<U>(sizes, plane + near, plane + far, x0 / U::kHorizontal, cr);
    FDJPEG_UNROLL
    for (int x = 0; x < kBlock; ++x) {
      const RGB<Real> pixel = real_ycbcr_to_rgb(value[0][x], cb[x], cr[x]);
      value[0][x] = pixel.r;
      value[1][x] = pixel.g;
      value[2][x] = pixel.b;
    }
  }
  constexpr bool kBytes = type == SampleType::uint8;
  constexpr Real kScale = kBytes ? Real(1) : Real(1.0 / kMaxSample), kHighest = kBytes ? Real(kMaxSample) : Real(1);
  const int last = sizes.width - 1 - x0;
  const bool whole = job.vectors && last >= kBlock - 1;
  uint8_t inside[kBlock] = {};
  T* row = address_of<T>(job.output, n, y, x0);
  FDJPEG_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    T samples[kBlock];
    FDJPEG_UNROLL
    for (int x = 0; x < kBlock; ++x) {
      Real sample = kScale * value[c][x];
      inside[x] |= sample >= 0 && sample <= kHighest ? 1u << c : 0u;
      sample = sample < 0 ? Real(0) : sample;
      sample = sample > kHighest ? kHighest : sample;
      if constexpr (kBytes) {
        samples[x] = static_cast<T>(RealLane<Real>::round(sample));
      } else {
        samples[x] = Sample<type>::stored(sample);
      }
    }
    write_samples(row + c * job.output.stride[1], job.output.stride[3], last, whole, samples);
  }
  write_samples(address_of<uint8_t>(job.mask, n, y, x0), 1, last, whole, inside);
}

}  // namespace fdjpeg
