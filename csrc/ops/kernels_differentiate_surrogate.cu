// The gradient of a surrogate.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_differentiate_blocks<true>(const Geometry&, DifferentiateBlocks, StreamLauncher&);

}  // namespace fdjpeg
