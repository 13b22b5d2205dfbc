// The exact forward kernels up to the coefficients.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_code_blocks<Make::coefficients>(const Geometry&, CodeBlocks, StreamLauncher&);

}  // namespace fdjpeg
