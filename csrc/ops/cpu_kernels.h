// The tables of CPU kernels for the instruction set in use.
#pragma once

#include "cpu/exact_kernels.h"
#include "cpu/real_kernels.h"
#include "ops/instruction_set.h"

namespace fdjpeg {

inline const CpuKernels& exact_kernels() {
#if defined(__x86_64__)
  const InstructionSet set = instruction_set();
  if (set == InstructionSet::avx512) return kAvx512Kernels;
  if (set == InstructionSet::avx2) return kAvx2Kernels;
#endif
  return kBaselineKernels;
}

inline const RealKernels& real_kernels() {
#if defined(__x86_64__)
  const InstructionSet set = instruction_set();
  if (set == InstructionSet::avx512) return kRealAvx512Kernels;
  if (set == InstructionSet::avx2) return kRealAvx2Kernels;
#endif
  return kRealBaselineKernels;
}

}  // namespace fdjpeg
