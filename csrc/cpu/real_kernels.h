// The CPU's kernels of the round trip in real numbers: one table of functions for each instruction set that the library
// was compiled for.
//
// Each function handles some neighbouring rows of MCUs of one image, so that real_cpu.cpp can share out an image.
#pragma once

#include "codec/real_jobs.h"

namespace fdjpeg {

struct RealKernels {
  // Bytes of scratch memory that the functions below want for an image of this geometry and type.
  int64_t (*scratch_bytes)(const Geometry&, SampleType);

  void (*round_trip_rows)(const RealRoundTrip&, int64_t image, int64_t begin, int64_t end, void* scratch);

  // The gradient of their pixels, and each row's share of the tables' gradient.
  void (*backward_rows)(const RealRoundTripBackward&, int64_t image, int64_t begin, int64_t end, void* scratch);

  // Bytes of scratch memory that the next two want.
  int64_t (*transform_scratch_bytes)(const BlockTransform&);

  // Samples to coefficients, for a row of blocks.
  void (*dct_row)(const BlockTransform&, int64_t row, void* scratch);

  // Coefficients to samples.
  void (*idct_row)(const BlockTransform&, int64_t row, void* scratch);
};

extern const RealKernels kRealBaselineKernels;
#if defined(__x86_64__)
extern const RealKernels kRealAvx2Kernels;
extern const RealKernels kRealAvx512Kernels;
#endif

}  // namespace fdjpeg
