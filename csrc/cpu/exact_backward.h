// Backward, straight through every rounding: the adjoint of colour and resampling, behind the last clamp's mask. In
// plain loops over rows of R, float or double, which compilers turn into vectors by themselves.
//
// Part of exact_table.h, which describes how it is compiled.
#pragma once

#include "cpu/exact_emit.h"
#include "cpu/real_lanes.h"
#include "cpu/real_rows.h"

namespace fdjpeg {
namespace {

// BT.601's colour difference signals, exactly: K_R = .299, K_B = .114, K_G the rest.
constexpr double kR = .299, kG = .587, kB = .114;
constexpr double kCbScale = 2 * (1 - kB), kCrScale = 2 * (1 - kR);  // B = Y + kCbScale Cb, R = Y + kCrScale Cr

// The gradients of a row of MCUs' components, at their coded size; 0 beyond the true size.
template <class R>
struct McuGradients {
  R* samples[3];
};

template <class R>
FDJPEG_INLINE int64_t gradient_scratch(const Geometry& g) {
  const int64_t width = padded_width(g), real = static_cast<int64_t>(sizeof(R));
  return Scratch::bytes((width * kBlock * g.vertical + kMargin) * real) +
      2 * Scratch::bytes(g.chroma_columns * kBlockSize * real) + 6 * Scratch::bytes((width + 2 * kMargin) * real) +
      6 * Scratch::bytes(g.width * real);
}

// The adjoint of the last clamp and of the conversion to RGB: gradients of Y, Cb and Cr at full resolution. Beyond
// `width` they are 0, up to a multiple of kLanes.
template <class R>
FDJPEG_INLINE void gradients_of_ycbcr(
    const PlaneLine<3>& line, const R* const grads[3], int64_t width, bool apart, R* luma,
    const FineLine<R> chroma[2]) {
  const auto step = [&](const uint8_t* const* samples, const R* const* grad, int64_t x) FDJPEG_LAMBDA_INLINE {
    const RGB<Shorts> pixel = pixels_before_clamp(samples);
    const LaneMasks r_passed = are_bytes(pixel.r), g_passed = are_bytes(pixel.g), b_passed = are_bytes(pixel.b);
    RealLanes<R> cb[2], cr[2];
    for (int half = 0; half < 2; ++half) {
      const auto passed = [&](const R* from, const LaneMasks& masks) FDJPEG_LAMBDA_INLINE {
        return where(half == 0 ? masks.low : masks.high, load<RealLanes<R>>(from + half * kHalf));
      };
      const RealLanes<R> r = passed(grad[0], r_passed), g = passed(grad[1], g_passed), b = passed(grad[2], b_passed);
      store(luma + x + half * kHalf, r + g + b);
      cb[half] = R(kCbScale) * b - R(kB * kCbScale / kG) * g;
      cr[half] = R(kCrScale) * r - R(kR * kCrScale / kG) * g;
    }
    const auto keep = [&](const FineLine<R>& target, const RealLanes<R>* c) FDJPEG_LAMBDA_INLINE {
      if (apart) {
        store(target.even + x / 2, even_lanes(c[0], c[1]));
        store(target.odd + x / 2, odd_lanes(c[0], c[1]));
      } else {
        store(target.even + x, c[0]);
        store(target.even + x + kHalf, c[1]);
      }
    };
    keep(chroma[0], cb);
    keep(chroma[1], cr);
  };

  const int64_t whole = width / kLanes * kLanes;
  for (int64_t x = 0; x < whole; x += kLanes) {
    const uint8_t* const samples[3] = {line.rows[0] + x, line.rows[1] + x, line.rows[2] + x};
    const R* const grad[3] = {grads[0] + x, grads[1] + x, grads[2] + x};
    step(samples, grad, x);
  }
  if (whole < width) {
    uint8_t samples[3][kLanes] = {};
    R grad[3][kLanes] = {};
    for (int c = 0; c < 3; ++c) {
      std::memcpy(samples[c], line.rows[c] + whole, static_cast<size_t>(width - whole));
      std::memcpy(grad[c], grads[c] + whole, static_cast<size_t>(width - whole) * sizeof(R));
    }
    const uint8_t* const samples_at[3] = {samples[0], samples[1], samples[2]};
    const R* const grad_at[3] = {grad[0], grad[1], grad[2]};
    step(samples_at, grad_at, whole);
  }
}

// The gradients of a row of MCUs' decoded samples.
template <SampleType type, int channels, class R>
FDJPEG_INLINE void gradients_of_samples(
    const RoundTripBackward& job, int64_t n, int64_t mcu_row, const McuGradients<R>& gradients, Scratch scratch) {
  const Geometry& g = job.geometry;
  const uint8_t* planes = job.planes + n * g.plane_bytes;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  const int64_t begin = mcu_row * rows, end = least(begin + rows, g.height);
  // The triangle makes the pixel rows just outside depend on chroma just inside.
  const int64_t halo = g.triangle_down() ? 1 : 0;

  FineLine<R> fine[2];
  for (FineLine<R>& line : fine) {
    line.even = scratch.take<R>(width + 2 * kMargin) + kMargin;
    line.odd = scratch.take<R>(width + 2 * kMargin) + kMargin;
  }
  R* coarse = scratch.take<R>(chroma_width);
  R* outside = scratch.take<R>(width + kMargin);  // luma of the rows of others, which nobody reads
  const PixelLines<type, channels> lines(g, scratch);
  std::memset(
      gradients.samples[0] + (end - begin) * width, 0, sizeof(R) * static_cast<size_t>((begin + rows - end) * width));
  for (int c = 1; c < channels; ++c) {
    std::memset(gradients.samples[c], 0, sizeof(R) * static_cast<size_t>(chroma_width * kBlock));
  }

  for (int64_t y = most(begin - halo, 0); y < least(end + halo, g.height); ++y) {
    R* luma = y >= begin && y < end ? gradients.samples[0] + (y - begin) * width : outside;
    for (int64_t x = g.width; x < width; ++x) luma[x] = 0;
    const R* grads[channels];
    lines.read(g, job.grad_output, n, y, grads);
    if constexpr (channels == 1) {
      // Grey samples are limited inside the inverse transform, which straight-through passes.
      std::memcpy(luma, grads[0], sizeof(R) * static_cast<size_t>(g.width));
    } else {
      gradients_of_ycbcr(plane_line<3>(g, planes, y, scratch), grads, g.width, keeps_columns_apart(g), luma, fine);
      for (int c = 0; c < 2; ++c) {
        gather_to_chroma_rows(g, mcu_row, y, fine[c], coarse, chroma_width, gradients.samples[c + 1]);
      }
    }
  }
}

// Computes what chroma's gradients add to those of R, G and B, by the adjoint of the conversion to YCbCr.
template <class R>
FDJPEG_INLINE void chroma_in_rgb(
    const R* __restrict cb, const R* __restrict cr, R weight, int64_t count, R* __restrict red, R* __restrict green,
    R* __restrict blue) {
  const R half = weight / 2, red_cb = weight * R(kR / kCbScale), blue_cr = weight * R(kB / kCrScale);
  const R green_cb = weight * R(kG / kCbScale), green_cr = weight * R(kG / kCrScale);
  for (int64_t i = 0; i < count; ++i) {
    red[i] = half * cr[i] - red_cb * cb[i];
    green[i] = -green_cb * cb[i] - green_cr * cr[i];
    blue[i] = half * cb[i] - blue_cr * cr[i];
  }
}

template <bool around_caches, class R>
FDJPEG_INLINE void add_luma(const R* luma, R weight, const R* chroma, int64_t width, R* target) {
  const int64_t whole = width / kHalf * kHalf;
  for (int64_t x = 0; x < whole; x += kHalf) {
    store<around_caches>(target + x, weight * load<RealLanes<R>>(luma + x) + load<RealLanes<R>>(chroma + x));
  }
  for (int64_t x = whole; x < width; ++x) target[x] = weight * luma[x] + chroma[x];
}

// The gradient of the pixels from that of the samples: the adjoint of subsampling, of the edges' replication, of
// colour.
template <SampleType type, int channels, class R>
FDJPEG_INLINE void gradients_of_pixels(
    const RoundTripBackward& job, int64_t n, int64_t mcu_row, const McuGradients<R>& gradients, Scratch scratch) {
  using S = Sample<type>;
  using T = typename S::Stored;
  const Geometry& g = job.geometry;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  const int64_t begin = mcu_row * rows, end = least(begin + rows, g.height);
  const uint8_t* flags = job.planes + n * g.plane_bytes + g.flag_offset + mcu_row * g.mcu_columns;
  bool may_hold_nan = false;
  for (int64_t i = 0; i < g.mcu_columns; ++i) may_hold_nan |= flags[i] != 0;

  R *coarse_parts[3],
      *fine_parts[3];  // chroma's in R, G and B, of one row of chroma, as chroma has it and at full width
  for (R*& line : coarse_parts) line = scratch.take<R>(width);
  for (R*& line : fine_parts) line = scratch.take<R>(width);
  T* staged[channels];
  for (T*& line : staged) line = scratch.take<T>(g.width);
  R* converted[channels];
  for (R*& line : converted) line = scratch.take<R>(g.width);

  for (int64_t y = begin; y < end; ++y) {
    const R* luma = gradients.samples[0] + (y - begin) * width;
    T* target[channels];
    target_row<channels>(job.grad_input, n, y, staged, target);
    R* result[channels];
    constexpr bool direct = std::is_same_v<T, R>;
    for (int c = 0; c < channels; ++c) {
      if constexpr (direct) {
        result[c] = target[c];
      } else {
        result[c] = converted[c];
      }
    }
    if constexpr (channels == 1) {
      std::memcpy(result[0], luma, sizeof(R) * static_cast<size_t>(g.width));
    } else {
      if (y % g.vertical == 0) {
        const R weight = R(copies_down(g, y)) / R(g.horizontal * g.vertical);
        const int64_t first = (y / g.vertical - mcu_row * kBlock) * chroma_width;
        const R *cb = gradients.samples[1] + first, *cr = gradients.samples[2] + first;
        chroma_in_rgb(cb, cr, weight, chroma_width, coarse_parts[0], coarse_parts[1], coarse_parts[2]);
        for (int c = 0; c < 3; ++c) spread_across(g, coarse_parts[c], R(1), fine_parts[c]);
      }
      const R weights[3] = {R(kR), R(kG), R(kB)};
      const bool around_caches = direct && !may_hold_nan && goes_around_caches<channels>(g, job.grad_input, target);
      for (int c = 0; c < 3; ++c) {
        if (around_caches) {
          add_luma<true>(luma, weights[c], fine_parts[c], g.width, result[c]);
        } else {
          add_luma<false>(luma, weights[c], fine_parts[c], g.width, result[c]);
        }
      }
    }
    for (int c = 0; c < channels; ++c) {
      if (may_hold_nan) {
        const T* input = row_of<const T>(job.input, n, c, y);
        for (int64_t x = 0; x < g.width; ++x) {
          if (S::is_nan(input[x * job.input.stride[3]])) result[c][x] = 0;
        }
      }
      if constexpr (!std::is_same_v<T, R>) {
        for (int64_t x = 0; x < g.width; x += kHalf) {
          const Floats reals = load<Floats>(result[c] + x);
          store_some<kHalf>(target[c] + x, g.width - x, [&](T* to) FDJPEG_LAMBDA_INLINE { S::store(to, reals); });
        }
      }
    }
    scatter_row<channels>(job.grad_input, n, y, g.width, target);
  }
  finish_stores_around_caches();
}

// A row of the blocks of a vector, of which there are `count`; zeros for the others.
template <class R>
FDJPEG_INLINE Reals<float> load_row(const R* source, int count) {
  if constexpr (std::is_same_v<R, float>) {
    if (count == kRealBlocks<float>) return load<Reals<float>>(source);
  }
  alignas(64) float row[kRealLanes<float>] = {};
  for (int i = 0; i < count * kBlock; ++i) row[i] = static_cast<float>(source[i]);
  return load<Reals<float>>(row);
}

template <class R>
FDJPEG_INLINE void store_row(R* target, int count, Reals<float> x) {
  if constexpr (std::is_same_v<R, float>) {
    if (count == kRealBlocks<float>) return store(target, x);
  }
  alignas(64) float row[kRealLanes<float>];
  store(row, x);
  for (int i = 0; i < count * kBlock; ++i) target[i] = static_cast<R>(row[i]);
}

// As many blocks of a row of coefficients as a vector of floats takes, from block `b` on.
FDJPEG_INLINE Reals<float> as_reals(const Shorts& row, int b) {
  typedef int16_t Some __attribute__((vector_size(kRealLanes<float> * sizeof(int16_t))));
  const char* at = reinterpret_cast<const char*>(&row) + b * kBlock * static_cast<int>(sizeof(int16_t));
  return __builtin_convertvector(load<Some>(at), Reals<float>);
}

// table[i] for each lane.
FDJPEG_INLINE Reals<float> gather(const float* table, VectorOf<float>::Bits i) {
#if FDJPEG_VECTOR_BYTES == 64
  return reinterpret_cast<Reals<float>>(_mm512_i32gather_ps(FDJPEG_X86_INT(i), table, sizeof(float)));
#elif FDJPEG_VECTOR_BYTES == 32
  return reinterpret_cast<Reals<float>>(_mm256_i32gather_ps(table, FDJPEG_X86_INT(i), sizeof(float)));
#else
  Reals<float> found;
  for (int lane = 0; lane < kRealLanes<float>; ++lane) found[lane] = table[i[lane]];
  return found;
#endif
}

// A surrogate's derivative at c - k, linear between the two nearest of its tabulated slopes.
FDJPEG_INLINE Reals<float> slope_at(const RoundTripBackward& job, Reals<float> remainder) {
  const Reals<float> position = (remainder + 0.5f) * static_cast<float>(job.slope_intervals);
  VectorOf<float>::Bits below = __builtin_convertvector(position, VectorOf<float>::Bits);
  below &= below > 0;
  below += (job.slope_intervals - 1 - below) & (below >= job.slope_intervals);
  const Reals<float> low = gather(job.slopes, below), high = gather(job.slopes + 1, below);
  return low + (position - __builtin_convertvector(below, Reals<float>)) * (high - low);
}

// Takes the gradients of a row of MCUs' samples back through the transform: adds up this row's share of the tables'
// gradient, Σ g (k - c r') for an image in [0, 1], and with a surrogate weighs each coefficient's gradient by r'.
template <class R>
FDJPEG_INLINE void through_transform(
    const RoundTripBackward& job, const StepTables& tables, int64_t n, int64_t mcu_row,
    const McuGradients<R>& gradients, Scratch scratch) {
  using V = Reals<float>;
  const Geometry& g = job.geometry;
  McuRow row;
  read_mcu_row(g, job.input, n, mcu_row, row, scratch);
  const SharedTables shared(tables);
  V sums[3][kBlock] = {};
  for_each_group(g, mcu_row, row, [&](const BlockGroup& group, const Component& component) FDJPEG_LAMBDA_INLINE {
    const SharedTable& table = shared.component[group.component];
    const int16_t* steps = tables.component[group.component].step;
    const int64_t stride = group.component == 0 ? padded_width(g) : component.stride();
    R* gradient = gradients.samples[group.component] + (group.row * stride + group.column) * kBlock;
    Shorts c[8], k[8];
    fdct(group.tile, c);
    for (int i = 0; i < kBlock; ++i) {
      k[i] = in_natural_order(quantize_row(c[i], table, i));
      c[i] = in_natural_order(c[i]);
    }
    const int count = static_cast<int>(least(group.count, kBlocks));
    for (int b = 0; b < count; b += kRealBlocks<float>) {
      const int blocks = count - b < kRealBlocks<float> ? count - b : kRealBlocks<float>;
      V y[8];
      for (int i = 0; i < kBlock; ++i) y[i] = load_row(gradient + b * kBlock + i * stride, blocks);
      real_dct_pass(y);
      transpose(y);
      real_dct_pass(y);
      transpose(y);
      for (int i = 0; i < kBlock; ++i) {
        const V step = kBlock * as_reals(repeat(load<EightShorts>(steps + i * kBlock)), 0);
        const V rounded = as_reals(k[i], b);
        const V remainder = (as_reals(c[i], b) - rounded * step) / step;  // the difference is exact
        if (job.slopes == nullptr) {
          sums[group.component][i] -= y[i] * remainder;
        } else {
          const V slope = slope_at(job, remainder), through = y[i] * slope;
          sums[group.component][i] += rounded * (y[i] - through) - remainder * through;
          y[i] = through;
        }
      }
      if (job.slopes != nullptr) {
        real_idct_pass(y);
        transpose(y);
        real_idct_pass(y);
        transpose(y);
        for (int i = 0; i < kBlock; ++i) store_row(gradient + b * kBlock + i * stride, blocks, y[i]);
      }
    }
  });
  if (job.table_partials == nullptr) return;
  float* partial = job.table_partials + (n * g.mcu_rows + mcu_row) * 3 * kBlockSize;
  for (int i = 0; i < 3 * kBlockSize; ++i) {
    const V& lanes = sums[i / kBlockSize][i / kBlock % kBlock];
    float sum = 0;
    for (int block = 0; block < kRealBlocks<float>; ++block) sum += lanes[block * kBlock + i % kBlock];
    partial[i] = sum / kMaxSample;
  }
}

template <SampleType type, int channels>
FDJPEG_INLINE void backward_row_as(
    const RoundTripBackward& job, const StepTables& tables, int64_t n, int64_t mcu_row, void* memory) {
  using R = RealOf<type>;
  const Geometry& g = job.geometry;
  Scratch scratch(memory);
  McuGradients<R> gradients{};
  gradients.samples[0] = scratch.take<R>(padded_width(g) * kBlock * g.vertical + kMargin);
  for (int c = 1; c < channels; ++c) gradients.samples[c] = scratch.take<R>(g.chroma_columns * kBlockSize);
  gradients_of_samples<type, channels>(job, n, mcu_row, gradients, scratch);
  if (job.table_partials != nullptr || job.slopes != nullptr) {
    through_transform(job, tables, n, mcu_row, gradients, scratch);
  }
  if (job.slopes != nullptr) fold_edges(g, mcu_row, gradients.samples, padded_width(g), g.chroma_columns * kBlock);
  gradients_of_pixels<type, channels>(job, n, mcu_row, gradients, scratch);
}

void backward_row(const RoundTripBackward& job, const StepTables& tables, int64_t n, int64_t mcu_row, void* memory) {
  with_type_and_channels(job.grad_output.type, job.geometry.channels, [&]<SampleType type, int channels>() {
    // Bytes carry no gradient.
    if constexpr (type != SampleType::uint8) backward_row_as<type, channels>(job, tables, n, mcu_row, memory);
  });
}

}  // namespace
}  // namespace fdjpeg
