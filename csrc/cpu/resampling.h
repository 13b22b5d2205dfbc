// Chroma between full resolution and its own: subsampling, upsampling and the adjoints of both, for bytes as the exact
// codec has them and for real numbers R. All that the CPU's kernels know of a subsampling or an upsampling rule is
// here.
//
// Included by source files that are compiled for one instruction set each, so everything here has internal linkage (see
// exact_table.h).
#pragma once

#include "cpu/image_rows.h"
#include "cpu/real_rows.h"
#include "cpu/sample_lanes.h"

namespace fdjpeg {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Subsampling

// The bias of each lane: they start at an even column.
template <int horizontal, int vertical>
FDJPEG_INLINE Shorts average_biases() {
  Shorts bias;
  for (int i = 0; i < kLanes; ++i) bias[i] = static_cast<int16_t>(average_bias(horizontal, vertical, i));
  return bias;
}

// kLanes samples of a subsampled row of Cb or Cr from column x on. `line` is a row at full resolution, or the sum of
// the two that are averaged.
FDJPEG_INLINE Shorts averaged(const Geometry& g, const int16_t* line, int64_t x) {
  const int16_t* from = line + g.horizontal * x;
  const auto part = [&](int i) FDJPEG_LAMBDA_INLINE { return load<Shorts>(from + i * kLanes); };
  if (g.horizontal == 2) {
    const Shorts sums = adjacent_sums(part(0), part(1));
    return g.vertical == 2 ? (sums + average_biases<2, 2>()) >> 2 : (sums + average_biases<2, 1>()) >> 1;
  }
  if (g.horizontal == 4) {
    const Shorts left = adjacent_sums(part(0), part(1)), right = adjacent_sums(part(2), part(3));
    return (adjacent_sums(left, right) + average_biases<4, 1>()) >> 2;
  }
  return g.vertical == 2 ? (part(0) + average_biases<1, 2>()) >> 1 : part(0);
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

// ---------------------------------------------------------------------------------------------------------------------
// Upsampling

// The rows of chroma that pixel row y blends: it is in the first, the second is the nearer neighbour.
struct ChromaRows {
  int64_t near, far;
};

FDJPEG_INLINE ChromaRows chroma_rows(const Geometry& g, int64_t y) {
  const int64_t near = y / g.vertical;
  if (!g.triangle_down()) return {near, near};
  const int64_t far = y % 2 == 0 ? near - 1 : near + 1;
  return {near, far < 0 || far >= g.chroma_height ? near : far};
}

// Twice as many samples from `width` blends or samples s, of which s[-1] and s[width] exist too.
template <bool blended>
FDJPEG_INLINE void widen_row(const int16_t* s, int64_t width, uint8_t* target) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const Shorts near = load<Shorts>(s + i), before = load<Shorts>(s + i - 1), after = load<Shorts>(s + i + 1);
    const Shorts even = blended ? triangle_of_blend<false>(near, before) : triangle<false>(near, before);
    const Shorts odd = blended ? triangle_of_blend<true>(near, after) : triangle<true>(near, after);
    store(target + 2 * i, even | odd << 8);
  }
}

// Cb or Cr along pixel row y at full resolution. Returns where it is: in the plane itself at 4:4:4, else in `target`.
FDJPEG_INLINE const uint8_t* chroma_line(
    const Geometry& g, const uint8_t* plane, int64_t y, int16_t* blend, uint8_t* target) {
  const int64_t stride = g.chroma_columns * kBlock, width = g.chroma_width;
  const ChromaRows rows = chroma_rows(g, y);
  const uint8_t* near = plane + rows.near * stride;
  const uint8_t* far = plane + rows.far * stride;
  if (g.triangle_across()) {
    int16_t* s = blend + 1;
    if (g.triangle_down()) {
      for (int64_t i = 0; i < width; ++i) s[i] = static_cast<int16_t>(blend_rows<int>(near[i], far[i]));
    } else {
      for (int64_t i = 0; i < width; ++i) s[i] = near[i];
    }
    s[-1] = s[0];
    s[width] = s[width - 1];
    if (g.triangle_down()) {
      widen_row<true>(s, width, target);
    } else {
      widen_row<false>(s, width, target);
    }
    return target;
  }
  if (g.triangle_down()) {
    const bool late = y % 2 == 1;
    for (int64_t i = 0; i < width; ++i) {
      target[i] =
          static_cast<uint8_t>(late ? triangle<true, int>(near[i], far[i]) : triangle<false, int>(near[i], far[i]));
    }
    return target;
  }
  if (g.horizontal == 1) return near;
  for (int64_t i = 0; i < width; ++i) {
    for (int j = 0; j < g.horizontal; ++j) target[g.horizontal * i + j] = near[i];
  }
  return target;
}

// Cb or Cr along a pixel row from the two rows of chroma that it blends. Returns where it is: in `near` itself at
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

// ---------------------------------------------------------------------------------------------------------------------
// The adjoint of upsampling

// A line of chroma's gradient may be read and written this far before its begin and beyond its end.
constexpr int64_t kMargin = kLanes;

// A line of chroma's gradient at full resolution. Where chroma has half the columns, the even and the odd columns are
// apart, so that what blends them runs along contiguous samples; else all columns are in `even`.
template <class R>
struct FineLine {
  R *even, *odd;
};

FDJPEG_INLINE bool keeps_columns_apart(const Geometry& g) {
  return g.horizontal == 2;
}

// At an edge a sample stands in for the neighbour that is missing.
template <class R>
FDJPEG_INLINE void stand_in_at_edges(const FineLine<R>& fine, int64_t width) {
  fine.odd[-1] = fine.even[0];
  fine.even[width] = fine.odd[width - 1];
}

// The adjoint of upsampling along a row: `fine` (written beyond its ends, and 0 from the image's width up to the whole
// samples of chroma) onto `coarse`.
template <class R>
FDJPEG_INLINE void gather_across(const Geometry& g, const FineLine<R>& fine, R* __restrict coarse) {
  const int64_t width = g.chroma_width;
  R* const __restrict even = fine.even;
  R* const __restrict odd = fine.odd;
  if (g.triangle_across()) {
    stand_in_at_edges(fine, width);
    for (int64_t i = 0; i < width; ++i) coarse[i] = R(.75) * (even[i] + odd[i]) + R(.25) * (odd[i - 1] + even[i + 1]);
  } else if (g.horizontal == 1) {
    for (int64_t i = 0; i < width; ++i) coarse[i] = even[i];
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) coarse[i] = even[i] + odd[i];
  } else {
    for (int64_t i = 0; i < width; ++i) coarse[i] = even[4 * i] + even[4 * i + 1] + even[4 * i + 2] + even[4 * i + 3];
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

// The adjoint of blending rows of chroma: adds `coarse`, the gradient of pixel row y's chroma, to the rows of chroma
// that y blends, as far as they belong to a row of MCUs, whose gradients start at `target`.
template <class R>
FDJPEG_INLINE void add_to_chroma_rows(
    const Geometry& g, int64_t mcu_row, int64_t y, const R* coarse, int64_t stride, R* target) {
  const int64_t begin = mcu_row * kBlock, end = begin + kBlock;
  const auto add_to = [&](int64_t row, R weight) {
    if (row >= begin && row < end) add_scaled(coarse, weight, g.chroma_width, target + (row - begin) * stride);
  };
  const ChromaRows rows = chroma_rows(g, y);
  add_to(rows.near, g.triangle_down() ? R(.75) : R(1));
  if (g.triangle_down()) add_to(rows.far, R(.25));
}

// Both adjoints, for pixel row y; `coarse` is scratch memory. Most rows of a row of MCUs blend two of its rows of
// chroma, and then one loop does it all.
template <class R>
FDJPEG_INLINE void gather_to_chroma_rows(
    const Geometry& g, int64_t mcu_row, int64_t y, const FineLine<R>& fine, R* coarse, int64_t stride, R* target) {
  const int64_t width = g.chroma_width, begin = mcu_row * kBlock, end = begin + kBlock;
  const ChromaRows rows = chroma_rows(g, y);
  const auto is_inside = [&](int64_t row) { return row >= begin && row < end; };
  if (!g.triangle_across() || !is_inside(rows.near) || !is_inside(rows.far) || rows.near == rows.far) {
    gather_across(g, fine, coarse);
    return add_to_chroma_rows(g, mcu_row, y, coarse, stride, target);
  }
  stand_in_at_edges(fine, width);
  const R* const __restrict even = fine.even;
  const R* const __restrict odd = fine.odd;
  R* const __restrict near = target + (rows.near - begin) * stride;
  R* const __restrict far = target + (rows.far - begin) * stride;
  for (int64_t i = 0; i < width; ++i) {
    const R gathered = R(.75) * (even[i] + odd[i]) + R(.25) * (odd[i - 1] + even[i + 1]);
    near[i] += R(.75) * gathered;
    far[i] += R(.25) * gathered;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The adjoint of subsampling

// How many of the pixel rows that subsampling averages are row y: the last one also stands for its replicas.
FDJPEG_INLINE int64_t copies_down(const Geometry& g, int64_t y) {
  return y == g.height - 1 ? 1 + g.chroma_height * g.vertical - g.height : 1;
}

// The adjoint of subsampling along a row: each coarse sample's share for the fine ones that it averages, of which the
// last one of the image also stands for its replicas.
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
  R beyond = 0;
  for (int64_t i = g.chroma_width; i < g.chroma_columns * kBlock; ++i) beyond += coarse[i];
  R& last = fine[g.width - 1];
  last = R(1 + g.chroma_width * g.horizontal - g.width) * last + R(g.horizontal) * weight * beyond;
}

}  // namespace
}  // namespace fdjpeg
