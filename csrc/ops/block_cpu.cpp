// The block transforms on the CPU. The schemas are in schemas.cpp.
#include "ops/arguments.h"
#include "ops/cpu_kernels.h"
#include "ops/cpu_shares.h"

namespace fdjpeg {
namespace {

// Row of blocks by row of blocks; `blocks` is one of `input` and `output`.
void transform(
    const Tensor& input, const Tensor& output, const Tensor& blocks,
    void (*transform_row)(const BlockTransform&, int64_t, void*)) {
  if (input.numel() == 0) return;
  const Tensor dense = torch::stable::contiguous(input);
  const BlockTransform job = transform_of(dense, output, blocks);
  Shares(job.rows, job.columns * kBlockSize).for_each([&](int64_t begin, int64_t end) {
    const ScratchMemory scratch(real_kernels().transform_scratch_bytes(job));
    for (int64_t row = begin; row < end; ++row) transform_row(job, row, scratch.begin());
  });
}

Tensor block_dct(const Tensor& samples) {
  const Tensor blocks = empty_blocks(samples);
  transform(samples, blocks, blocks, real_kernels().dct_row);
  return blocks;
}

Tensor block_idct(const Tensor& blocks) {
  const Tensor samples = empty_samples(blocks);
  transform(blocks, samples, blocks, real_kernels().idct_row);
  return samples;
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CPU, m) {
  m.impl("block_dct", TORCH_BOX(&fdjpeg::block_dct));
  m.impl("block_idct", TORCH_BOX(&fdjpeg::block_idct));
}
