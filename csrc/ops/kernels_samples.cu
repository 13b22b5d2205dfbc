// The kernels of single samples: planes to images, and straight-through gradients of images alone.
#include "ops/exact_instances.h"
#include "ops/real_instances.h"

namespace fdjpeg {

template void launch_emit_image(const Geometry&, const uint8_t*, const Image&, StreamLauncher&);
template void launch_differentiate(const Geometry&, Differentiate, StreamLauncher&);
template void launch_real_differentiate_samples(const Geometry&, RealDifferentiate, StreamLauncher&);

}  // namespace fdjpeg
