// The transforms alone, of rows of blocks.
//
// Part of real_table.h, which describes how it is compiled.
#pragma once

#include "cpu/real_forward.h"

namespace fdjpeg {
namespace {

// Samples of a row of blocks in scratch memory.
FDJPEG_INLINE int64_t padded_samples(const BlockTransform& job) {
  return whole_vectors(job.columns * kBlock) * kBlock;
}

// Contiguous numbers from and to their stored type.
template <SampleType type, class R, class T>
FDJPEG_INLINE void read_line(const T* source, int64_t count, R* target) {
  const R* reals;
  as_reals<type, 1>(&source, count, &target, &reals);
  if constexpr (std::is_same_v<T, R>) std::memcpy(target, source, static_cast<size_t>(count) * sizeof(R));
}

template <SampleType type, class R, class T>
FDJPEG_INLINE void write_line(const R* source, int64_t count, T* target) {
  for (int64_t i = 0; i < count; i += kRealLanes<R>) {
    store_reals<type, R>(target + i, count - i, load<Reals<R>>(source + i));
  }
}

// One or two blocks side by side, each contiguous in memory.
template <class R>
FDJPEG_INLINE void load_blocks_apart(const R* blocks, Reals<R> x[8]) {
  for (int v = 0; v < kBlock; ++v) {
    R row[kRealLanes<R>];
    for (int b = 0; b < kRealBlocks<R>; ++b) {
      std::memcpy(row + b * kBlock, blocks + b * kBlockSize + v * kBlock, kBlock * sizeof(R));
    }
    x[v] = load<Reals<R>>(row);
  }
}

template <class R>
FDJPEG_INLINE void store_blocks_apart(R* blocks, const Reals<R> x[8]) {
  for (int v = 0; v < kBlock; ++v) {
    R row[kRealLanes<R>];
    store(row, x[v]);
    for (int b = 0; b < kRealBlocks<R>; ++b) {
      std::memcpy(blocks + b * kBlockSize + v * kBlock, row + b * kBlock, kBlock * sizeof(R));
    }
  }
}

template <SampleType type, bool inverse>
void transform_row_as(const BlockTransform& job, int64_t row, void* memory) {
  using T = typename Sample<type>::Stored;
  using R = RealOf<type>;
  Scratch scratch(memory);
  R* samples = scratch.take<R>(padded_samples(job));
  R* blocks = scratch.take<R>(padded_samples(job));
  const int64_t width = job.columns * kBlock, stride = whole_vectors(width), count = width * kBlock;
  const T* input = static_cast<const T*>(job.input) + row * count;
  T* output = static_cast<T*>(job.output) + row * count;
  // Samples beyond the last block are transformed too, where a vector holds two blocks, and not stored.
  if constexpr (inverse) {
    std::memset(blocks + count, 0, static_cast<size_t>(stride - width) * kBlock * sizeof(R));
    read_line<type>(input, count, blocks);
  } else {
    for (int y = 0; y < kBlock; ++y) {
      std::memset(samples + y * stride + width, 0, static_cast<size_t>(stride - width) * sizeof(R));
      read_line<type>(input + y * width, width, samples + y * stride);
    }
  }
  for (int64_t column = 0; column < job.columns; column += kRealBlocks<R>) {
    Reals<R> x[8];
    if constexpr (inverse) {
      load_blocks_apart(blocks + column * kBlockSize, x);
      transpose(x);
      real_idct(x);
      store_rows(samples + column * kBlock, stride, x);
    } else {
      load_rows(samples + column * kBlock, stride, x);
      real_dct(x);
      transpose(x);
      store_blocks_apart(blocks + column * kBlockSize, x);
    }
  }
  if constexpr (inverse) {
    for (int y = 0; y < kBlock; ++y) write_line<type>(samples + y * stride, width, output + y * width);
  } else {
    write_line<type>(blocks, count, output);
  }
}

template <bool inverse>
FDJPEG_INLINE void transform_row(const BlockTransform& job, int64_t row, void* memory) {
  with_type_and_channels(job.type, 1, [&]<SampleType type, int>() {
    if constexpr (type != SampleType::uint8) transform_row_as<type, inverse>(job, row, memory);
  });
}

void dct_row(const BlockTransform& job, int64_t row, void* memory) {
  transform_row<false>(job, row, memory);
}

void idct_row(const BlockTransform& job, int64_t row, void* memory) {
  transform_row<true>(job, row, memory);
}

int64_t transform_scratch_bytes(const BlockTransform& job) {
  return 2 * Scratch::bytes(padded_samples(job) * static_cast<int64_t>(sizeof(double)));
}

}  // namespace
}  // namespace fdjpeg
