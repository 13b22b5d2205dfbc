// The exact forward kernels up to the decoded planes, at a quality for each block.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_code_blocks<Make::planes_by_block>(const Geometry&, CodeBlocks, StreamLauncher&);

}  // namespace fdjpeg
