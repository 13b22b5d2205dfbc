// The forward kernels in real numbers.
#include "ops/real_instances.h"

namespace fdjpeg {

template void launch_real_round_trip(const RealOp&, void*, int64_t, StreamLauncher&);

}  // namespace fdjpeg
