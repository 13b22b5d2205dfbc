// The CPU kernels for any processor of the platform.
#include "codec_cpu_rows.h"

namespace fdjpeg {
const CpuKernels kBaselineKernels = FDJPEG_KERNELS("scalar");
}
