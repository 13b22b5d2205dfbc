// The straight-through gradient of the image and the tables.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_differentiate_blocks<false>(const Geometry&, DifferentiateBlocks, StreamLauncher&);

}  // namespace fdjpeg
