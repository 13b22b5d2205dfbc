// Which kernel transforms which blocks, and how many threads of it; as exact_launch.h.
#pragma once

#include "cuda/block_transform.cuh"
#include "cuda/exact_launch.h"
#include "cuda/gpu_jobs.h"

namespace fdjpeg {

template <bool inverse, class Launcher>
void launch_block_transform(const BlockTransform& op, Launcher& launch) {
  const TransformBlocks job{op.input, op.output, static_cast<int>(op.rows * op.columns), Divider::by(op.columns)};
  const Grid grid{blocks_for(job.blocks, kTransformThreads / kBlock), 1};
  with_float_type(op.type, [&]<SampleType type>() {
    if constexpr (inverse) {
      launch(idct_blocks<type>, grid, kTransformThreads, job);
    } else {
      launch(dct_blocks<type>, grid, kTransformThreads, job);
    }
  });
}

}  // namespace fdjpeg
