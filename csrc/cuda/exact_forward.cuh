// The GPU's forward kernels of the exact codec: an image to decoded 8-bit planes, or to quantized coefficients, and
// back. Like all kernels they map the arithmetic of codec/ to threads and launch nothing, so that a CPU can run them in
// tests.
//
//   code_blocks     image -> decoded 8-bit planes, or quantized coefficients
//   decode_blocks   quantized coefficients -> decoded 8-bit planes
//   emit_image      planes -> image: upsampling and colour
//
// Forward is two kernels with 8-bit planes between them: fused, the triangle upsampling would need a halo of whole
// MCUs, while the planes cost an eighth of the float32 image's bytes and show backward where the last clamp had an
// effect.
#pragma once

#include "cuda/upsampling.cuh"
#include "cuda/warp_blocks.cuh"

namespace fdjpeg {

// The result of code_blocks: decoded planes by the steps of the image, or of each block; or quantized coefficients.
enum class Make { planes, planes_by_block, coefficients };

// Each warp codes a few MCUs side by side.
struct CodeBlocks {
  Sizes sizes;
  Steps steps;
  Image input;
  bool vectors;              // whether eight samples of a row may be read as words of 16 bytes
  uint8_t* planes;           // [images][plane_bytes]
  int16_t* coefficients[3];  // [images][rows][columns][8][8]
  int first_image;           // of this launch
  int warps;                 // of work in each image
  Divider warps_across;      // how many of them are side by side
};

constexpr int kCodeWarps = FDJPEG_CODE_WARPS;
constexpr int kCodeThreads = kCodeWarps * kWarp;
// Four blocks of 256 threads leave a thread 64 of a multiprocessor's 65536 registers; fewer than 40 would spill.
constexpr int kCodeBlocksPerProcessor = FDJPEG_CODE_BLOCKS;
static_assert(registers_left(kCodeThreads, kCodeBlocksPerProcessor) >= 40);

// The standard tables at a block's own quality, from the tables at quality 50, which are the standard ones themselves.
template <class L>
FDJPEG_DEVICE int scale_of_block(
    const Sizes& sizes, const uint8_t* qualities, int64_t n, int mcu_row, int first_mcu, int block) {
  const int row = smaller(mcu_row * L::kVertical + L::row_in_mcu(block), sizes.luma_rows - 1);
  const int column =
      smaller((first_mcu + L::mcu_of(block)) * L::kHorizontal + L::column_in_mcu(block), sizes.luma_columns - 1);
  return quality_percentage<int>(qualities[(n * sizes.luma_rows + row) * sizes.luma_columns + column]);
}

template <class L, SampleType type, Make make>
__global__ void __launch_bounds__(kCodeThreads, kResident<type, kCodeBlocksPerProcessor>)
    code_blocks(const __grid_constant__ CodeBlocks job) {
  __shared__ SharedSteps steps;
  __shared__ int tiles[kCodeWarps][L::kTile];
  using AheadOf = Ahead<L, typename Sample<type>::Stored, kCodeThreads, FDJPEG_CODE_ASYNC != 0>;
  __shared__ AheadOf ahead;
  constexpr size_t kShared = sizeof(steps) + sizeof(tiles) + (std::is_empty_v<AheadOf> ? 0 : sizeof(ahead));
  static_assert(kCodeBlocksPerProcessor * kShared <= kProcessorShared);
  static_assert(kShared <= kBlockShared);
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
  // By block these are the standard tables, which each block scales.
  steps.fill<L::kGrey ? 1 : 3, kCodeThreads>(make == Make::planes_by_block ? Steps{nullptr, 0, 100} : job.steps, n);
  if (busy) {
    unusual = transform_rows<L, type>(sizes, job.input, job.vectors, n, mcu_row, mcu_column, place, lane, tile, &ahead);
  }
  __syncthreads();
  if (!busy) return;

  FDJPEG_UNROLL
  for (int pass = 0; pass < L::kPasses; ++pass) {
    const int column = lane % kBlock;
    const int block = 4 * pass + lane / kBlock;
    int* samples = tile + L::block_start(block) + column;
    const SharedSteps::Step* step = steps.step[component_of_pass<L>(pass, lane)][column];
    SharedSteps::Step own[kBlock];
    if constexpr (make == Make::planes_by_block) {
      const int scale = scale_of_block<L>(sizes, job.steps.qualities, n, mcu_row, mcu_column - place.mcu, block);
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) own[i] = SharedSteps::of(standard_step(step[i].step, scale));
      step = own;
    }
    int c[8], k[8];
    quantize_column(samples, step, c, k);
    if constexpr (make != Make::coefficients) {
      FDJPEG_UNROLL
      for (int i = 0; i < kBlock; ++i) k[i] *= step[i].step;
      idct_pass<true>(k);
    }
    write_tile<kTileRow>(samples, k);
  }
  __syncwarp();

  uint8_t* planes = processor::keep(job.planes + n * sizes.plane_bytes);
  const auto finish_row = [&](const int* row, int component, int block_row, int y, int block_column) {
    const bool luma = component == 0;
    const int rows = luma ? sizes.luma_rows : sizes.chroma_rows;
    const int columns = luma ? sizes.luma_columns : sizes.chroma_columns;
    if (block_row >= rows || block_column >= columns) return;
    if constexpr (make == Make::coefficients) {
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
      const unsigned target =
          offset + (static_cast<unsigned>(block_row * kBlock + y) * columns + block_column) * kBlock;
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

  if constexpr (make != Make::coefficients) {
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

constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

static __global__ void __launch_bounds__(kDecodeThreads) decode_blocks(const __grid_constant__ DecodeBlocks job) {
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

// Each thread makes a patch of pixels.
struct EmitImage {
  Sizes sizes;
  const uint8_t* planes;  // [images][plane_bytes]
  Image output;
  bool vectors;  // whether a patch's row may be written as words
  int first_image;
  int patches;  // in each image
  Divider patches_across;
};

constexpr int kPatch = FDJPEG_EMIT_PATCH;  // pixels

// A row of a patch is 16 bytes of the image where that is at most eight pixels.
template <SampleType type>
constexpr int kPatchWidth = sizeof(typename Sample<type>::Stored) >= 4 ? FDJPEG_EMIT_WIDE : 8;

constexpr int kEmitThreads = 256;
constexpr int kEmitBlocksPerProcessor = FDJPEG_EMIT_BLOCKS;
static_assert(registers_left(kEmitThreads, kEmitBlocksPerProcessor) >= 40);

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
  uint8_t luma[kTall][kWide];  // rows of blocks continue below the image, so that all of these are there
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

}  // namespace fdjpeg
