// The block transforms on a CPU by the GPU's kernels, for Python's ctypes.
#include "emulation.h"

#include "cuda/block_launch.h"

using namespace fdjpeg;

extern "C" {

void block_transform(int inverse, int type, const void* input, void* output, int64_t rows, int64_t columns, int order) {
  emulation::Launcher launch{static_cast<emulation::Order>(order)};
  const BlockTransform op{static_cast<SampleType>(type), input, output, rows, columns};
  if (inverse != 0) {
    launch_block_transform<true>(op, launch);
  } else {
    launch_block_transform<false>(op, launch);
  }
}
}
