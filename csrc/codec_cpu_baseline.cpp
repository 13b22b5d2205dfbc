// The CPU kernels for any processor of the platform.
#define FDJPEG_VECTOR_BYTES 16
#include "codec_cpu_rows.h"

namespace fdjpeg {
const CpuKernels kBaselineKernels = FDJPEG_KERNELS;
}
