// The gradients through coefficients of samples of 16 bits.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_differentiate_blocks<SampleType::float16, false>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
template void launch_differentiate_blocks<SampleType::float16, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
template void launch_differentiate_blocks<SampleType::bfloat16, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);

}  // namespace fdjpeg
