// The GPU's backward kernels of the round trip in real numbers.
//
//   real_differentiate   the gradients of the image and of the tables, by recomputation; see differentiate_blocks
//   real_differentiate_samples
//                        the straight-through gradient of the image; see differentiate
#pragma once

#include "cuda/exact_backward_blocks.cuh"
#include "cuda/real_forward.cuh"

namespace fdjpeg {

struct RealDifferentiate {
  Differentiate common;  // without planes
  Image mask;            // [images][1][height][width]
  RealStepTables steps;  // this and what follows: only where gradients pass through coefficients
  Rounding rounding;
  bool input_vectors;
  void* partials;  // [images][parts][3][8][8], or null: no gradient of the tables is wanted
  int tiles;       // in each image
};

// The gradient of a pixel's Y, Cb and Cr where the clamp, by its mask, let those of its R, G and B pass.
template <bool grey, class Real>
FDJPEG_DEVICE PixelGradient<Real> real_pixel_gradient(unsigned inside, const Real (&value)[grey ? 1 : 3]) {
  const auto channel = [&](int c) { return inside >> c & 1 ? value[c] : Real(0); };
  if constexpr (grey) {
    return {channel(0), {}};
  } else {
    const YCbCr<Real> gradient = real_ycbcr_to_rgb_adjoint(channel(0), channel(1), channel(2));
    return {gradient.y, {gradient.cb, gradient.cr}};
  }
}

// Those of neighbours in a row, as many as are in the image.
template <class U, SampleType type, int wide>
FDJPEG_DEVICE void real_differentiate_row(
    const RealDifferentiate& job, int64_t n, int y, int x0, PixelGradient<RealOf<type>> (&pixel)[wide]) {
  using T = typename Sample<type>::Stored;
  constexpr int kChannels = U::kGrey ? 1 : 3;
  const Image& grad = job.common.grad_output;
  const int last = job.common.sizes.width - 1 - x0;
  const bool whole = job.common.read_vectors && last >= wide - 1;
  uint8_t inside[wide];
  read_samples(address_of<const uint8_t>(job.mask, n, y, x0), 1, last, whole, inside);
  T samples[kChannels][wide];
  const T* row = address_of<const T>(grad, n, y, x0);
  FDJPEG_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    read_samples(row + c * grad.stride[1], grad.stride[3], last, whole, samples[c]);
  }
  FDJPEG_UNROLL
  for (int x = 0; x < wide; ++x) {
    RealOf<type> value[kChannels];
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) value[c] = real_of<type>(samples[c][x]);
    if (x <= last) pixel[x] = real_pixel_gradient<U::kGrey>(inside[x], value);
  }
}

// Those of a patch likewise.
template <class U, SampleType type, int wide, int tall>
FDJPEG_DEVICE void real_differentiate_patch(
    const RealDifferentiate& job, int64_t n, int y0, int x0, PixelGradient<RealOf<type>> (&pixel)[tall][wide]) {
  FDJPEG_UNROLL
  for (int y = 0; y < tall; ++y) {
    if (y0 + y >= job.common.sizes.height) break;
    real_differentiate_row<U, type>(job, n, y0 + y, x0, pixel[y]);
  }
}

// That of the chroma of any one pixel.
template <class U, SampleType type>
FDJPEG_DEVICE ChromaGradient<RealOf<type>> real_chroma_gradient_at(
    const RealDifferentiate& job, int64_t n, int y, int x) {
  const auto* at = address_of<const typename Sample<type>::Stored>(job.common.grad_output, n, y, x);
  const int64_t channel = job.common.grad_output.stride[1];
  const RealOf<type> value[3] = {real_of<type>(at[0]), real_of<type>(at[channel]), real_of<type>(at[2 * channel])};
  return real_pixel_gradient<false>(*address_of<const uint8_t>(job.mask, n, y, x), value).chroma;
}

// Straight through and with fixed tables the inverse transform undoes the transform.
template <class U, SampleType type>
__global__ void __launch_bounds__(kGradientThreads, kResident<type, kGradientBlocksPerProcessor>)
    real_differentiate_samples(const __grid_constant__ RealDifferentiate job) {
  const int64_t n = job.common.first_image + static_cast<int>(blockIdx.y);
  differentiate_tile<U, type>(
      job.common, nullptr, n,
      [&](int y0, int x0, auto& pixel) { real_differentiate_patch<U, type>(job, n, y0, x0, pixel); },
      [&](int y, int x) { return real_chroma_gradient_at<U, type>(job, n, y, x); });
}

// In double precision half as many warps, as the tiles of four would not fit.
template <SampleType type>
constexpr int kRealBackwardWarps = type == SampleType::float64 ? 2 : 4;

template <class L, class U, SampleType type>
__global__ void __launch_bounds__(kRealBackwardWarps<type>* kWarp, type == SampleType::float64 ? 1 : 3)
    real_differentiate(const __grid_constant__ RealDifferentiate job) {
  using Real = RealOf<type>;
  constexpr int kWarps = kRealBackwardWarps<type>;
  using Tile = ThroughTile<L, kWarps>;
  __shared__ SharedRealSteps<Real> steps;
  __shared__ ThroughMemory<L, U, kWarps, Real, Real, Real> memory;
  static_assert(sizeof(steps) + sizeof(memory) <= kBlockShared);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const int column = lane % kBlock;
  const Differentiate& common = job.common;
  const Sizes& sizes = common.sizes;
  const int64_t n = common.first_image + static_cast<int>(blockIdx.y);
  const Place<L> place(lane);
  Real* coefficients = memory.tiles.coefficients[warp];
  Real* gradients = memory.tiles.gradients[warp];

  steps.template fill<L::kGrey ? 1 : 3, kWarps * kWarp>(job.steps, n);
  Real sum[kSlots<L>][kBlock] = {};
  for (int work = static_cast<int>(blockIdx.x); work < job.tiles; work += static_cast<int>(gridDim.x)) {
    const ThroughPlace<L, kWarps> at(common.tiles_across, work, warp, place);
    const bool inside = at.x0 < sizes.width && at.y0 < sizes.height;
    PixelGradient<Real> pixel[Tile::kPatchTall][Tile::kPatchWide] = {};
    ChromaGradient<Real> cell[1][Tile::kCells] = {};
    if (inside) real_differentiate_patch<U, type>(job, n, at.y0, at.x0, pixel);
    __syncthreads();  // the steps are there; the last turn's tiles were read
    gather_chroma<U>(sizes, memory, at, inside, pixel, cell, [&](int y, int x) {
      return real_chroma_gradient_at<U, type>(job, n, y, x);
    });
    if (at.mcu_row >= sizes.mcu_rows) continue;

    transform_gradient_rows(place, pixel, cell, gradients);
    real_transform_rows<L, type>(
        sizes, common.input, job.input_vectors, n, at.mcu_row, at.mcu_column, place, coefficients);
    __syncwarp();
    FDJPEG_ROLLED
    for (int pass = 0; pass < L::kPasses; ++pass) {
      const int block = 4 * pass + lane / kBlock, start = L::block_start(block) + column;
      const auto* step = steps.step[component_of_pass<L>(pass, lane)] + column;
      Real c[kBlock], g[kBlock];
      read_tile<kTileRow>(coefficients + start, c);
      real_dct_pass(c);
      read_tile<kTileRow>(gradients + start, g);
      real_dct_pass(g);
      // A coefficient and its gradient become the step's share and the gradient before rounding.
      const auto differentiate_rounding = [&]<Surrogate surrogate>(Real& coefficient, Real& gradient, int i) {
        const Derivatives<Real> derivatives =
            derivatives_of_rounding<surrogate>(coefficient * step[i * kBlock].reciprocal, job.rounding);
        coefficient = gradient * derivatives.of_step;
        gradient *= derivatives.of_coefficient;
      };
      if (job.rounding.surrogate == Surrogate::straight_through) {
        FDJPEG_UNROLL
        for (int i = 0; i < kBlock; ++i) {
          differentiate_rounding.template operator()<Surrogate::straight_through>(c[i], g[i], i);
        }
      } else {
        // The code of the others is long: once each, by way of the thread's own place in memory.
        write_tile<kTileRow>(coefficients + start, c);
        write_tile<kTileRow>(gradients + start, g);
        with_surrogate(job.rounding.surrogate, [&]<Surrogate surrogate>() {
          FDJPEG_ROLLED
          for (int i = 0; i < kBlock; ++i) {
            const int at = start + i * kTileRow;
            differentiate_rounding.template operator()<surrogate>(coefficients[at], gradients[at], i);
          }
        });
        read_tile<kTileRow>(coefficients + start, c);
        read_tile<kTileRow>(gradients + start, g);
      }
      write_tile<kTileRow>(coefficients + start, c);  // the steps' shares, from here on
      restore_gradient_column<L>(sizes, at.mcu_row, pass, block, g);
      write_tile<kTileRow>(gradients + start, g);
    }
    FDJPEG_UNROLL
    for (int pass = 0; pass < L::kPasses; ++pass) {
      Real share[kBlock];
      read_tile<kTileRow>(coefficients + L::block_start(4 * pass + lane / kBlock) + column, share);
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) sum[slot_of_pass<L>(pass)][i] += share[i];
    }
    __syncwarp();
    const ChromaGradient<Real> replicas = restore_gradient_rows(sizes, place, at.mcu_column, gradients, pixel, cell);
    if (inside) {
      write_patch<U, type>(common, static_cast<const uint8_t*>(nullptr), n, at.y0, at.x0, pixel, cell, &replicas);
    }
  }
  if (job.partials == nullptr) return;
  write_partial<L>(
      sum, memory.tiles.gradients, static_cast<Real*>(job.partials) + (n * gridDim.x + blockIdx.x) * 3 * kBlockSize);
}

}  // namespace fdjpeg
