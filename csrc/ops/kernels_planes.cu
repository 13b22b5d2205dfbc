// The exact forward kernels up to the decoded planes, at one quality for each image.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_code_blocks<Make::planes>(const Geometry&, CodeBlocks, StreamLauncher&);

}  // namespace fdjpeg
