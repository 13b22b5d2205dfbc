// Backward: the gradients of an image and of its tables from that of the output.
//
// Straight through every rounding the image's gradient is an adjoint stencil: that of colour and resampling, behind the
// last clamp's mask (differentiate). The tables' gradient, and a surrogate's for the image, need the coefficients:
// these are computed again, block by block, and beside them the transform of the samples' gradient
// (differentiate_blocks), in one kernel and in no memory but registers and shared memory.
#pragma once

#include "codec_blocks.cuh"
#include "codec_upsampling.cuh"
#include "real_math.h"

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
// The adjoint of colour and upsampling

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

// The gradients of a patch's pixels whose corner lies in the image; 0 for those beyond its edges.
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

// The gradients of upsampled chroma in a tile of pixels and the ring around it, which the triangle reaches, in shared
// memory. Rows have a length that keeps the threads of a warp out of each other's banks.
template <class U, class Real, int wide, int tall, int row>
struct FineChroma {
  static_assert(row >= wide + 2);
  static constexpr int kRowOfRing = wide + 2, kRing = 2 * kRowOfRing + 2 * tall;
  ChromaGradient<Real> sample[tall + 2][row];

  // Writes a patch of the tile.
  template <int patch_wide, int patch_tall>
  FDJPEG_DEVICE void store(int local_y, int local_x, const PixelGradient<Real> (&pixel)[patch_tall][patch_wide]) {
    FDJPEG_UNROLL
    for (int y = 0; y < patch_tall; ++y) {
      FDJPEG_UNROLL
      for (int x = 0; x < patch_wide; ++x) sample[local_y + y + 1][local_x + x + 1] = pixel[y][x].chroma;
    }
  }

  // Makes pixel i of the ring, the row above, the row below, then left and right of each row: chroma_of(y, x) is the
  // gradient of a pixel's chroma.
  template <class ChromaOf>
  FDJPEG_DEVICE void make_ring(const Sizes& sizes, int tile_y, int tile_x, int i, ChromaOf&& chroma_of) {
    const bool level = i < 2 * kRowOfRing;
    const int beyond = i - 2 * kRowOfRing;
    const int ring_y = level ? (i < kRowOfRing ? 0 : tall + 1) : beyond / 2 + 1;
    const int ring_x = level ? (i < kRowOfRing ? i : i - kRowOfRing) : beyond % 2 * (wide + 1);
    // At an edge of the component its last sample stands in for the neighbour that is missing: so does the pixel that
    // it makes. A pixel that was cropped has no gradient.
    const int x = clamp(tile_x + ring_x - 1, 0, sizes.chroma_width * U::kHorizontal - 1);
    const int y = clamp(tile_y + ring_y - 1, 0, sizes.chroma_height * U::kVertical - 1);
    ChromaGradient<Real> ring{};
    if (x < sizes.width && y < sizes.height) ring = chroma_of(y, x);
    sample[ring_y][ring_x] = ring;
  }

  // The adjoint of upsampling: the gradients of a patch's samples of chroma.
  template <int down, int across>
  FDJPEG_DEVICE void gather(
      const Sizes& sizes, int tile_y, int tile_x, int local_y, int local_x,
      ChromaGradient<Real> (&cell)[down][across]) const {
    // Within the tile too the edge's pixel stands in for the one beyond it.
    const int edge_x = smaller(sizes.chroma_width * U::kHorizontal - tile_x, wide + 1);
    const int edge_y = smaller(sizes.chroma_height * U::kVertical - tile_y, tall + 1);
    FDJPEG_UNROLL
    for (int i = 0; i < down; ++i) {
      FDJPEG_UNROLL
      for (int k = 0; k < across; ++k) {
        constexpr int kReachDown = U::kDown ? 4 : U::kVertical, kReachAcross = U::kAcross ? 4 : U::kHorizontal;
        const int top = local_y + U::kVertical * i + (U::kDown ? 0 : 1);
        const int left = local_x + U::kHorizontal * k + (U::kAcross ? 0 : 1);
        FDJPEG_UNROLL
        for (int a = 0; a < kReachDown; ++a) {
          FDJPEG_UNROLL
          for (int b = 0; b < kReachAcross; ++b) {
            const Real weight_down = !U::kDown ? Real(1) : a == 0 || a == 3 ? Real(.25) : Real(.75);
            const Real weight_across = !U::kAcross ? Real(1) : b == 0 || b == 3 ? Real(.25) : Real(.75);
            const ChromaGradient<Real> g = sample[smaller(top + a, edge_y)][smaller(left + b, edge_x)];
            cell[i][k].cb += weight_down * weight_across * g.cb;
            cell[i][k].cr += weight_down * weight_across * g.cr;
          }
        }
      }
    }
  }
};

// The same where samples were repeated: each is made of pixels of the patch alone.
template <class U, int wide, int tall, int down, int across, class Real>
FDJPEG_DEVICE void gather_repeated(
    const PixelGradient<Real> (&pixel)[tall][wide], ChromaGradient<Real> (&cell)[down][across]) {
  FDJPEG_UNROLL
  for (int y = 0; y < tall; ++y) {
    FDJPEG_UNROLL
    for (int x = 0; x < wide; ++x) {
      cell[y / U::kVertical][x / U::kHorizontal].cb += pixel[y][x].chroma.cb;
      cell[y / U::kVertical][x / U::kHorizontal].cr += pixel[y][x].chroma.cr;
    }
  }
}

// Writes the gradients of a patch's pixels from those of its samples: the adjoint of subsampling and of the conversion
// to YCbCr. NaN samples get none, of which the planes' flags tell, if not null. `replicas`, if not null, is what the
// samples of chroma right of the component's last add up to.
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
constexpr int kTileWide = 16 * kGradientWide, kTileTall = 16 * kGradientTall;
static_assert(2 * (kTileWide + 2) + 2 * kTileTall <= kGradientThreads);
// Three blocks of 256 threads leave a thread 80 of a multiprocessor's 65536 registers, which is what the kernel wants;
// 24 warps with 96 bytes of loads each in flight cover the memory's latency.
constexpr int kGradientBlocksPerProcessor = 3;
static_assert(registers_left(kGradientThreads, kGradientBlocksPerProcessor) == 80);

template <class U, SampleType type>
__global__ void __launch_bounds__(kGradientThreads, kResident<type, kGradientBlocksPerProcessor>)
    differentiate(const __grid_constant__ Differentiate job) {
  using Real = typename Sample<type>::Real;
  constexpr int kWide = kGradientWide, kTall = kGradientTall;
  const Sizes& sizes = job.sizes;
  const int64_t n = job.first_image + static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int tile_row = job.tiles_across.quotient(static_cast<int>(blockIdx.x));
  const int tile_x = job.tiles_across.remainder(static_cast<int>(blockIdx.x), tile_row) * kTileWide;
  const int tile_y = tile_row * kTileTall;
  const int local_x = thread % 16 * kWide, local_y = thread / 16 * kTall;
  const int x0 = tile_x + local_x, y0 = tile_y + local_y;
  const bool inside = x0 < sizes.width && y0 < sizes.height;
  const uint8_t* planes = processor::keep(job.planes + n * sizes.plane_bytes);
  PixelGradient<Real> pixel[kTall][kWide] = {};
  if (inside) differentiate_patch<U, type>(job, planes, n, y0, x0, pixel);

  ChromaGradient<Real> cell[kTall / U::kVertical][kWide / U::kHorizontal] = {};
  if constexpr (U::kAcross || U::kDown) {
    using Fine = FineChroma<U, Real, kTileWide, kTileTall, kTileWide + 2>;
    __shared__ Fine fine;
    fine.store(local_y, local_x, pixel);
    const auto chroma_of = [&](int y, int x) { return chroma_gradient_at<U, type>(job, planes, n, y, x); };
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

// ---------------------------------------------------------------------------------------------------------------------
// Through the coefficients: with r' the surrogate's derivative at c / (8 q), k the level that forward chose and g the
// gradient of the dequantized coefficient, which is the orthonormal DCT of the samples' gradient,
//   the coefficient's gradient is g r', the step's Σ g (k - r' c / (8 q)) over the blocks. Straight through, r' is 1.

// A surrogate's derivative at c - k, linear between the two nearest of its tabulated slopes.
FDJPEG_DEVICE float slope_at(const DifferentiateBlocks& job, float remainder) {
  const float position = (remainder + 0.5f) * static_cast<float>(job.slope_intervals);
  const int below = clamp(static_cast<int>(position), 0, job.slope_intervals - 1);
  const float low = job.slopes[below], high = job.slopes[below + 1];
  return low + (position - static_cast<float>(below)) * (high - low);
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

// Adds up the sums of a warp's threads with the same column and component, always in the same order. A thread's columns
// are of `slots` components: luma, and each component of chroma or, where they are subsampled across, one of them.
template <class L, int warps, int slots, class Real>
FDJPEG_DEVICE void sum_over_threads(const Real (&sum)[slots][kBlock], Real (&sums)[warps][3][kBlockSize]) {
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  FDJPEG_UNROLL
  for (int slot = 0; slot < slots; ++slot) {
    const bool both = L::kHorizontal > 1 && slot == 1;  // every other eight threads have Cb, the others Cr
    FDJPEG_UNROLL
    for (int i = 0; i < kBlock; ++i) {
      Real x = sum[slot][i];
      x += processor::shuffle_xor(x, 16);
      if (!both) x += processor::shuffle_xor(x, 8);
      const int component = both ? 1 + lane / kBlock % 2 : slot;
      if (lane < (both ? 16 : 8)) sums[warp][component][i * kBlock + lane % kBlock] = x;
    }
  }
}

// Then those of the warps.
template <int warps, class Real>
FDJPEG_DEVICE Real sum_over_warps(const Real (&sums)[warps][3][kBlockSize], int i) {
  Real sum = 0;
  for (int w = 0; w < warps; ++w) sum += sums[w][i / kBlockSize][i % kBlockSize];
  return sum;
}

constexpr int kThroughWarps = 4;
constexpr int kThroughThreads = kThroughWarps * kWarp;
// Four blocks of 128 threads leave a thread 128 of a multiprocessor's 65536 registers, of which at 4:2:0 two rows of
// gradients, eight samples of chroma and sixteen sums take 40. Where these are 48 or more, or a row has 16 samples,
// three blocks leave it 168.
static_assert(registers_left(kThroughThreads, 4) == 128 && registers_left(kThroughThreads, 3) == 168);
template <class L>
constexpr int kThroughBlocksPerProcessor = L::kHorizontal == 4 || (L::kHorizontal == 1 && L::kVertical == 2) ? 3 : 4;

// The MCUs of a block's warps, two warps side by side and two below each other, so that the ring around the tile is
// small against the tile.
template <class L, int warps>
struct ThroughTile {
  static constexpr int kWarpsAcross = 2, kWarpsDown = warps / kWarpsAcross;
  static constexpr int kWide = kWarpsAcross * L::kMcus * kBlock * L::kHorizontal;
  static constexpr int kTall = kWarpsDown * kBlock * L::kVertical;
  // What a thread handles of it: its rows of luma are neighbours.
  static constexpr int kPatchWide = L::kHorizontal == 4 ? 2 * kBlock : kBlock;
  static constexpr int kPatchTall = L::kVertical;
  static_assert(kPatchWide * kPatchTall == kBlock * L::kLumaRows);
  // Eight threads write the same column of rows `kPatchTall` apart, two words each: an odd length spreads these over
  // the banks.
  static constexpr int kFineRow = kWide + 3;
  static_assert(kFineRow % 2 == 1);
};

template <class L, class U, SampleType type>
__global__ void __launch_bounds__(kThroughThreads, kResident<type, kThroughBlocksPerProcessor<L>>)
    differentiate_blocks(const __grid_constant__ DifferentiateBlocks job) {
  using Real = typename Sample<type>::Real;
  using Tile = ThroughTile<L, kThroughWarps>;
  using Fine = FineChroma<U, Real, Tile::kWide, Tile::kTall, Tile::kFineRow>;
  constexpr int kWide = Tile::kPatchWide, kTall = Tile::kPatchTall, kCells = kWide / L::kHorizontal;
  constexpr int kComponents = L::kGrey ? 1 : 3;
  constexpr int kSums = L::kGrey ? 1 : L::kHorizontal == 1 ? 3 : 2;  // a thread's columns are of so many components
  constexpr bool kRing = U::kAcross || U::kDown;
  struct Tiles {
    int coefficients[kThroughWarps][L::kTile];
    float gradients[kThroughWarps][L::kTile];
  };
  union Memory {
    Fine fine;
    Tiles tiles;
  };
  __shared__ SharedSteps steps;
  __shared__ Memory memory;
  __shared__ float sums[kThroughWarps][3][kBlockSize];
  static_assert(sizeof(steps) + sizeof(memory) + sizeof(sums) <= kBlockShared);
  static_assert(kThroughBlocksPerProcessor<L> * (sizeof(steps) + sizeof(memory) + sizeof(sums)) <= kProcessorShared);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  const int column = lane % kBlock;
  const Differentiate& common = job.common;
  const Sizes& sizes = common.sizes;
  const int64_t n = common.first_image + static_cast<int>(blockIdx.y);
  const Place<L> place(lane);
  const uint8_t* planes = processor::keep(common.planes + n * sizes.plane_bytes);
  const bool surrogate = job.slopes != nullptr;
  int* coefficients = memory.tiles.coefficients[warp];
  float* gradients = memory.tiles.gradients[warp];

  steps.fill<kComponents, kThroughThreads>(job.steps, n);
  float sum[kSums][kBlock] = {};
  for (int work = static_cast<int>(blockIdx.x); work < job.tiles; work += static_cast<int>(gridDim.x)) {
    const int tile_row = common.tiles_across.quotient(work);
    const int tile_y = tile_row * Tile::kTall, tile_x = common.tiles_across.remainder(work, tile_row) * Tile::kWide;
    const int mcu_row = tile_row * Tile::kWarpsDown + warp / Tile::kWarpsAcross;
    const int mcu_column = tile_x / (kBlock * L::kHorizontal) + warp % Tile::kWarpsAcross * L::kMcus + place.mcu;
    const int y0 = mcu_row * kBlock * L::kVertical + place.luma_row(0);
    const int x0 = (mcu_column * L::kHorizontal + place.luma_column(0)) * kBlock;
    const bool inside = x0 < sizes.width && y0 < sizes.height;
    PixelGradient<Real> pixel[kTall][kWide] = {};
    ChromaGradient<Real> cell[1][kCells] = {};
    if (inside) differentiate_patch<U, type>(common, planes, n, y0, x0, pixel);
    __syncthreads();  // the steps are there; the last turn's tiles were read
    if constexpr (kRing) {
      memory.fine.store(y0 - tile_y, x0 - tile_x, pixel);
      for (int i = static_cast<int>(threadIdx.x); i < Fine::kRing; i += kThroughThreads) {
        memory.fine.make_ring(sizes, tile_y, tile_x, i, [&](int y, int x) {
          return chroma_gradient_at<U, type>(common, planes, n, y, x);
        });
      }
      __syncthreads();
      if (inside) memory.fine.gather(sizes, tile_y, tile_x, y0 - tile_y, x0 - tile_x, cell);
      FDJPEG_UNROLL
      for (int k = 0; k < kCells; ++k) {
        if (x0 / L::kHorizontal + k >= sizes.chroma_width) cell[0][k] = {};
      }
      __syncthreads();
    } else {
      gather_repeated<U>(pixel, cell);
    }
    if (!surrogate && inside) {
      const ChromaGradient<Real>* none = nullptr;
      write_patch<U, type>(common, planes, n, y0, x0, pixel, cell, none);
    }
    if (mcu_row < sizes.mcu_rows) {
      // The samples' gradients, transformed along the rows. A thread has whole rows of luma, parts of rows of chroma.
      FDJPEG_UNROLL
      for (int v = 0; v < L::kLumaRows; ++v) {
        float g[kBlock];
        FDJPEG_UNROLL
        for (int i = 0; i < kBlock; ++i) {
          g[i] = static_cast<float>(L::kHorizontal == 4 ? pixel[0][v * kBlock + i].y : pixel[v][i].y);
        }
        real_dct_pass(g);
        write_tile<1>(gradients + place.luma_tile(v), g);
      }
      if constexpr (!L::kGrey) {
        const int start = place.template chroma_cells<1>(), other = place.template chroma_cells<2>();
        FDJPEG_UNROLL
        for (int k = 0; k < kCells; ++k) {
          gradients[start + k] = static_cast<float>(cell[0][k].cb);
          gradients[other + k] = static_cast<float>(cell[0][k].cr);
        }
        __syncwarp();
        FDJPEG_UNROLL
        for (int v = 0; v < L::kChromaRows; ++v) {
          float g[kBlock];
          read_tile<1>(gradients + place.chroma_tile(v), g);
          real_dct_pass(g);
          write_tile<1>(gradients + place.chroma_tile(v), g);
        }
      }
      transform_rows<L, type>(
          sizes, common.input, job.input_vectors, n, mcu_row, mcu_column, place, lane, coefficients);
      __syncwarp();

      FDJPEG_UNROLL
      for (int pass = 0; pass < L::kPasses; ++pass) {
        const int block = 4 * pass + lane / kBlock, start = L::block_start(block) + column;
        const SharedSteps::Step* step = steps.step[component_of_pass<L>(pass, lane)][column];
        const int slot = pass < L::kLumaRows ? 0 : L::kHorizontal == 1 ? 1 + pass - L::kLumaRows : 1;
        float g[kBlock];
        read_tile<kTileRow>(gradients + start, g);
        real_dct_pass(g);
        int c[kBlock], k[kBlock];
        quantize_column(coefficients + start, step, c, k);
        FDJPEG_UNROLL
        for (int i = 0; i < kBlock; ++i) {
          const int error = kBlock * k[i] * step[i].step - c[i];  // exact: k - c / (8 q) would cancel
          const float missing = static_cast<float>(error) * step[i].reciprocal;
          if (surrogate) {
            const float slope = slope_at(job, -missing);
            sum[slot][i] += g[i] * (static_cast<float>(k[i]) * (1.0f - slope) + missing * slope);
            g[i] *= slope;
          } else {
            sum[slot][i] += g[i] * missing;
          }
        }
        if (surrogate) {
          real_idct_pass(g);
          const bool luma = pass < L::kLumaRows;
          const int block_row = luma ? mcu_row * L::kVertical + L::row_in_mcu(block) : mcu_row;
          const int rows = (luma ? sizes.height : sizes.chroma_height) - block_row * kBlock;
          if (rows < kBlock) add_at(g, rows - 1, sum_beyond(g, rows));
          write_tile<kTileRow>(gradients + start, g);
        }
      }
      if (surrogate) {
        __syncwarp();
        FDJPEG_UNROLL
        for (int v = 0; v < L::kLumaRows; ++v) {
          float g[kBlock];
          read_tile<1>(gradients + place.luma_tile(v), g);
          real_idct_pass(g);
          const int columns = sizes.width - (mcu_column * L::kHorizontal + place.luma_column(v)) * kBlock;
          if (columns < kBlock) add_at(g, columns - 1, sum_beyond(g, columns));
          FDJPEG_UNROLL
          for (int i = 0; i < kBlock; ++i) {
            (L::kHorizontal == 4 ? pixel[0][v * kBlock + i].y : pixel[v][i].y) = static_cast<Real>(g[i]);
          }
        }
        ChromaGradient<Real> replicas{};
        if constexpr (!L::kGrey) {
          const int columns = sizes.chroma_width - mcu_column * kBlock;
          FDJPEG_UNROLL
          for (int v = 0; v < L::kChromaRows; ++v) {
            float g[kBlock];
            float* row = gradients + place.chroma_tile(v);
            read_tile<1>(row, g);
            real_idct_pass(g);
            write_tile<1>(row, g);
            if (columns > 0 && columns < kBlock) row[columns] = sum_beyond(g, columns);
          }
          __syncwarp();
          const float* cb = gradients + place.template chroma_cells<1>();
          const float* cr = gradients + place.template chroma_cells<2>();
          FDJPEG_UNROLL
          for (int k = 0; k < kCells; ++k) cell[0][k] = {static_cast<Real>(cb[k]), static_cast<Real>(cr[k])};
          // Where samples lie right of the last one, the first of them now holds their sum.
          const int first_cell = L::kHorizontal == 1 ? 0 : place.group * kCells;
          if (columns < kBlock && columns > first_cell) {
            const int beyond = columns - first_cell;
            if (beyond <= kCells) replicas = {static_cast<Real>(cb[beyond]), static_cast<Real>(cr[beyond])};
          }
        }
        if (inside) write_patch<U, type>(common, planes, n, y0, x0, pixel, cell, &replicas);
      }
    }
  }
  if (job.partials == nullptr) return;

  sum_over_threads<L>(sum, sums);
  __syncthreads();
  float* partial = job.partials + (n * gridDim.x + blockIdx.x) * 3 * kBlockSize;
  for (int i = static_cast<int>(threadIdx.x); i < 3 * kBlockSize; i += kThroughThreads) {
    partial[i] = i < kComponents * kBlockSize ? sum_over_warps(sums, i) : 0.0f;
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

}  // namespace fdjpeg
