// The GPU's kernels of the block transforms alone: they map the passes of real_math.h to threads.
//
//   dct_blocks    planes of samples -> the coefficients of their blocks
//   idct_blocks   back
//
// Whole sectors of 32 bytes go to and from memory in each access of a warp: of samples, columns of neighbouring blocks;
// of coefficients, words of 16 bytes.
#pragma once

#include "codec/real_math.h"
#include "cuda/warp_blocks.cuh"

namespace fdjpeg {

struct TransformBlocks {
  const void* input;  // see BlockTransform
  void* output;
  int blocks;
  Divider columns;
};

constexpr int kTransformThreads = 256, kTransformWarps = kTransformThreads / kWarp;
constexpr int kBlocksOfWarp = kWarp / kBlock;  // eight threads a block

// As many threads as sm_75 holds; elsewhere half as many again or twice as many run, as they take 40 registers. Each
// has eight numbers on their way from memory at once.
constexpr int kTransformBlocksPerProcessor = 4;
static_assert(registers_left(kTransformThreads, kTransformBlocksPerProcessor) == 64);

// A thread has a column of samples, and the row of coefficients of the same number. Those beyond the last block do the
// last one again: they write what is written there anyway.
struct BlockThread {
  int number;           // of its column and its row: 0 … 7
  int64_t sample;       // the first of its column
  int64_t stride;       // from a row of samples to the next
  int64_t coefficient;  // the first of its block

  FDJPEG_DEVICE explicit BlockThread(const TransformBlocks& job) {
    const unsigned wanted = blockIdx.x * (kTransformThreads / kBlock) + threadIdx.x / kBlock;
    const int block = wanted < static_cast<unsigned>(job.blocks) ? static_cast<int>(wanted) : job.blocks - 1;
    const int row = job.columns.quotient(block), column = job.columns.remainder(block, row);
    number = static_cast<int>(threadIdx.x % kBlock);
    stride = int64_t{kBlock} * job.columns.divisor;
    sample = kBlock * (row * stride + column) + number;
    coefficient = int64_t{kBlockSize} * block;
  }
};

// Two neighbouring threads have two words each; after this the even one has the first of both, the odd one the second.
FDJPEG_DEVICE void exchange(bool odd, uint4& first, uint4& second) {
  const uint4 given = odd ? first : second;
  const uint4 taken = {
      processor::shuffle_xor(given.x, 1), processor::shuffle_xor(given.y, 1), processor::shuffle_xor(given.z, 1),
      processor::shuffle_xor(given.w, 1)};
  (odd ? first : second) = taken;
}

// The words of 16 bytes in a row of a block. A sector is two words, so neighbours, whose rows are contiguous, share out
// the words of both: one has access to the even ones and one to the odd ones.
template <class T>
struct RowWords {
  static constexpr int kCount = kBlock * static_cast<int>(sizeof(T)) / 16, kHalf = kCount / 2;
  uint4 word[kCount];  // of the even thread's row, then of the odd one's; after the exchange the row's even, odd words

  static FDJPEG_DEVICE int first(int number) {
    return number / 2 * 2 * kCount + number % 2;
  }
  FDJPEG_DEVICE void exchange_halves(int number) {
    FDJPEG_UNROLL
    for (int i = 0; i < kHalf; ++i) exchange(number % 2 != 0, word[i], word[kHalf + i]);
  }
  // Of the row's words in order.
  FDJPEG_DEVICE uint4& operator[](int i) {
    return word[i % 2 * kHalf + i / 2];
  }
};

template <class T>
FDJPEG_DEVICE void read_row(const T* block, int number, T (&row)[kBlock]) {
  using Words = RowWords<T>;
  const uint4* source = reinterpret_cast<const uint4*>(block) + Words::first(number);
  Words words;
  FDJPEG_UNROLL
  for (int i = 0; i < Words::kCount; ++i) words.word[i] = processor::load_once(source + 2 * i);
  words.exchange_halves(number);
  FDJPEG_UNROLL
  for (int i = 0; i < Words::kCount; ++i) __builtin_memcpy(reinterpret_cast<char*>(row) + 16 * i, &words[i], 16);
}

template <class T>
FDJPEG_DEVICE void write_row(T* block, int number, const T (&row)[kBlock]) {
  using Words = RowWords<T>;
  Words words;
  FDJPEG_UNROLL
  for (int i = 0; i < Words::kCount; ++i) __builtin_memcpy(&words[i], reinterpret_cast<const char*>(row) + 16 * i, 16);
  words.exchange_halves(number);
  uint4* target = reinterpret_cast<uint4*>(block) + Words::first(number);
  FDJPEG_UNROLL
  for (int i = 0; i < Words::kCount; ++i) processor::store_once(target + 2 * i, words.word[i]);
}

// The tiles of a block of threads: numbers in double precision take two banks each, and an access to them as many
// turns.
template <class Real>
struct Tiles {
  Real of[kTransformWarps][kBlocksOfWarp * kTileBlock];

  FDJPEG_DEVICE Real* block() {
    return of[threadIdx.x / kWarp] + threadIdx.x % kWarp / kBlock * kTileBlock;
  }
};

template <SampleType type>
__global__ void __launch_bounds__(kTransformThreads, kResident<type, kTransformBlocksPerProcessor>)
    dct_blocks(const __grid_constant__ TransformBlocks job) {
  using T = typename Sample<type>::Stored;
  using Real = typename Sample<type>::Real;
  __shared__ Tiles<Real> tiles;
  static_assert(sizeof(tiles) <= kBlockShared);
  const BlockThread thread(job);
  const T* column = static_cast<const T*>(job.input) + thread.sample;
  Real x[kBlock];
  FDJPEG_UNROLL
  for (int y = 0; y < kBlock; ++y) x[y] = Sample<type>::real(processor::load_once(column + y * thread.stride));
  real_dct_pass(x);
  write_tile<kTileRow>(tiles.block() + thread.number, x);
  __syncwarp();
  read_tile<1>(tiles.block() + thread.number * kTileRow, x);
  real_dct_pass(x);
  T row[kBlock];
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) row[i] = Sample<type>::stored(x[i]);
  write_row(static_cast<T*>(job.output) + thread.coefficient, thread.number, row);
}

template <SampleType type>
__global__ void __launch_bounds__(kTransformThreads, kResident<type, kTransformBlocksPerProcessor>)
    idct_blocks(const __grid_constant__ TransformBlocks job) {
  using T = typename Sample<type>::Stored;
  using Real = typename Sample<type>::Real;
  __shared__ Tiles<Real> tiles;
  static_assert(sizeof(tiles) <= kBlockShared);
  const BlockThread thread(job);
  T row[kBlock];
  read_row(static_cast<const T*>(job.input) + thread.coefficient, thread.number, row);
  Real x[kBlock];
  FDJPEG_UNROLL
  for (int i = 0; i < kBlock; ++i) x[i] = Sample<type>::real(row[i]);
  real_idct_pass(x);
  write_tile<1>(tiles.block() + thread.number * kTileRow, x);
  __syncwarp();
  read_tile<kTileRow>(tiles.block() + thread.number, x);
  real_idct_pass(x);
  T* column = static_cast<T*>(job.output) + thread.sample;
  FDJPEG_UNROLL
  for (int y = 0; y < kBlock; ++y) processor::store_once(column + y * thread.stride, Sample<type>::stored(x[y]));
}

}  // namespace fdjpeg
