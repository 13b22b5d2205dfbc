// The CPU's kernels as a table of functions: one table for each instruction set that the library was compiled for.
//
// Each function handles one row of MCUs of one image, the unit of work that exact_cpu.cpp shares out among threads.
#pragma once

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"

namespace fdjpeg {

// An image's quantization steps, as the lanes want them: row-major, a register reads a row of eight.
struct StepTables {
  struct Table {
    alignas(16) int16_t step[kBlockSize];
    alignas(16) int16_t half[kBlockSize];         // half of 8 steps: 8 is the transform's own factor
    alignas(16) uint16_t reciprocal[kBlockSize];  // of NarrowStep
    alignas(16) uint16_t scale[kBlockSize];
  };
  Table component[3];
};

struct CpuKernels {
  // Bytes of scratch memory that the functions below want for an image of this geometry.
  int64_t (*scratch_bytes)(const Geometry&);

  // Codes a row of MCUs and leaves its decoded samples in the planes.
  void (*code_row)(const RoundTrip&, const StepTables&, int64_t image, int64_t mcu_row, void* scratch);

  // The same with a quality of each block's own (Steps::qualities), which chooses among palette[1] … [kMaxQuality].
  void (*code_row_by_block)(const RoundTrip&, const StepTables* palette, int64_t image, int64_t mcu_row, void* scratch);

  // Upsamples and converts the pixel rows of a row of MCUs; needs the planes of the rows above and below it too.
  void (*emit_row)(
      const Geometry&, const uint8_t* planes, const Image& output, int64_t image, int64_t mcu_row, void* scratch);

  // The gradient of the pixel rows of a row of MCUs, and the row's share of the tables' gradient.
  void (*backward_row)(const RoundTripBackward&, const StepTables&, int64_t image, int64_t mcu_row, void* scratch);

  // The quantized coefficients of a row of MCUs.
  void (*encode_row)(const Encode&, const StepTables&, int64_t image, int64_t mcu_row, void* scratch);

  // Their samples, left in the planes.
  void (*decode_row)(const Decode&, const StepTables&, int64_t image, int64_t mcu_row, void* scratch);
};

extern const CpuKernels kBaselineKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
#endif

}  // namespace fdjpeg
