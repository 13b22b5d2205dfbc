#include "ops/instruction_set.h"

#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fdjpeg {
namespace {

InstructionSet choose() {
  std::vector<InstructionSet> available{InstructionSet::baseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  // AVX-512 as Ice Lake and Zen 4 have it, with a multiply-add of 16-bit pairs.
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx2) available.push_back(InstructionSet::avx2);
  if (avx2 && avx512) available.push_back(InstructionSet::avx512);
#endif
  const char* wanted = std::getenv("FDJPEG_ISA");
  if (wanted == nullptr || *wanted == '\0') return available.back();
  std::string names;
  for (const InstructionSet set : available) {
    if (std::strcmp(name_of(set), wanted) == 0) return set;
    names += std::string(names.empty() ? "" : ", ") + name_of(set);
  }
  STD_TORCH_CHECK(false, "FDJPEG_ISA must name an instruction set of this processor (", names, "), got ", wanted);
}

}  // namespace

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::baseline:
      break;
  }
  return "scalar";
}

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

}  // namespace fdjpeg
