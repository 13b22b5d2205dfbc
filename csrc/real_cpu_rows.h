// The kernels of real_cpu_kernels.h, written over the lanes of real_lanes.h; R is the type that is computed in, float
// or double (for double images).
//
// Included by one source file for each instruction set, which names its FDJPEG_VECTOR_BYTES; everything here has
// internal linkage, so that no function compiled for one processor is ever linked into another's path.
#pragma once

#include <type_traits>

#include "image_rows.h"
#include "real_cpu_kernels.h"
#include "real_lanes.h"

namespace fdjpeg {
namespace {

template <SampleType type>
using RealOf = std::conditional_t<type == SampleType::float64, double, float>;

// ---------------------------------------------------------------------------------------------------------------------
// The components of a row of MCUs

// Y, Cb and Cr in units of 0 … 255, Y less 128, at their coded size; or gradients by them. A row of samples is as long
// as whole vectors are, and what lies beyond the coded size is finite wherever the image is.
template <class R>
struct Components {
  R* samples[3];
};

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

// Rows of samples as numbers: where they lie, or converted into `converted`.
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

// Stores a vector of numbers as samples, `count` of which lie inside the image; bytes are rounded half to even.
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

// The lines of scratch memory that a row of pixels takes, gathered from strided memory and converted.
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

// Cb or Cr of one subsampled row, from `vertical` rows at full resolution.
template <class R>
FDJPEG_INLINE void average_row(
    const Geometry& g, const R* __restrict above, const R* __restrict below, R* __restrict target) {
  const int64_t width = chroma_stride(g);
  if (g.horizontal == 2 && g.vertical == 2) {
    for (int64_t i = 0; i < width; ++i) {
      target[i] = R(.25) * ((above[2 * i] + above[2 * i + 1]) + (below[2 * i] + below[2 * i + 1]));
    }
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) target[i] = R(.5) * (above[2 * i] + above[2 * i + 1]);
  } else if (g.horizontal == 4) {
    for (int64_t i = 0; i < width; ++i) {
      target[i] = R(.25) * ((above[4 * i] + above[4 * i + 1]) + (above[4 * i + 2] + above[4 * i + 3]));
    }
  } else if (g.vertical == 2) {
    for (int64_t i = 0; i < width; ++i) target[i] = R(.5) * (above[i] + below[i]);
  } else {
    std::memcpy(target, above, static_cast<size_t>(width) * sizeof(R));
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

// Calls body.template operator()<surrogate>() for the surrogate that there is.
template <class Body>
FDJPEG_INLINE void with_surrogate(Surrogate surrogate, Body body) {
  switch (surrogate) {
    case Surrogate::straight_through:
      return body.template operator()<Surrogate::straight_through>();
    case Surrogate::zero:
      return body.template operator()<Surrogate::zero>();
    case Surrogate::cubic:
      return body.template operator()<Surrogate::cubic>();
    case Surrogate::sine:
      return body.template operator()<Surrogate::sine>();
    case Surrogate::fourier:
      return body.template operator()<Surrogate::fourier>();
    case Surrogate::tanh:
      return body.template operator()<Surrogate::tanh>();
    case Surrogate::softmax:
      return body.template operator()<Surrogate::softmax>();
  }
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

// ---------------------------------------------------------------------------------------------------------------------
// From components to pixels

// The rows of chroma that pixel row y blends: it lies in the first, the second is the nearer neighbour.
struct BlendedRows {
  int64_t near, far;
};

FDJPEG_INLINE BlendedRows blended_rows(const Geometry& g, int64_t y) {
  const int64_t near = y / g.vertical;
  if (!g.triangle_down()) return {near, near};
  const int64_t far = y % 2 == 0 ? near - 1 : near + 1;
  return {near, far < 0 || far >= g.chroma_height ? near : far};
}

// Cb or Cr along a pixel row from the two rows of chroma that it blends. Returns where it lies: in `near` itself at
// 4:4:4, else in `fine`. `blend` may be written one before its begin and one beyond its end.
template <class R>
FDJPEG_INLINE const R* upsampled_row(
    const Geometry& g, const R* __restrict near, const R* __restrict far, R* __restrict blend, R* __restrict fine) {
  const int64_t width = g.chroma_width;
  const R* line = near;
  if (g.triangle_down()) {
    R* __restrict blended = g.triangle_across() ? blend : fine;
    for (int64_t i = 0; i < width; ++i) blended[i] = R(.75) * near[i] + R(.25) * far[i];
    line = blended;
  }
  if (g.triangle_across()) {
    if (line != blend) std::memcpy(blend, near, static_cast<size_t>(width) * sizeof(R));
    blend[-1] = blend[0];
    blend[width] = blend[width - 1];
    for (int64_t i = 0; i < width; ++i) {
      fine[2 * i] = R(.75) * blend[i] + R(.25) * blend[i - 1];
      fine[2 * i + 1] = R(.75) * blend[i] + R(.25) * blend[i + 1];
    }
    return fine;
  }
  if (g.horizontal == 1) return line;
  if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) fine[2 * i] = fine[2 * i + 1] = line[i];
  } else {
    for (int64_t i = 0; i < width; ++i) fine[4 * i] = fine[4 * i + 1] = fine[4 * i + 2] = fine[4 * i + 3] = line[i];
  }
  return fine;
}

// The components of a row of MCUs and its neighbours', by turns in the same memory.
constexpr int kNeighbours = 3;

// Upsamples and converts the pixels of a row of MCUs, limits them, and notes where that changed them.
template <SampleType type, int channels, class R = RealOf<type>>
FDJPEG_INLINE void emit_pixels(
    const RealRoundTrip& job, int64_t n, int64_t mcu_row, const Components<R> (&rows)[kNeighbours], Scratch scratch) {
  using V = Reals<R>;
  using T = typename Sample<type>::Stored;
  using Mask = typename VectorOf<R>::Mask;
  const Geometry& g = job.geometry;
  const R scale = type == SampleType::uint8 ? R(1) : R(1.0 / kMaxSample);
  const R highest = type == SampleType::uint8 ? R(kMaxSample) : R(1);
  T* staged[channels];
  for (T*& line : staged) line = scratch.take<T>(g.width);
  R* blend = scratch.take<R>(chroma_stride(g) + 32) + 16;
  R* fine[2];
  for (R*& line : fine) line = scratch.take<R>(fine_width(g));
  const auto chroma_row = [&](int c, int64_t row) {
    return rows[row / kBlock % kNeighbours].samples[c] + row % kBlock * chroma_stride(g);
  };

  const int64_t top = mcu_row * kBlock * g.vertical;
  for (int64_t y = top; y < least(top + kBlock * g.vertical, g.height); ++y) {
    T* target[channels];
    target_row<channels>(job.output, n, y, staged, target);
    uint8_t* mask = job.mask + (n * g.height + y) * g.width;
    const R* luma = rows[mcu_row % kNeighbours].samples[0] + (y - top) * luma_stride(g);
    const R* chroma[2] = {};
    if constexpr (channels == 3) {
      const BlendedRows blended = blended_rows(g, y);
      for (int c = 0; c < 2; ++c) {
        chroma[c] = upsampled_row(g, chroma_row(c + 1, blended.near), chroma_row(c + 1, blended.far), blend, fine[c]);
      }
    }
    for (int64_t x = 0; x < g.width; x += kRealLanes<R>) {
      const int64_t count = g.width - x;
      typename VectorOf<R>::Bits bits{};
      const auto emit = [&](int c, V sample) FDJPEG_LAMBDA_INLINE {
        const V value = scale * sample;
        bits |= (value >= R(0)) & (value <= highest) & (1 << c);
        const V above = value < R(0) ? V{} : value;
        store_reals<type, R>(target[c] + x, count, above > highest ? V{} + highest : above);
      };
      const V level = load<V>(luma + x) + R(kLevelShift);
      if constexpr (channels == 1) {
        emit(0, level);
      } else {
        const RGB<V> pixel = real_ycbcr_to_rgb(level, load<V>(chroma[0] + x), load<V>(chroma[1] + x));
        emit(0, pixel.r);
        emit(1, pixel.g);
        emit(2, pixel.b);
      }
      const Mask bytes = __builtin_convertvector(bits, Mask);
      std::memcpy(mask + x, &bytes, static_cast<size_t>(least(count, kRealLanes<R>)));
    }
    scatter_row<channels>(job.output, n, y, g.width, target);
  }
}

template <class R>
FDJPEG_INLINE int64_t line_bytes(const Geometry& g) {
  // Pixels gathered and converted, by channel; lines of chroma at full resolution.
  return 6 * Scratch::bytes(g.width * sizeof(R)) + 6 * Scratch::bytes((fine_width(g) + 32) * sizeof(R));
}

template <SampleType type, int channels>
void round_trip_rows_as(const RealRoundTrip& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  using R = RealOf<type>;
  const Geometry& g = job.geometry;
  const RealTables<R> tables(job.steps, n);
  Scratch scratch(memory);
  Components<R> rows[kNeighbours];
  for (Components<R>& row : rows) row = take_components<R>(g, scratch);
  // The triangle makes pixels depend on the chroma of the neighbouring rows of MCUs.
  const int64_t halo = g.triangle_down() ? 1 : 0;
  const int64_t last = least(end + halo, g.mcu_rows);
  int64_t emitted = begin;
  for (int64_t row = most(begin - halo, 0); row < last; ++row) {
    const Components<R>& components = rows[row % kNeighbours];
    const int first_component = row >= begin && row < end ? 0 : 1;
    read_components<type, channels>(g, job.input, n, row, components, scratch);
    with_surrogate(
        job.rounding.soft ? job.rounding.surrogate : Surrogate::straight_through, [&]<Surrogate surrogate>() {
          code_components<surrogate>(g, row, first_component, job.rounding, tables, components);
        });
    if (emitted + halo <= row) emit_pixels<type, channels>(job, n, emitted++, rows, scratch);
  }
  while (emitted < end) emit_pixels<type, channels>(job, n, emitted++, rows, scratch);
}

// Calls body.template operator()<type, channels>().
template <class Body>
FDJPEG_INLINE void with_type(SampleType type, int channels, Body body) {
  const auto with_channels = [&]<SampleType kind>() {
    if (channels == 1) {
      body.template operator()<kind, 1>();
    } else {
      body.template operator()<kind, 3>();
    }
  };
  switch (type) {
    case SampleType::uint8:
      return with_channels.template operator()<SampleType::uint8>();
    case SampleType::float16:
      return with_channels.template operator()<SampleType::float16>();
    case SampleType::bfloat16:
      return with_channels.template operator()<SampleType::bfloat16>();
    case SampleType::float32:
      return with_channels.template operator()<SampleType::float32>();
    case SampleType::float64:
      return with_channels.template operator()<SampleType::float64>();
  }
}

void round_trip_rows(const RealRoundTrip& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  with_type(job.input.type, job.geometry.channels, [&]<SampleType type, int channels>() {
    round_trip_rows_as<type, channels>(job, n, begin, end, memory);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward, from the gradients of pixels to those of components

// x where `bit` is 1, else 0: by its bits, since compilers make no vectors of a choice between numbers by a byte.
template <class R>
FDJPEG_INLINE R where(int bit, R x) {
  using Bits = typename RealLane<R>::Bits;
  return bit_cast<R>(bit_cast<Bits>(x) & -static_cast<Bits>(bit));
}

// The adjoint of the last clamp and of the conversion to RGB.
template <class R>
FDJPEG_INLINE void gradients_of_colour(
    const R* __restrict red, const R* __restrict green, const R* __restrict blue, const uint8_t* __restrict mask,
    int64_t width, R* __restrict luma, R* __restrict cb, R* __restrict cr) {
  for (int64_t x = 0; x < width; ++x) {
    const YCbCr<R> colour = real_ycbcr_to_rgb_adjoint(
        where(mask[x] & 1, red[x]), where(mask[x] >> 1 & 1, green[x]), where(mask[x] >> 2 & 1, blue[x]));
    luma[x] = colour.y;
    cb[x] = colour.cb;
    cr[x] = colour.cr;
  }
}

// The adjoint of upsampling along a row: `fine` (g.width samples, written beyond its ends) onto `coarse`.
template <class R>
FDJPEG_INLINE void gather_across(const Geometry& g, R* __restrict fine, R* __restrict coarse) {
  const int64_t width = g.chroma_width, covered = width * g.horizontal;
  for (int64_t x = g.width; x < covered; ++x) fine[x] = 0;  // cropped
  if (g.triangle_across()) {
    // At an edge a sample stands in for the neighbour that is missing.
    fine[-1] = fine[0];
    fine[covered] = fine[covered - 1];
    for (int64_t i = 0; i < width; ++i) {
      coarse[i] = R(.75) * (fine[2 * i] + fine[2 * i + 1]) + R(.25) * (fine[2 * i - 1] + fine[2 * i + 2]);
    }
  } else if (g.horizontal == 1) {
    std::memcpy(coarse, fine, static_cast<size_t>(width) * sizeof(R));
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) coarse[i] = fine[2 * i] + fine[2 * i + 1];
  } else {
    for (int64_t i = 0; i < width; ++i) {
      coarse[i] = (fine[4 * i] + fine[4 * i + 1]) + (fine[4 * i + 2] + fine[4 * i + 3]);
    }
  }
}

template <class R>
FDJPEG_INLINE void add_scaled(const R* __restrict source, R scale, int64_t count, R* __restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] += scale * source[i];
}

// The gradients of a row of MCUs' decoded components; 0 beyond their true size.
template <SampleType type, int channels, class R = RealOf<type>>
FDJPEG_INLINE void gradients_of_components(
    const RealRoundTripBackward& job, int64_t n, int64_t mcu_row, const Components<R>& gradients, Scratch scratch) {
  const Geometry& g = job.geometry;
  const int64_t stride = luma_stride(g), coarse_stride = chroma_stride(g);
  const int64_t begin = mcu_row * kBlock * g.vertical, end = least(begin + kBlock * g.vertical, g.height);
  // The triangle makes the pixel rows just outside depend on chroma just inside.
  const int64_t halo = g.triangle_down() ? 1 : 0;
  const int64_t chroma_begin = mcu_row * kBlock, chroma_end = least(chroma_begin + kBlock, g.chroma_height);
  const PixelLines<type, channels> lines(g, scratch);
  R* fine[2];
  for (R*& line : fine) line = scratch.take<R>(fine_width(g) + 32) + 16;
  R* coarse = scratch.take<R>(coarse_stride);
  R* outside = scratch.take<R>(stride);  // luma of the rows of others, which nobody reads
  std::memset(gradients.samples[0], 0, sizeof(R) * static_cast<size_t>(stride * kBlock * g.vertical));
  for (int c = 1; c < channels; ++c) {
    std::memset(gradients.samples[c], 0, sizeof(R) * static_cast<size_t>(coarse_stride * kBlock));
  }

  for (int64_t y = most(begin - halo, 0); y < least(end + halo, g.height); ++y) {
    R* luma = y >= begin && y < end ? gradients.samples[0] + (y - begin) * stride : outside;
    const uint8_t* mask = job.mask + (n * g.height + y) * g.width;
    const R* grads[channels];
    lines.read(g, job.grad_output, n, y, grads);
    if constexpr (channels == 1) {
      for (int64_t x = 0; x < g.width; ++x) luma[x] = where(mask[x] & 1, grads[0][x]);
    } else {
      gradients_of_colour(grads[0], grads[1], grads[2], mask, g.width, luma, fine[0], fine[1]);
      const BlendedRows blended = blended_rows(g, y);
      for (int c = 0; c < 2; ++c) {
        gather_across(g, fine[c], coarse);
        const auto add_to = [&](int64_t chroma_row, R weight) {
          if (chroma_row < chroma_begin || chroma_row >= chroma_end) return;
          R* target = gradients.samples[c + 1] + (chroma_row - chroma_begin) * coarse_stride;
          add_scaled(coarse, weight, g.chroma_width, target);
        };
        add_to(blended.near, g.triangle_down() ? R(.75) : R(1));
        if (g.triangle_down()) add_to(blended.far, R(.25));
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// From the gradients of components before the transform to those of pixels

// Adds the gradients of rows and columns that edges were replicated to onto those that they were replicated from. (The
// columns right of chroma's last one stay: each stands for several columns of pixels, which gradients_of_pixels knows.)
template <class R>
FDJPEG_INLINE void fold_edges(const Geometry& g, int64_t mcu_row, const Components<R>& gradients) {
  const int64_t stride = luma_stride(g), coded_width = g.luma_columns * kBlock;
  const int64_t top = mcu_row * kBlock * g.vertical;
  const int64_t coded_rows = least(kBlock * g.vertical, g.luma_rows * kBlock - top);
  const int64_t true_rows = least(coded_rows, g.height - top);
  R* last = gradients.samples[0] + (true_rows - 1) * stride;
  for (int64_t y = true_rows; y < coded_rows; ++y) {
    add_scaled(gradients.samples[0] + y * stride, R(1), coded_width, last);
  }
  for (int64_t y = 0; y < true_rows; ++y) {
    R* line = gradients.samples[0] + y * stride;
    for (int64_t x = g.width; x < coded_width; ++x) line[g.width - 1] += line[x];
  }
  const int64_t chroma_rows = least(kBlock, g.chroma_height - mcu_row * kBlock);
  for (int c = 1; c < g.channels; ++c) {
    R* edge = gradients.samples[c] + (chroma_rows - 1) * chroma_stride(g);
    for (int64_t y = chroma_rows; y < kBlock; ++y) {
      add_scaled(gradients.samples[c] + y * chroma_stride(g), R(1), g.chroma_columns * kBlock, edge);
    }
  }
}

// The adjoint of subsampling along a row: each coarse sample's share for the fine ones that it averages.
template <class R>
FDJPEG_INLINE void spread_across(const Geometry& g, const R* __restrict coarse, R weight, R* __restrict fine) {
  if (g.horizontal == 1) {
    for (int64_t i = 0; i < g.chroma_width; ++i) fine[i] = weight * coarse[i];
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < g.chroma_width; ++i) fine[2 * i] = fine[2 * i + 1] = weight * coarse[i];
  } else {
    for (int64_t i = 0; i < g.chroma_width; ++i) {
      fine[4 * i] = fine[4 * i + 1] = fine[4 * i + 2] = fine[4 * i + 3] = weight * coarse[i];
    }
  }
}

// The gradients of a row of MCUs' pixels: the adjoint of subsampling, of the edges' replication, of colour.
template <SampleType type, int channels, class R = RealOf<type>>
FDJPEG_INLINE void gradients_of_pixels(
    const RealRoundTripBackward& job, int64_t n, int64_t mcu_row, const Components<R>& gradients, Scratch scratch) {
  using T = typename Sample<type>::Stored;
  using V = Reals<R>;
  const Geometry& g = job.geometry;
  const int64_t begin = mcu_row * kBlock * g.vertical, end = least(begin + kBlock * g.vertical, g.height);
  T* staged[channels];
  for (T*& line : staged) line = scratch.take<T>(g.width);
  R* fine[2];
  for (R*& line : fine) line = scratch.take<R>(fine_width(g));

  for (int64_t y = begin; y < end; ++y) {
    const R* luma = gradients.samples[0] + (y - begin) * luma_stride(g);
    T* target[channels];
    target_row<channels>(job.grad_input, n, y, staged, target);
    if constexpr (channels == 3) {
      // The last row and column also stand for the replicas that subsampling averaged.
      const int64_t copies_down = y == g.height - 1 ? 1 + g.chroma_height * g.vertical - g.height : 1;
      const int64_t copies_across = 1 + g.chroma_width * g.horizontal - g.width;
      const R weight = R(copies_down) / R(g.horizontal * g.vertical);
      for (int c = 0; c < 2; ++c) {
        const R* coarse = gradients.samples[c + 1] + (y / g.vertical - mcu_row * kBlock) * chroma_stride(g);
        spread_across(g, coarse, weight, fine[c]);
        R beyond = 0;
        for (int64_t i = g.chroma_width; i < g.chroma_columns * kBlock; ++i) beyond += coarse[i];
        fine[c][g.width - 1] = R(copies_across) * fine[c][g.width - 1] + R(g.horizontal) * weight * beyond;
      }
    }
    for (int64_t x = 0; x < g.width; x += kRealLanes<R>) {
      const int64_t count = g.width - x;
      if constexpr (channels == 1) {
        store_reals<type, R>(target[0] + x, count, load<V>(luma + x));
      } else {
        const RGB<V> pixel = real_rgb_to_ycbcr_adjoint(load<V>(luma + x), load<V>(fine[0] + x), load<V>(fine[1] + x));
        store_reals<type, R>(target[0] + x, count, pixel.r);
        store_reals<type, R>(target[1] + x, count, pixel.g);
        store_reals<type, R>(target[2] + x, count, pixel.b);
      }
    }
    scatter_row<channels>(job.grad_input, n, y, g.width, target);
  }
}

template <SampleType type, int channels>
void backward_rows_as(const RealRoundTripBackward& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  using R = RealOf<type>;
  const Geometry& g = job.geometry;
  const RealTables<R> tables(job.steps, n);
  Scratch scratch(memory);
  const Components<R> components = take_components<R>(g, scratch), gradients = take_components<R>(g, scratch);
  // With fixed tables, straight through, the inverse DCT undoes the DCT.
  const bool straight_through = job.rounding.surrogate == Surrogate::straight_through;
  const bool transforms = !straight_through || job.table_partials != nullptr;
  for (int64_t row = begin; row < end; ++row) {
    double* partial = job.table_partials == nullptr ? nullptr : job.table_partials + (n * g.mcu_rows + row) * 192;
    gradients_of_components<type, channels>(job, n, row, gradients, scratch);
    if (transforms) {
      read_components<type, channels>(g, job.input, n, row, components, scratch);
      with_surrogate(job.rounding.surrogate, [&]<Surrogate surrogate>() {
        gradients_through_transform<surrogate>(g, row, job.rounding, tables, components, gradients, partial);
      });
    }
    if (!straight_through) fold_edges(g, row, gradients);
    gradients_of_pixels<type, channels>(job, n, row, gradients, scratch);
  }
}

void backward_rows(const RealRoundTripBackward& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  with_type(job.grad_output.type, job.geometry.channels, [&]<SampleType type, int channels>() {
    // Bytes carry no gradient.
    if constexpr (type != SampleType::uint8) backward_rows_as<type, channels>(job, n, begin, end, memory);
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// The transforms alone

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

// One or two blocks side by side, where each lies for itself.
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
  // What lies beyond the last block is transformed too, where a vector holds two blocks, and not stored.
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
  with_type(job.type, 1, [&]<SampleType type, int>() {
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

int64_t real_scratch_bytes(const Geometry& g, SampleType type) {
  return type == SampleType::float64 ? kNeighbours * components_bytes<double>(g) + line_bytes<double>(g)
                                     : kNeighbours * components_bytes<float>(g) + line_bytes<float>(g);
}

}  // namespace

#define FDJPEG_REAL_KERNELS \
  {real_scratch_bytes, round_trip_rows, backward_rows, transform_scratch_bytes, dct_row, idct_row}

}  // namespace fdjpeg
