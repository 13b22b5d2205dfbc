// The CPU kernels of the round trip in real numbers, for any processor of the platform.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")  // no bits are promised here, so multiplications and additions may be fused
#endif

#define FDJPEG_VECTOR_BYTES 16
#include "cpu/real_table.h"

namespace fdjpeg {
const RealKernels kRealBaselineKernels = FDJPEG_REAL_KERNELS;
}
