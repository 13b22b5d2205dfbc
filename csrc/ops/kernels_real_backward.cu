// The gradient kernels in real numbers.
#include "ops/real_instances.h"

namespace fdjpeg {

template void launch_real_backward(const RealOp&, const Image&, void*, void*, StreamLauncher&);

}  // namespace fdjpeg
