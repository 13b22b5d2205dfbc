// The straight-through gradient of the image alone, in real numbers.
#include "ops/real_instances.h"

namespace fdjpeg {

template void launch_real_differentiate_samples(const Geometry&, RealDifferentiate, StreamLauncher&);

}  // namespace fdjpeg
