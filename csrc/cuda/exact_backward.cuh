// Backward, straight through every rounding: the image's gradient is an adjoint stencil, that of colour and resampling
// behind the last clamp's mask.
#pragma once

#include "codec/real_math.h"
#include "cuda/upsampling.cuh"

namespace fdjpeg {

// Each block of threads makes a tile of the gradient.
struct Differentiate {
  Sizes sizes;
  Image grad_output;
  bool read_vectors;
  const uint8_t* planes;  // [images][plane_bytes]
  Image input;            // read where an MCU may hold NaN
  Image grad_input;
  bool write_vectors;
  int first_image;
  Divider tiles_across;
};

// ---------------------------------------------------------------------------------------------------------------------
// The adjoint of colour and upsampling

// The gradient of a pixel's Y, Cb and Cr from that of its R, G and B, where the clamp let these pass.
template <class Real>
FDJPEG_DEVICE PixelGradient<Real> to_ycbcr_gradient(int luma, Twin chroma, Real r, Real g, Real b) {
  const RGB<int> pixel = ycbcr_to_rgb(luma, static_cast<int>(chroma.cb()), static_cast<int>(chroma.cr()));
  r = static_cast<unsigned>(pixel.r) <= kMaxSample ? r : Real(0);
  g = static_cast<unsigned>(pixel.g) <= kMaxSample ? g : Real(0);
  b = static_cast<unsigned>(pixel.b) <= kMaxSample ? b : Real(0);
  const YCbCr<Real> gradient = real_ycbcr_to_rgb_adjoint(r, g, b);
  return {gradient.y, {gradient.cb, gradient.cr}};
}

// The gradients of a patch's pixels whose corner is in the image; 0 for those beyond its edges.
template <class U, SampleType type, int wide, int tall, class Real>
FDJPEG_DEVICE void differentiate_patch(
    const Differentiate& job, const uint8_t* planes, int64_t n, int y0, int x0,
    PixelGradient<Real> (&pixel)[tall][wide]) {
  using S = Sample<type>;
  using T = typename S::Stored;
  constexpr int kChannels = U::kGrey ? 1 : 3;
  const Sizes& sizes = job.sizes;
  const int last_x = sizes.width - 1, last_y = sizes.height - 1;
  const unsigned luma_stride = sizes.luma_columns * kBlock;
  const T* corner = address_of<const T>(job.grad_output, n, y0, x0);
  const bool whole = job.read_vectors && x0 + wide - 1 <= last_x;
  ChromaPatch<U, wide, tall> chroma;
  if constexpr (!U::kGrey) chroma.load(sizes, planes, y0 / U::kVertical, x0 / U::kHorizontal);
  unrolled<tall>([&]<int y>() {
    if (y0 + y > last_y) return;
    T samples[kChannels][wide];
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      const T* row = corner + y * job.grad_output.stride[2] + c * job.grad_output.stride[1];
      read_samples(row, job.grad_output.stride[3], last_x - x0, whole, samples[c]);
    }
    // A row of a plane starts at a multiple of eight.
    constexpr int kWord = wide < kBlock ? wide : kBlock;
    uint8_t luma[wide / kWord][kWord];
    FDJPEG_UNROLL
    for (int i = 0; i < wide / kWord; ++i) {
      if (i == 0 || x0 + i * kWord <= last_x) read_bytes(planes + ((y0 + y) * luma_stride + x0 + i * kWord), luma[i]);
    }
    unrolled<wide>([&]<int x>() {
      if (x0 + x > last_x) return;
      if constexpr (U::kGrey) {
        // Grey samples are limited inside the inverse transform alone, which straight-through passes.
        pixel[y][x].y = S::real(samples[0][x]);
      } else {
        pixel[y][x] = to_ycbcr_gradient<Real>(
            luma[x / kWord][x % kWord], chroma.template at<y, x>(), S::real(samples[0][x]), S::real(samples[1][x]),
            S::real(samples[2][x]));
      }
    });
  });
}

// The gradient of the chroma of any one pixel.
template <class U, SampleType type>
FDJPEG_DEVICE ChromaGradient<typename Sample<type>::Real> chroma_gradient_at(
    const Differentiate& job, const uint8_t* planes, int64_t n, int y, int x) {
  using S = Sample<type>;
  using T = typename S::Stored;
  const T* at = address_of<const T>(job.grad_output, n, y, x);
  const int64_t channel = job.grad_output.stride[1];
  const unsigned luma_stride = job.sizes.luma_columns * kBlock;
  return to_ycbcr_gradient<typename S::Real>(
             planes[y * luma_stride + x], chroma_at<U>(job.sizes, planes, y, x), S::real(*at), S::real(at[channel]),
             S::real(at[2 * channel]))
      .chroma;
}

// Writes the gradients of a patch's pixels from those of its samples: the adjoint of subsampling and of the conversion
// to YCbCr. NaN samples get none: the planes' flags, if not null, show where they are. `replicas`, if not null, is what
// the samples of chroma right of the component's last add up to.
template <class U, SampleType type, int wide, int tall, int down, int across, class Real>
FDJPEG_DEVICE void write_patch(
    const Differentiate& job, const uint8_t* planes, int64_t n, int y0, int x0,
    const PixelGradient<Real> (&pixel)[tall][wide], const ChromaGradient<Real> (&cell)[down][across],
    const ChromaGradient<Real>* replicas) {
  using S = Sample<type>;
  using T = typename S::Stored;
  constexpr int kChannels = U::kGrey ? 1 : 3;
  const Sizes& sizes = job.sizes;
  const int last_x = sizes.width - 1, last_y = sizes.height - 1;
  T* corner = address_of<T>(job.grad_input, n, y0, x0);
  const bool whole = job.write_vectors && x0 + wide - 1 <= last_x;
  const int mcu = y0 / (kBlock * U::kVertical) * sizes.mcu_columns + x0 / (kBlock * U::kHorizontal);
  const bool may_be_nan = planes != nullptr && planes[sizes.flag_offset + mcu] != 0;
  FDJPEG_UNROLL
  for (int y = 0; y < tall; ++y) {
    if (y0 + y > last_y) break;
    // The last row and column also stand for their replicas, which subsampling averaged.
    const int copies_down = y0 + y == last_y ? 1 + sizes.chroma_height * U::kVertical - sizes.height : 1;
    T samples[kChannels][wide];
    FDJPEG_UNROLL
    for (int x = 0; x < wide; ++x) {
      const Real dy = pixel[y][x].y;
      if constexpr (U::kGrey) {
        samples[0][x] = S::stored(dy);
      } else {
        const int copies_across = x0 + x == last_x ? 1 + sizes.chroma_width * U::kHorizontal - sizes.width : 1;
        const Real share = Real(1) / (U::kHorizontal * U::kVertical);
        const Real weight = share * static_cast<Real>(copies_down * copies_across);
        const ChromaGradient<Real>& of_cell = cell[y / U::kVertical][x / U::kHorizontal];
        Real cb = weight * of_cell.cb, cr = weight * of_cell.cr;
        if (replicas != nullptr && x0 + x == last_x) {
          const Real weight_beyond = share * static_cast<Real>(copies_down * U::kHorizontal);
          cb += weight_beyond * replicas->cb;
          cr += weight_beyond * replicas->cr;
        }
        const RGB<Real> gradient = real_rgb_to_ycbcr_adjoint(dy, cb, cr);
        samples[0][x] = S::stored(gradient.r);
        samples[1][x] = S::stored(gradient.g);
        samples[2][x] = S::stored(gradient.b);
      }
    }
    FDJPEG_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      if (may_be_nan) {
        const T* input = address_of<const T>(job.input, n, y0 + y, x0) + c * job.input.stride[1];
        FDJPEG_UNROLL
        for (int x = 0; x < wide; ++x) {
          const T sample = input[smaller(x, last_x - x0) * job.input.stride[3]];
          if (S::real(sample) != S::real(sample)) samples[c][x] = T{};  // NaN
        }
      }
      T* row = corner + y * job.grad_input.stride[2] + c * job.grad_input.stride[1];
      write_samples(row, job.grad_input.stride[3], last_x - x0, whole, samples[c]);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Straight through

// 16 × 16 threads with patches of 4 × 2 pixels: a row of a float32 patch is 16 bytes, the widest access there is, and
// eight threads' make a whole line of the cache. The ring around the tile has fewer pixels than the block has threads,
// so that each thread makes at most one of them.
constexpr int kGradientThreads = 256;
constexpr int kGradientWide = 4, kGradientTall = 2;
constexpr int kTileAcross = 16;  // threads
constexpr int kTileWide = kTileAcross * kGradientWide, kTileTall = kGradientThreads / kTileAcross * kGradientTall;
static_assert(2 * (kTileWide + 2) + 2 * kTileTall <= kGradientThreads);
// Three blocks of 256 threads leave a thread 80 of a multiprocessor's 65536 registers, which is what the kernel wants;
// 24 warps with 96 bytes of loads each in flight cover the memory's latency.
constexpr int kGradientBlocksPerProcessor = FDJPEG_GRADIENT_BLOCKS;
static_assert(registers_left(kGradientThreads, kGradientBlocksPerProcessor) >= 64);

// Half a warp has a row of patches, which are side by side. The row's length is odd for the sides of the ring, where
// threads below each other write.
constexpr int kGradientRow = (kGradientWide - 1) * (kTileAcross + 1) + kTileAcross;
static_assert(kGradientRow % 2 == 1);
template <class U, class Real>
using GradientTile = FineChroma<U, Real, kTileWide, kTileTall, kGradientWide, kGradientRow>;
static_assert(spreads_over_banks<2>([](int lane) {
  using Fine = GradientTile<Upsampling<2, 2, true, false>, float>;
  return 2 * Fine::place(lane / kTileAcross * kGradientTall, lane % kTileAcross, 0);
}));

// The gradients of a tile's samples, in which read(y0, x0, pixel) makes those of the pixels of a thread's patch and
// chroma_of(y, x) that of the chroma of any one pixel. `planes` are as for write_patch.
template <class U, SampleType type, class Read, class ChromaOf>
FDJPEG_DEVICE void differentiate_tile(
    const Differentiate& job, const uint8_t* planes, int64_t n, Read&& read, ChromaOf&& chroma_of) {
  using Real = typename Sample<type>::Real;
  constexpr int kWide = kGradientWide, kTall = kGradientTall;
  const Sizes& sizes = job.sizes;
  const int thread = static_cast<int>(threadIdx.x);
  const int tile_row = job.tiles_across.quotient(static_cast<int>(blockIdx.x));
  const int tile_x = job.tiles_across.remainder(static_cast<int>(blockIdx.x), tile_row) * kTileWide;
  const int tile_y = tile_row * kTileTall;
  const int local_x = thread % kTileAcross * kWide, local_y = thread / kTileAcross * kTall;
  const int x0 = tile_x + local_x, y0 = tile_y + local_y;
  const bool inside = x0 < sizes.width && y0 < sizes.height;
  PixelGradient<Real> pixel[kTall][kWide] = {};
  if (inside) read(y0, x0, pixel);

  ChromaGradient<Real> cell[kTall / U::kVertical][kWide / U::kHorizontal] = {};
  if constexpr (U::kAcross || U::kDown) {
    using Fine = GradientTile<U, Real>;
    __shared__ Fine fine;
    fine.store(local_y, local_x, pixel);
    if (thread < Fine::kRing) fine.make_ring(sizes, tile_y, tile_x, thread, chroma_of);
    __syncthreads();
    if (!inside) return;
    fine.gather(sizes, tile_y, tile_x, local_y, local_x, cell);
  } else {
    if (!inside) return;
    gather_repeated<U>(pixel, cell);
  }
  write_patch<U, type>(job, planes, n, y0, x0, pixel, cell, static_cast<const ChromaGradient<Real>*>(nullptr));
}

template <class U, SampleType type>
__global__ void __launch_bounds__(kGradientThreads, kResident<type, kGradientBlocksPerProcessor>)
    differentiate(const __grid_constant__ Differentiate job) {
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const uint8_t* planes = processor::keep(job.planes + n * job.sizes.plane_bytes);
  differentiate_tile<U, type>(
      job, planes, n, [&](int y0, int x0, auto& pixel) { differentiate_patch<U, type>(job, planes, n, y0, x0, pixel); },
      [&](int y, int x) { return chroma_gradient_at<U, type>(job, planes, n, y, x); });
}

}  // namespace fdjpeg
