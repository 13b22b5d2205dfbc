// The kernels of real_kernels.h, written over the lanes of real_lanes.h; R is the type that is computed in, float
// or double (for double images).
//
// Included by one source file for each instruction set, which names its FDJPEG_VECTOR_BYTES; everything here has
// internal linkage, so that no function compiled for one processor is ever linked into another's path.
#pragma once

#include "cpu/real_backward.h"
#include "cpu/real_emit.h"
#include "cpu/real_forward.h"
#include "cpu/real_transform.h"

namespace fdjpeg {
namespace {

int64_t real_scratch_bytes(const Geometry& g, SampleType type) {
  return type == SampleType::float64 ? kNeighbours * components_bytes<double>(g) + line_bytes<double>(g)
                                     : kNeighbours * components_bytes<float>(g) + line_bytes<float>(g);
}

}  // namespace

#define FDJPEG_REAL_KERNELS \
  {real_scratch_bytes, round_trip_rows, backward_rows, transform_scratch_bytes, dct_row, idct_row}

}  // namespace fdjpeg
