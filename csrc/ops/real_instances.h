// The real launches whose kernels are compiled in files of their own, several of which a compiler can work on at once.
#pragma once

#include "cuda/real_launch.h"
#include "ops/stream_launcher.h"

namespace fdjpeg {

extern template void launch_real_round_trip(const RealOp&, void*, int64_t, StreamLauncher&);
extern template void launch_real_backward(const RealOp&, const Image&, void*, void*, StreamLauncher&);
extern template void launch_real_differentiate_samples(const Geometry&, RealDifferentiate, StreamLauncher&);

}  // namespace fdjpeg
