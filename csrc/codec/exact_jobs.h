// The plain structures that the ops hand to the kernels of any backend. No torch here: a kernel sees pointers and
// numbers.
#pragma once

#include "codec/geometry.h"

namespace fdjpeg {

// The quantization steps of a batch.
struct Steps {
  const float* tables;   // [1 or images][3][8][8], or null: then the standard tables scaled by `scale`
  int64_t image_stride;  // 192, or 0 where one set serves all images
  int scale;             // libjpeg's percentage for a quality

  // Instead, the standard tables at a separate quality for each block: [images][luma_rows][luma_columns] of 1 … 100,
  // others acting as the nearer end; a block of chroma takes the top-left block of luma that it covers. Null where
  // unused.
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
