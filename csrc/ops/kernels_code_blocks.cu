// The kernels from images to planes or coefficients.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_code_blocks<Make::planes>(const Geometry&, CodeBlocks, StreamLauncher&);
template void launch_code_blocks<Make::planes_by_block>(const Geometry&, CodeBlocks, StreamLauncher&);
template void launch_code_blocks<Make::coefficients>(const Geometry&, CodeBlocks, StreamLauncher&);

}  // namespace fdjpeg
