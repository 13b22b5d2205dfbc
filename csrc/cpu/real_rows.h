// Rows of real numbers R, float or double: an image's pixels as such, and the adjoint of replicating its edges.
//
// Included by source files that are compiled for one instruction set each, so everything here has internal linkage (see
// exact_table.h).
#pragma once

#include <type_traits>

#include "cpu/image_rows.h"
#include "cpu/sample_lanes.h"

namespace fdjpeg {
namespace {

template <SampleType type>
using RealOf = std::conditional_t<type == SampleType::float64, double, float>;

// Rows of samples as numbers: in place, or converted into `converted`.
template <SampleType type, int channels, class T, class R>
FDJPEG_INLINE void as_reals(
    const T* const rows[channels], int64_t width, R* const converted[channels], const R* reals[channels]) {
  for (int c = 0; c < channels; ++c) {
    if constexpr (std::is_same_v<T, R>) {
      reals[c] = rows[c];
      continue;
    } else if constexpr (type == SampleType::uint8) {
      for (int64_t x = 0; x < width; ++x) converted[c][x] = rows[c][x];
    } else {
      for_each_step<1, kHalf>(rows + c, width, width, [&](const T* const* at, int64_t x) FDJPEG_LAMBDA_INLINE {
        store(converted[c] + x, Sample<type>::load(at[0]));
      });
    }
    reals[c] = converted[c];
  }
}

// A row of pixels as numbers: the lines of scratch memory that it takes, gathered from strided memory and converted.
template <SampleType type, int channels>
struct PixelLines {
  using T = typename Sample<type>::Stored;
  using R = RealOf<type>;
  T* gathered[channels];
  R* converted[channels];

  PixelLines(const Geometry& g, Scratch& scratch) {
    for (T*& line : gathered) line = scratch.take<T>(g.width);
    for (R*& line : converted) line = scratch.take<R>(g.width);
  }

  FDJPEG_INLINE void read(const Geometry& g, const Image& image, int64_t n, int64_t y, const R* reals[channels]) const {
    const T* rows[channels];
    gather_row<channels>(image, n, y, g.width, gathered, rows);
    as_reals<type, channels>(rows, g.width, converted, reals);
  }
};

template <class R>
FDJPEG_INLINE void add_scaled(const R* __restrict source, R scale, int64_t count, R* __restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] += scale * source[i];
}

// Samples of a row of blocks at whole vectors.
FDJPEG_INLINE int64_t whole_vectors(int64_t samples) {
  return (samples + 15) / 16 * 16;
}

FDJPEG_INLINE int64_t luma_stride(const Geometry& g) {
  return whole_vectors(g.luma_columns * kBlock);
}

FDJPEG_INLINE int64_t chroma_stride(const Geometry& g) {
  return whole_vectors(g.chroma_columns * kBlock);
}

// Samples of a line of chroma at full resolution: it covers luma's.
FDJPEG_INLINE int64_t fine_width(const Geometry& g) {
  return most(chroma_stride(g) * g.horizontal, luma_stride(g));
}

// Adds the gradients of rows and columns of a row of MCUs that edges were replicated to onto those that they were
// replicated from. (The columns right of chroma's last one stay: each represents several columns of pixels, which
// spread_across knows.)
template <class R>
FDJPEG_INLINE void fold_edges(
    const Geometry& g, int64_t mcu_row, R* const samples[3], int64_t luma_stride, int64_t chroma_stride) {
  const int64_t coded_width = g.luma_columns * kBlock, top = mcu_row * kBlock * g.vertical;
  const int64_t coded_rows = least(kBlock * g.vertical, g.luma_rows * kBlock - top);
  const int64_t true_rows = least(coded_rows, g.height - top);
  R* last = samples[0] + (true_rows - 1) * luma_stride;
  for (int64_t y = true_rows; y < coded_rows; ++y) add_scaled(samples[0] + y * luma_stride, R(1), coded_width, last);
  for (int64_t y = 0; y < true_rows; ++y) {
    R* line = samples[0] + y * luma_stride;
    for (int64_t x = g.width; x < coded_width; ++x) line[g.width - 1] += line[x];
  }
  const int64_t chroma_rows = least(kBlock, g.chroma_height - mcu_row * kBlock);
  for (int c = 1; c < g.channels; ++c) {
    R* edge = samples[c] + (chroma_rows - 1) * chroma_stride;
    for (int64_t y = chroma_rows; y < kBlock; ++y) {
      add_scaled(samples[c] + y * chroma_stride, R(1), g.chroma_columns * kBlock, edge);
    }
  }
}

}  // namespace
}  // namespace fdjpeg
