// The kernels of exact_kernels.h, written over the lanes of lanes.h.
//
// Included by one source file for each instruction set, which names it and its FDJPEG_VECTOR_BYTES; everything here has
// internal linkage, so that no function compiled for one processor is ever linked into another's path.
#pragma once

#include "cpu/exact_backward.h"
#include "cpu/exact_emit.h"
#include "cpu/exact_forward.h"

namespace fdjpeg {
namespace {

int64_t scratch_bytes(const Geometry& g) {
  return mcu_row_scratch(g) + chroma_line_scratch(g) + gradient_scratch<double>(g);
}

}  // namespace

#define FDJPEG_KERNELS {scratch_bytes, code_row, code_row_by_block, emit_row, backward_row, encode_row, decode_row}

}  // namespace fdjpeg
