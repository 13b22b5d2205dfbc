// The straight-through gradient of the image alone.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_differentiate(const Geometry&, Differentiate, StreamLauncher&);

}  // namespace fdjpeg
