// Images and their sizes: how samples are stored, which sampling factors there are, and what follows from both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace fdjpeg {

// How the samples of an image are stored.
enum class SampleType : int { uint8, float16, bfloat16, float32, float64 };

// Calls body.template operator()<type>().
template <class Body>
inline __attribute__((always_inline)) void with_type(SampleType type, Body&& body) {
  switch (type) {
    case SampleType::uint8:
      return body.template operator()<SampleType::uint8>();
    case SampleType::float16:
      return body.template operator()<SampleType::float16>();
    case SampleType::bfloat16:
      return body.template operator()<SampleType::bfloat16>();
    case SampleType::float32:
      return body.template operator()<SampleType::float32>();
    case SampleType::float64:
      return body.template operator()<SampleType::float64>();
  }
}

constexpr int64_t bytes_of(SampleType type) {
  switch (type) {
    case SampleType::uint8:
      return 1;
    case SampleType::float16:
    case SampleType::bfloat16:
      return 2;
    case SampleType::float32:
      return 4;
    case SampleType::float64:
      return 8;
  }
  return 0;
}

// A batch of images (N, C, H, W) of any strides.
struct Image {
  void* data;         // the first sample
  SampleType type;    // how each sample is stored
  int64_t stride[4];  // in samples, along image, channel, row, column; 0 in an expanded gradient
};

// The sampling factors of luma against chroma that the codec has; fdjpeg/_geometry.py has the same list. The code for
// each of them is in exact_math.h (average_bias), cpu/resampling.h, cuda/warp_blocks.cuh and
// cuda/exact_backward_blocks.cuh (occupancy).
struct Sampling {
  int horizontal, vertical;
};
constexpr Sampling kSamplings[] = {{1, 1}, {2, 1}, {2, 2}, {1, 2}, {4, 1}};

// Sizes that follow from an image's height, width, channels and sampling factors; fdjpeg/_geometry.py computes the
// same.
struct Geometry {
  int64_t images;
  int channels;                         // 1 (grey) or 3
  int64_t height, width;                // of the image, and so of luma
  int horizontal, vertical;             // sampling factors of luma against chroma; (1, 1) for grey
  int64_t luma_rows, luma_columns;      // blocks
  int64_t chroma_height, chroma_width;  // samples; 0 for grey
  int64_t chroma_rows, chroma_columns;  // blocks
  int64_t mcu_rows, mcu_columns;        // minimum coded units (T.81 A.2)
  bool fancy;                           // upsample by libjpeg's triangle, else by repeating samples

  // Offsets in bytes within an image's planes: Y at 0, then Cb, Cr, a flag for each MCU (0 if no sample of it is NaN or
  // above 1), zeros.
  int64_t cb_offset, cr_offset, flag_offset, plane_bytes;

  static constexpr int64_t blocks(int64_t samples) {
    return (samples + 7) / 8;
  }

  static Geometry of(
      int64_t images, int64_t channels, int64_t height, int64_t width, int64_t horizontal, int64_t vertical,
      bool fancy) {
    Geometry g{};
    g.images = images;
    g.channels = static_cast<int>(channels);
    g.height = height;
    g.width = width;
    g.horizontal = channels == 1 ? 1 : static_cast<int>(horizontal);
    g.vertical = channels == 1 ? 1 : static_cast<int>(vertical);
    g.fancy = fancy;
    g.luma_rows = blocks(height);
    g.luma_columns = blocks(width);
    if (channels == 3) {
      g.chroma_height = (height + g.vertical - 1) / g.vertical;
      g.chroma_width = (width + g.horizontal - 1) / g.horizontal;
    }
    g.chroma_rows = blocks(g.chroma_height);
    g.chroma_columns = blocks(g.chroma_width);
    g.mcu_rows = (height + 8 * g.vertical - 1) / (8 * g.vertical);
    g.mcu_columns = (width + 8 * g.horizontal - 1) / (8 * g.horizontal);
    g.cb_offset = g.luma_rows * g.luma_columns * 64;
    g.cr_offset = g.cb_offset + g.chroma_rows * g.chroma_columns * 64;
    g.flag_offset = g.cr_offset + g.chroma_rows * g.chroma_columns * 64;
    g.plane_bytes = (g.flag_offset + g.mcu_rows * g.mcu_columns + 15) / 16 * 16;  // so every image's planes are aligned
    return g;
  }

  // libjpeg repeats samples where a row of chroma is too narrow for its triangle.
  bool triangle_across() const {
    return fancy && horizontal == 2 && chroma_width > 2;
  }
  bool triangle_down() const {
    return fancy && vertical == 2 && (horizontal == 1 || chroma_width > 2);
  }
};

// Calls body.template operator()<horizontal, vertical, grey>(); the factors of grey are (1, 1).
template <size_t from = 0, class Body>
void with_sampling(const Geometry& g, Body&& body) {
  if (g.channels == 1) return body.template operator()<1, 1, true>();
  constexpr Sampling kOne = kSamplings[from];
  if (g.horizontal == kOne.horizontal && g.vertical == kOne.vertical) {
    return body.template operator()<kOne.horizontal, kOne.vertical, false>();
  }
  if constexpr (from + 1 < std::size(kSamplings)) with_sampling<from + 1>(g, body);
}

}  // namespace fdjpeg
