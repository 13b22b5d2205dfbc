// The block transforms on a GPU. The schemas are in schemas.cpp.
#include "ops/arguments.h"
#include "ops/on_device.h"

namespace fdjpeg {
namespace {

// `blocks` is one of `input` and `output`.
template <bool inverse>
void transform(const Tensor& input, const Tensor& output, const Tensor& blocks) {
  if (input.numel() == 0) return;
  const Tensor dense = aligned(input);
  const BlockTransform job = transform_of(dense, output, blocks);
  STD_TORCH_CHECK(
      job.rows * job.columns <= kMaxBlocks, inverse ? "blocks" : "samples", " must have up to ", kMaxBlocks,
      " blocks on a GPU, got ", job.rows * job.columns);
  OnDevice on(input);
  (inverse ? gpu::block_idct : gpu::block_dct)(job, on.stream);
}

Tensor block_dct(const Tensor& samples) {
  const Tensor blocks = empty_blocks(samples);
  transform<false>(samples, blocks, blocks);
  return blocks;
}

Tensor block_idct(const Tensor& blocks) {
  const Tensor samples = empty_samples(blocks);
  transform<true>(blocks, samples, blocks);
  return samples;
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CUDA, m) {
  m.impl("block_dct", TORCH_BOX(&fdjpeg::block_dct));
  m.impl("block_idct", TORCH_BOX(&fdjpeg::block_idct));
}
