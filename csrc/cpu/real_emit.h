// From components to pixels: upsampling, colour, the last clamp; and the whole of forward.
//
// Part of real_table.h, which describes how it is compiled.
#pragma once

#include "cpu/real_forward.h"

namespace fdjpeg {
namespace {

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
      const ChromaRows blended = chroma_rows(g, y);
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

void round_trip_rows(const RealRoundTrip& job, int64_t n, int64_t begin, int64_t end, void* memory) {
  with_type_and_channels(job.input.type, job.geometry.channels, [&]<SampleType type, int channels>() {
    round_trip_rows_as<type, channels>(job, n, begin, end, memory);
  });
}

}  // namespace
}  // namespace fdjpeg
