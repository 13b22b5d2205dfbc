// Backward: the adjoint of all that forward does, rounding by its surrogate's derivative.
//
// Part of real_table.h, which describes how it is compiled.
#pragma once

#include "cpu/real_emit.h"

namespace fdjpeg {
namespace {

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

// The gradients of a row of MCUs' decoded components; 0 beyond their true size.
template <SampleType type, int channels, class R = RealOf<type>>
FDJPEG_INLINE void gradients_of_components(
    const RealRoundTripBackward& job, int64_t n, int64_t mcu_row, const Components<R>& gradients, Scratch scratch) {
  const Geometry& g = job.geometry;
  const int64_t stride = luma_stride(g), coarse_stride = chroma_stride(g);
  const int64_t begin = mcu_row * kBlock * g.vertical, end = least(begin + kBlock * g.vertical, g.height);
  // The triangle makes the pixel rows just outside depend on chroma just inside.
  const int64_t halo = g.triangle_down() ? 1 : 0;
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
      for (int c = 0; c < 2; ++c) {
        gather_across(g, fine[c], coarse);
        add_to_chroma_rows(g, mcu_row, y, coarse, coarse_stride, gradients.samples[c + 1]);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// From the gradients of components before the transform to those of pixels

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
      const R weight = R(copies_down(g, y)) / R(g.horizontal * g.vertical);
      for (int c = 0; c < 2; ++c) {
        const R* coarse = gradients.samples[c + 1] + (y / g.vertical - mcu_row * kBlock) * chroma_stride(g);
        spread_across(g, coarse, weight, fine[c]);
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
    if (!straight_through) fold_edges(g, row, gradients.samples, luma_stride(g), chroma_stride(g));
    gradients_of_pixels<type, channels>(job, n, row, gradients, scratch);
  }
}

void backward_rows(const RealRoundTripBackward& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  with_type_and_channels(job.grad_output.type, job.geometry.channels, [&]<SampleType type, int channels>() {
    // Bytes carry no gradient.
    if constexpr (type != SampleType::uint8) backward_rows_as<type, channels>(job, n, begin, end, memory);
  });
}

}  // namespace
}  // namespace fdjpeg
