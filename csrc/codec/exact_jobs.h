// The plain structures that the ops hand to the kernels of any backend. No torch here: a kernel sees pointers and
// numbers.
#pragma once

#include <cstdint>

namespace fdjpeg {

// How the samples of an image are stored.
enum class SampleType : int { uint8, float16, bfloat16, float32, float64 };

// A batch of images (N, C, H, W) of any strides.
struct Image {
  void* data;         // the first sample
  SampleType type;    // how each sample is stored
  int64_t stride[4];  // in samples, along image, channel, row, column; 0 in an expanded gradient
};

// Sizes that follow from an image's height, width, channels and sampling factors; fdjpeg/_geometry.py says the same.
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

// The quantization steps of a batch.
struct Steps {
  const float* tables;   // [1 or images][3][8][8], or null: then the standard tables scaled by `scale`
  int64_t image_stride;  // 192, or 0 where one set serves all images
  int scale;             // libjpeg's percentage for a quality

  // The standard tables at a quality of each block's own instead: [images][luma_rows][luma_columns] of 1 … 100, others
  // acting as the nearer end; a block of chroma takes the top-left block of luma that it covers. Null where unused.
  const uint8_t* qualities;
};

// image -> decoded 8-bit planes -> image.
struct RoundTrip {
  Geometry geometry;
  Steps steps;
  Image input;
  Image output;
  uint8_t* planes;  // [images][plane_bytes]
};

// The vector-Jacobian product of the round trip, straight through every rounding; that of coefficients by a surrogate
// if there are slopes.
struct RoundTripBackward {
  Geometry geometry;
  Steps steps;
  Image grad_output;
  const uint8_t* planes;  // what the round trip left
  Image input;            // read where an MCU may hold NaN, and for the gradient of the tables
  Image grad_input;
  float* table_partials;  // [images][mcu_rows][3][8][8], or null: no gradient of the tables is wanted
  const float* slopes;    // [slope_intervals + 1], the surrogate's derivative at c - k from -1/2 to 1/2; null: 1
  int slope_intervals;
};

// image -> quantized coefficients.
struct Encode {
  Geometry geometry;
  Steps steps;
  Image input;
  int16_t* coefficients[3];  // [images][rows][columns][8][8] of Y, Cb, Cr
};

// quantized coefficients -> decoded 8-bit planes -> image.
struct Decode {
  Geometry geometry;
  Steps steps;
  const int16_t* coefficients[3];
  uint8_t* planes;  // [images][plane_bytes], scratch
  Image output;
};

}  // namespace fdjpeg
