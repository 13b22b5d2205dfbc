// The plain structures of the round trip in real numbers (`arithmetic="real"`), as exact_jobs.h has them for the
// integers.
#pragma once

#include "codec/exact_jobs.h"

namespace fdjpeg {

// fdjpeg/surrogates.py has their formulae and sources.
enum class Surrogate : int { straight_through, zero, cubic, sine, fourier, tanh, softmax };

// The rounding of a coefficient in steps, c: k = round(c), half to even, or softly r(c).
struct Rounding {
  Surrogate surrogate;  // r
  bool soft;            // r(c) in forward too
  int terms;            // of fourier
  double alpha;         // of tanh and softmax
  double norm;          // tanh: 1 / (2 tanh(alpha / 2)); softmax: exp(-2 alpha)
  double floor;         // the least derivative, where positive
};

// The quantization steps of a batch, taken as they are: neither rounded nor limited.
struct RealSteps {
  const double* tables;  // [1 or images][3][8][8]
  int64_t image_stride;  // 192, or 0 where one set serves all images
};

// image -> coefficients -> image.
struct RealRoundTrip {
  Geometry geometry;
  RealSteps steps;
  Rounding rounding;
  Image input;
  Image output;
  uint8_t* mask;  // [images][height][width]: bit c is 1 where channel c was in 0 … 255 before the last clamp
};

// Its vector-Jacobian product.
struct RealRoundTripBackward {
  Geometry geometry;
  RealSteps steps;
  Rounding rounding;
  Image grad_output;
  const uint8_t* mask;  // what the round trip left
  Image input;
  Image grad_input;
  double* table_partials;  // [images][mcu_rows][3][8][8], or null: no gradient of the tables is wanted
};

// Planes of samples -> the DCT coefficients of their blocks, or back; both contiguous.
struct BlockTransform {
  SampleType type;    // floating, of both
  const void* input;  // samples [rows][8][columns][8], or blocks [rows][columns][8][8]
  void* output;       // the other
  int64_t rows;       // of blocks, of all planes
  int64_t columns;
};

}  // namespace fdjpeg
