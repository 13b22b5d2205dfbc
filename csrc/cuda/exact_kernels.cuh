// The GPU's kernels. They map the arithmetic of exact_math.h to threads and launch nothing, so that a CPU can run them
// in tests.
//
//   exact_forward.cuh    code_blocks           image -> decoded 8-bit planes, or quantized coefficients
//                        decode_blocks         quantized coefficients -> decoded 8-bit planes
//                        emit_image            planes -> image: upsampling and colour
//   exact_backward.cuh   differentiate         the straight-through gradient of the image, an adjoint stencil
//   exact_backward_blocks.cuh
//                        differentiate_blocks  those of the tables and of surrogates, by recomputation; partial sums
//                                              of the tables' that add_partials adds in a fixed order
//
// What they share: samples.cuh (samples in memory), warp_blocks.cuh (blocks in a warp), upsampling.cuh.
//
// Forward is two kernels with 8-bit planes between them: fused, the triangle upsampling would need a halo of whole
// MCUs, while the planes cost an eighth of the float32 image's bytes and tell backward where the last clamp was at
// work.
#pragma once

#include "cuda/exact_backward_blocks.cuh"
#include "cuda/exact_forward.cuh"
