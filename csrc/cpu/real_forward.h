// From pixels to the components of a row of MCUs, and through the transform, rounding and back.
//
// Part of real_table.h, which describes how it is compiled.
#pragma once

#include "cpu/real_kernels.h"
#include "cpu/real_lanes.h"
#include "cpu/real_rows.h"
#include "cpu/resampling.h"

namespace fdjpeg {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// The components of a row of MCUs

// Y, Cb and Cr in units of 0 … 255, Y less 128, at their coded size; or gradients by them. A row of samples is as long
// as whole vectors are, and the numbers beyond the coded size are finite wherever the image is.
template <class R>
struct Components {
  R* samples[3];
};

template <class R>
FDJPEG_INLINE int64_t components_bytes(const Geometry& g) {
  constexpr int64_t kSize = sizeof(R);
  return Scratch::bytes(luma_stride(g) * kBlock * g.vertical * kSize) +
      2 * Scratch::bytes(chroma_stride(g) * kBlock * kSize);
}

template <class R>
FDJPEG_INLINE Components<R> take_components(const Geometry& g, Scratch& scratch) {
  return {
      {scratch.take<R>(luma_stride(g) * kBlock * g.vertical), scratch.take<R>(chroma_stride(g) * kBlock),
       scratch.take<R>(chroma_stride(g) * kBlock)}};
}

template <class R>
FDJPEG_INLINE void repeat_last(R* line, int64_t width, int64_t padded) {
  for (int64_t x = width; x < padded; ++x) line[x] = line[width - 1];
}

// ---------------------------------------------------------------------------------------------------------------------
// Between the stored type and R

// Stores a vector of numbers as samples, `count` of which are inside the image; bytes are rounded half to even.
template <SampleType type, class R, class T>
FDJPEG_INLINE void store_reals(T* target, int64_t count, Reals<R> x) {
  constexpr int kLanesOfReals = kRealLanes<R>;
  R reals[kLanesOfReals];
  if constexpr (std::is_same_v<T, R>) {
    if (count >= kLanesOfReals) {
      store(target, x);
    } else {
      store(reals, x);
      std::memcpy(target, reals, static_cast<size_t>(count) * sizeof(T));
    }
  } else if constexpr (type == SampleType::uint8) {
    store(reals, RealLane<Reals<R>>::round(x));
    for (int i = 0; i < least(count, kLanesOfReals); ++i) target[i] = static_cast<uint8_t>(reals[i]);
  } else {
    store(reals, x);
    T samples[kLanesOfReals];
    for (int i = 0; i < kLanesOfReals; i += kHalf) Sample<type>::store(samples + i, load<Floats>(reals + i));
    std::memcpy(target, samples, static_cast<size_t>(least(count, kLanesOfReals)) * sizeof(T));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// From pixels to components

// Y, Cb and Cr of a row of pixels; Y less the level shift.
template <class R>
FDJPEG_INLINE void colour_row(
    const R* __restrict red, const R* __restrict green, const R* __restrict blue, R scale, int64_t width,
    R* __restrict luma, R* __restrict cb, R* __restrict cr) {
  for (int64_t x = 0; x < width; ++x) {
    const YCbCr<R> colour = real_rgb_to_ycbcr(scale * red[x], scale * green[x], scale * blue[x]);
    luma[x] = colour.y - kLevelShift;
    cb[x] = colour.cb;
    cr[x] = colour.cr;
  }
}

// Reads the pixels of a row of MCUs into its components.
template <SampleType type, int channels, class R = RealOf<type>>
FDJPEG_INLINE void read_components(
    const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, const Components<R>& into, Scratch scratch) {
  const int64_t stride = luma_stride(g), coarse_stride = chroma_stride(g), fine = fine_width(g);
  const R scale = type == SampleType::uint8 ? R(1) : R(kMaxSample);
  const PixelLines<type, channels> lines(g, scratch);
  R* full[2][2];  // Cb and Cr at full resolution: the rows that are averaged together
  for (auto& component : full) {
    for (R*& line : component) line = scratch.take<R>(fine);
  }

  for (int i = 0; i < kBlock * g.vertical; ++i) {
    R* const luma = into.samples[0] + i * stride;
    const int64_t y = mcu_row * kBlock * g.vertical + i;
    const int chroma_line = i / g.vertical, part = i % g.vertical;
    if (y < g.height) {
      const R* pixels[channels];
      lines.read(g, input, n, y, pixels);
      if constexpr (channels == 1) {
        for (int64_t x = 0; x < g.width; ++x) luma[x] = scale * pixels[0][x] - kLevelShift;
      } else {
        colour_row(pixels[0], pixels[1], pixels[2], scale, g.width, luma, full[0][part], full[1][part]);
        for (int c = 0; c < 2; ++c) repeat_last(full[c][part], g.width, fine);
      }
      repeat_last(luma, g.width, stride);
    } else {
      std::memcpy(luma, luma - stride, static_cast<size_t>(stride) * sizeof(R));
    }
    if (channels == 1 || part != g.vertical - 1) continue;
    // A row of chroma that exists averages replicated pixel rows; one beyond the edge repeats the row above it.
    for (int c = 0; c < 2; ++c) {
      R* line = into.samples[c + 1] + chroma_line * coarse_stride;
      if (mcu_row * kBlock + chroma_line < g.chroma_height) {
        average_row(g, full[c][0], full[c][y < g.height ? part : 0], line);
      } else {
        std::memcpy(line, line - coarse_stride, static_cast<size_t>(coarse_stride) * sizeof(R));
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks: x[i] is row i of one or two blocks side by side; once transformed, x[u] holds horizontal frequency u

// An image's tables as blocks want them, transposed, a row of them for each block of a vector.
template <class R>
struct RealTables {
  alignas(64) R step[3][kBlock][kRealLanes<R>];
  alignas(64) R reciprocal[3][kBlock][kRealLanes<R>];

  RealTables(const RealSteps& steps, int64_t image) {
    const double* tables = steps.tables + image * steps.image_stride;
    for (int c = 0; c < 3; ++c) {
      for (int u = 0; u < kBlock; ++u) {
        for (int lane = 0; lane < kRealLanes<R>; ++lane) {
          const double q = tables[c * kBlockSize + lane % kBlock * kBlock + u];
          step[c][u][lane] = R(q);
          reciprocal[c][u][lane] = R(1 / q);
        }
      }
    }
  }
};

template <class V>
FDJPEG_INLINE void real_dct(V x[8]) {
  real_dct_pass(x);
  transpose(x);
  real_dct_pass(x);
}

template <class V>
FDJPEG_INLINE void real_idct(V x[8]) {
  real_idct_pass(x);
  transpose(x);
  real_idct_pass(x);
}

template <class R>
FDJPEG_INLINE void load_rows(const R* samples, int64_t stride, Reals<R> x[8]) {
  for (int i = 0; i < kBlock; ++i) x[i] = load<Reals<R>>(samples + i * stride);
}

template <class R>
FDJPEG_INLINE void store_rows(R* samples, int64_t stride, const Reals<R> x[8]) {
  for (int i = 0; i < kBlock; ++i) store(samples + i * stride, x[i]);
}

// Calls body(component, offset of the samples, stride) for each group of blocks of a row of MCUs, from a component on.
template <class R, class Body>
FDJPEG_INLINE void for_each_block_group(const Geometry& g, int64_t mcu_row, int first_component, Body body) {
  for (int c = first_component; c < g.channels; ++c) {
    const int64_t stride = c == 0 ? luma_stride(g) : chroma_stride(g);
    const int64_t columns = c == 0 ? g.luma_columns : g.chroma_columns;
    const int64_t rows = c == 0 ? least(g.vertical, g.luma_rows - mcu_row * g.vertical) : 1;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; column += kRealBlocks<R>) {
        body(c, (row * stride + column) * kBlock, stride);
      }
    }
  }
}

// Takes components through the transform, rounding and back.
template <Surrogate surrogate, class R>
void code_components(
    const Geometry& g, int64_t mcu_row, int first_component, const Rounding& rounding, const RealTables<R>& tables,
    const Components<R>& components) {
  using V = Reals<R>;
  for_each_block_group<R>(g, mcu_row, first_component, [&](int c, int64_t offset, int64_t stride) FDJPEG_LAMBDA_INLINE {
    V x[8];
    load_rows(components.samples[c] + offset, stride, x);
    real_dct(x);
    for (int u = 0; u < kBlock; ++u) {
      const V in_steps = x[u] * load<V>(tables.reciprocal[c][u]);
      x[u] = rounded_or_soft<surrogate>(in_steps, rounding) * load<V>(tables.step[c][u]);
    }
    real_idct(x);
    store_rows(components.samples[c] + offset, stride, x);
  });
}

// Takes gradients back through them: multiplies each coefficient's by r', and adds up `table_partial`, the tables'.
template <Surrogate surrogate, class R>
void gradients_through_transform(
    const Geometry& g, int64_t mcu_row, const Rounding& rounding, const RealTables<R>& tables,
    const Components<R>& components, const Components<R>& gradients, double* table_partial) {
  using V = Reals<R>;
  V sums[3][kBlock] = {};
  for_each_block_group<R>(g, mcu_row, 0, [&](int c, int64_t offset, int64_t stride) FDJPEG_LAMBDA_INLINE {
    V x[8], y[8];
    load_rows(components.samples[c] + offset, stride, x);
    real_dct(x);
    load_rows(gradients.samples[c] + offset, stride, y);
    real_dct(y);
    for (int u = 0; u < kBlock; ++u) {
      const Derivatives<V> derivatives =
          derivatives_of_rounding<surrogate>(x[u] * load<V>(tables.reciprocal[c][u]), rounding);
      if (table_partial != nullptr) sums[c][u] += y[u] * derivatives.of_step;
      y[u] *= derivatives.of_coefficient;
    }
    if (surrogate != Surrogate::straight_through) {
      real_idct(y);
      store_rows(gradients.samples[c] + offset, stride, y);
    }
  });
  if (table_partial == nullptr) return;
  for (int i = 0; i < 3 * kBlockSize; ++i) {
    const int c = i / kBlockSize, v = i / kBlock % kBlock, u = i % kBlock;
    double sum = 0;
    for (int block = 0; block < kRealBlocks<R>; ++block) sum += sums[c][u][block * kBlock + v];
    table_partial[i] = sum / kMaxSample;  // an image leaves in [0, 1]
  }
}

}  // namespace
}  // namespace fdjpeg
