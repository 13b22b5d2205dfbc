// The exact kernels from decoded planes to the image.
#include "ops/exact_instances.h"

namespace fdjpeg {

template void launch_emit_image(const Geometry&, const uint8_t*, const Image&, StreamLauncher&);

}  // namespace fdjpeg
