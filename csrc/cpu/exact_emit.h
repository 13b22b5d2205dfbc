// From decoded samples to pixels: upsampling, colour, the last clamp.
//
// Part of exact_table.h, which describes how it is compiled.
#pragma once

#include "cpu/exact_forward.h"

namespace fdjpeg {
namespace {

FDJPEG_INLINE int64_t chroma_line_scratch(const Geometry& g) {
  return Scratch::bytes(padded_width(g) * 2) + 2 * Scratch::bytes(padded_width(g));
}

// The planes' samples along pixel row y, chroma at full resolution; no row may be read beyond the image's width.
template <int channels>
struct PlaneLine {
  const uint8_t* rows[channels];
};

template <int channels>
FDJPEG_INLINE PlaneLine<channels> plane_line(const Geometry& g, const uint8_t* planes, int64_t y, Scratch scratch) {
  PlaneLine<channels> line;
  line.rows[0] = planes + y * g.luma_columns * kBlock;
  if constexpr (channels == 3) {
    int16_t* blend = scratch.take<int16_t>(padded_width(g));
    line.rows[1] = chroma_line(g, planes + g.cb_offset, y, blend, scratch.take<uint8_t>(padded_width(g)));
    line.rows[2] = chroma_line(g, planes + g.cr_offset, y, blend, scratch.take<uint8_t>(padded_width(g)));
  }
  return line;
}

FDJPEG_INLINE RGB<Shorts> pixels_before_clamp(const uint8_t* const at[3]) {
  return ycbcr_to_rgb(load_bytes(at[0]), load_bytes(at[1]), load_bytes(at[2]));
}

// Whether a row of pixels is better written around the caches: it belongs to more than they keep, and is aligned.
template <int channels, class T>
FDJPEG_INLINE bool goes_around_caches(const Geometry& g, const Image& image, T* const rows[channels]) {
  constexpr int64_t kKept = 8 << 20;  // bytes; some processors keep more, and have other uses for it
  bool around = image.stride[3] == 1 && g.images * channels * g.height * g.width * int64_t(sizeof(T)) > kKept;
  for (int c = 0; c < channels; ++c) around &= reinterpret_cast<uintptr_t>(rows[c]) % FDJPEG_VECTOR_BYTES == 0;
  return around;
}

template <SampleType type, int channels, bool around_caches, class T>
FDJPEG_INLINE void emit_line(const PlaneLine<channels>& line, int64_t width, T* const target[channels]) {
  using S = Sample<type>;
  for_each_step<channels, kLanes>(
      line.rows, width, width, [&](const uint8_t* const* at, int64_t x) FDJPEG_LAMBDA_INLINE {
        const auto emit = [&](int c, Shorts samples) FDJPEG_LAMBDA_INLINE {
          if (width - x >= kLanes) {
            S::template store_bytes<around_caches>(target[c] + x, samples);
          } else {
            store_some<kLanes>(target[c] + x, width - x, [&](T* to) FDJPEG_LAMBDA_INLINE {
              S::template store_bytes<false>(to, samples);
            });
          }
        };
        if constexpr (channels == 1) {
          emit(0, load_bytes(at[0]));
        } else {
          const RGB<Shorts> pixel = pixels_before_clamp(at);
          emit(0, pixel.r);
          emit(1, pixel.g);
          emit(2, pixel.b);
        }
      });
}

template <SampleType type, int channels>
FDJPEG_INLINE void emit_row_as(
    const Geometry& g, const uint8_t* planes, const Image& output, int64_t n, int64_t mcu_row, Scratch scratch) {
  using T = typename Sample<type>::Stored;
  T* staged[channels];
  for (T*& line : staged) line = scratch.take<T>(g.width);
  const int64_t end = least((mcu_row + 1) * kBlock * g.vertical, g.height);
  for (int64_t y = mcu_row * kBlock * g.vertical; y < end; ++y) {
    const PlaneLine<channels> line = plane_line<channels>(g, planes, y, scratch);
    T* target[channels];
    target_row<channels>(output, n, y, staged, target);
    if (goes_around_caches<channels>(g, output, target)) {
      emit_line<type, channels, true>(line, g.width, target);
    } else {
      emit_line<type, channels, false>(line, g.width, target);
    }
    scatter_row<channels>(output, n, y, g.width, target);
  }
  finish_stores_around_caches();
}

void emit_row(const Geometry& g, const uint8_t* planes, const Image& output, int64_t n, int64_t mcu_row, void* memory) {
  with_type_and_channels(output.type, g.channels, [&]<SampleType type, int channels>() {
    emit_row_as<type, channels>(g, planes + n * g.plane_bytes, output, n, mcu_row, Scratch(memory));
  });
}

}  // namespace
}  // namespace fdjpeg
