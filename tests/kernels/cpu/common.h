// What the programs that run the CPU kernels without torch share: tables at a quality, and views of arrays.
#pragma once

#if !defined(FDJPEG_VECTOR_BYTES)
#define FDJPEG_VECTOR_BYTES 16
#endif
#include "cpu/exact_table.h"

#include <vector>

namespace fdjpeg {

inline StepTables tables_at(double quality) {
  static constexpr uint8_t kStandard[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};
  StepTables tables;
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < kBlockSize; ++i) {
      const int q = standard_step(kStandard[c > 0][i], quality_scale(quality));
      tables.component[c].step[i] = static_cast<int16_t>(q);
      tables.component[c].half[i] = static_cast<int16_t>(kBlock / 2 * q);
      tables.component[c].reciprocal[i] = narrow_step(q).reciprocal;
      tables.component[c].scale[i] = narrow_step(q).scale;
    }
  }
  return tables;
}

template <class T>
Image contiguous(std::vector<T>& samples, SampleType type, int64_t height, int64_t width) {
  return {samples.data(), type, {3 * height * width, height * width, width, 1}};
}

}  // namespace fdjpeg
