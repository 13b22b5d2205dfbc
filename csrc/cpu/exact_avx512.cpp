// The CPU kernels for x86-64 with AVX512, chosen at run time.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false, in GCC 12's own headers
#pragma GCC diagnostic ignored "-Wuninitialized"        // likewise
#endif
#define FDJPEG_VECTOR_BYTES 64
#include "cpu/exact_table.h"

namespace fdjpeg {
const CpuKernels kAvx512Kernels = FDJPEG_KERNELS;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
