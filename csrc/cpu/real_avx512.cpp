// The CPU kernels of the round trip in real numbers, for x86-64 with AVX512, chosen at run time.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#pragma clang fp contract(fast)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#pragma GCC optimize("fp-contract=fast")  // no bits are promised here, so multiplications and additions may be fused
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false, in GCC 12's own headers
#endif

#define FDJPEG_VECTOR_BYTES 64
#include "cpu/real_table.h"

namespace fdjpeg {
const RealKernels kRealAvx512Kernels = FDJPEG_REAL_KERNELS;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
