// Tensors of the block transforms, the same on every device: argument checks, and the results that kernels fill.
#pragma once

#include <vector>

#include "codec/real_jobs.h"
#include "ops/arguments.h"

namespace fdjpeg {

// A result of the same outer sizes, dtype and device.
inline Tensor transformed_like(const Tensor& input, int64_t outer_dims, std::initializer_list<int64_t> inner) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < outer_dims; ++i) shape.push_back(input.size(i));
  shape.insert(shape.end(), inner);
  return torch::stable::new_empty(input, shape, input.scalar_type());
}

inline void check_floating(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(sample_type(tensor.scalar_type(), name) != SampleType::uint8, name, " must be floating, got uint8");
}

inline Tensor empty_blocks(const Tensor& samples) {
  check_floating(samples, "samples");
  const int64_t dims = samples.dim();
  STD_TORCH_CHECK(
      dims >= 2 && samples.size(dims - 2) % kBlock == 0 && samples.size(dims - 1) % kBlock == 0,
      "samples must have shape (..., H, W), H and W multiples of 8, got ", shape_of(samples));
  const int64_t rows = samples.size(dims - 2) / kBlock, columns = samples.size(dims - 1) / kBlock;
  return transformed_like(samples, dims - 2, {rows, columns, kBlock, kBlock});
}

inline Tensor empty_samples(const Tensor& blocks) {
  check_floating(blocks, "blocks");
  const int64_t dims = blocks.dim();
  STD_TORCH_CHECK(
      dims >= 4 && blocks.size(dims - 2) == kBlock && blocks.size(dims - 1) == kBlock,
      "blocks must have shape (..., rows, columns, 8, 8), got ", shape_of(blocks));
  return transformed_like(blocks, dims - 4, {blocks.size(dims - 4) * kBlock, blocks.size(dims - 3) * kBlock});
}

// Of contiguous tensors that are not empty; `blocks` is one of `input` and `output`.
inline BlockTransform transform_of(const Tensor& input, const Tensor& output, const Tensor& blocks) {
  BlockTransform job{};
  job.type = sample_type(input.scalar_type(), "input");
  job.input = input.data_ptr();
  job.output = output.data_ptr();
  job.columns = blocks.size(blocks.dim() - 3);
  job.rows = input.numel() / (job.columns * kBlockSize);
  return job;
}

}  // namespace fdjpeg
