// The CPU kernels for any processor of the platform.
#define FDJPEG_VECTOR_BYTES 16
#include "cpu/exact_table.h"

namespace fdjpeg {
const CpuKernels kBaselineKernels = FDJPEG_KERNELS;
}
