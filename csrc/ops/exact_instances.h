// The exact launches whose kernels are compiled in files of their own, several of which a compiler can work on at once.
#pragma once

#include "cuda/exact_launch.h"
#include "ops/stream_launcher.h"

namespace fdjpeg {

extern template void launch_code_blocks<Make::planes>(const Geometry&, CodeBlocks, StreamLauncher&);
extern template void launch_code_blocks<Make::planes_by_block>(const Geometry&, CodeBlocks, StreamLauncher&);
extern template void launch_code_blocks<Make::coefficients>(const Geometry&, CodeBlocks, StreamLauncher&);
extern template void launch_emit_image(const Geometry&, const uint8_t*, const Image&, StreamLauncher&);
extern template void launch_differentiate(const Geometry&, Differentiate, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::float16, false>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::float16, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::bfloat16, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::float32, false>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::float32, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);
extern template void launch_differentiate_blocks<SampleType::float64, true>(
    const Geometry&, DifferentiateBlocks, StreamLauncher&);

}  // namespace fdjpeg
