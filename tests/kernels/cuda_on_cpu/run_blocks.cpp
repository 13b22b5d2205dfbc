// Cases of the block transforms: 0 forward, 1 inverse.
#include "cases.h"

// nothing, samples or blocks -> blocks or samples
bool run(Job& job, const std::vector<Bytes>& expected) {
  const Case& c = job.c;
  const auto type = static_cast<SampleType>(c.type);
  const BlockTransform op{type, job.in[1].data(), job.out[0].data(), c.shape[0] * c.shape[2], c.shape[3]};
  if (c.kind == 0) {
    launch_block_transform<false>(op, job.launch);
  } else {
    launch_block_transform<true>(op, job.launch);
  }
  return close(c.type, job.out[0], expected[0], c.tolerance);
}
