// Which of the CPU's instruction sets is used. Kernels are compiled once for each (csrc/cpu/*.cpp).
#pragma once

namespace fdjpeg {

enum class InstructionSet { baseline, avx2, avx512 };

// The best one that this processor has, or the one that FDJPEG_ISA names; found out once.
InstructionSet instruction_set();

// As FDJPEG_ISA calls it: scalar, avx2 or avx512.
const char* name_of(InstructionSet set);

}  // namespace fdjpeg
