// The CPU kernels for x86-64 with AVX2, chosen at run time.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define FDJPEG_VECTOR_BYTES 32
#include "cpu/exact_table.h"

namespace fdjpeg {
const CpuKernels kAvx2Kernels = FDJPEG_KERNELS;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
