// The launches that the ops on a GPU call. Neither torch nor CUDA, so that the ops compile without CUDA's compiler and
// the kernels without torch's headers.
#pragma once

#include "codec/exact_jobs.h"
#include "codec/real_jobs.h"
#include "cuda/gpu_jobs.h"

namespace fdjpeg::gpu {

// A cudaStream_t.
using Stream = void*;

// See exact_launch.h.
void round_trip(const RoundTrip& op, Stream stream);
void encode(const Encode& op, Stream stream);
void decode(const Decode& op, Stream stream);
int64_t partials_of(const Geometry& g);
void round_trip_backward(const RoundTripBackward& op, float* scratch, float* table_sums, Stream stream);

// See real_launch.h.
int64_t real_images_at_once(const Geometry& g, SampleType type);
void real_round_trip(const RealOp& op, void* planes, int64_t at_once, Stream stream);
int64_t real_partials_of(const Geometry& g, SampleType type);
void real_backward(const RealOp& op, const Image& grad_input, void* scratch, void* table_sums, Stream stream);

// See block_launch.h.
void block_dct(const BlockTransform& op, Stream stream);
void block_idct(const BlockTransform& op, Stream stream);

}  // namespace fdjpeg::gpu
