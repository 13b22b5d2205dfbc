// What a GPU's launches take beyond the jobs of codec/. No kernels, so that any compiler reads it.
#pragma once

#include "codec/exact_math.h"
#include "codec/real_jobs.h"

namespace fdjpeg {

// The quantization steps of a batch in real numbers, as they are.
struct RealStepTables {
  const void* tables;    // [1 or images][3][8][8], or null: the standard tables
  bool in_double;        // how the tables are stored
  int64_t image_stride;  // 192, or 0 where one set serves all images
  double percentage;     // libjpeg's, of the standard tables, unrounded
  bool whole;            // whether the standard tables' steps are libjpeg's whole numbers, else at least 1
};

// Describes the standard tables; the caller checks the numbers.
inline RealStepTables real_standard_tables(double quality, bool soft) {
  return {nullptr, false, 0, soft ? quality_percentage(quality) : quality_scale(quality), !soft};
}

// The round trip in real numbers, or its backward; see real_jobs.h.
struct RealOp {
  Geometry geometry;
  RealStepTables steps;
  Rounding rounding;
  Image input;
  Image output;  // or its gradient
  uint8_t* mask;
};

// Blocks of one call of a block transform; a thread numbers them in 32 bits.
constexpr int64_t kMaxBlocks = INT32_MAX;

}  // namespace fdjpeg
