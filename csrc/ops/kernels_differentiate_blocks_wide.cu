// The gradients through coefficients of samples of 32 and 64 bits.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_differentiate_blocks<SampleType::float32, false>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
template void launch_differentiate_blocks<SampleType::float32, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
template void launch_differentiate_blocks<SampleType::float64, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);

}  // namespace fdjpeg
