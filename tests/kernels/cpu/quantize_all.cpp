// Quantizes every coefficient that the forward transform of bytes can make, and some more, by every step, as the lanes
// of FDJPEG_VECTOR_BYTES do it; prints how many levels differ from a division.
#if FDJPEG_VECTOR_BYTES == 64
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#elif FDJPEG_VECTOR_BYTES == 32
#pragma GCC target("avx2,fma,f16c")
#endif
#include "cpu/exact_table.h"

#include <cstdio>
#include <cstdlib>

using namespace fdjpeg;

int main() {
  constexpr int kLargest = 1 << 14;  // the transform stays below 2^13 + 2^4
  long wrong = 0;
  for (int q = 1; q <= kMaxSample; ++q) {
    const NarrowStep narrow = narrow_step(q);
    StepTables::Table table;
    for (int i = 0; i < kBlockSize; ++i) {
      table.step[i] = static_cast<int16_t>(q);
      table.half[i] = static_cast<int16_t>(kBlock / 2 * q);
      table.reciprocal[i] = narrow.reciprocal;
      table.scale[i] = narrow.scale;
    }
    for (int c = -kLargest; c < kLargest; c += kLanes) {
      Shorts x;
      for (int i = 0; i < kLanes; ++i) x[i] = static_cast<int16_t>(c + i);
      const Shorts k = quantize_row(x, SharedTable{table}, 0);
      for (int i = 0; i < kLanes; ++i) {
        const int level = (std::abs(c + i) + kBlock / 2 * q) / (kBlock * q);
        wrong += k[i] != (c + i < 0 ? -level : level);
        wrong += quantize<int>(c + i, reciprocal_step(q)) != k[i];
      }
    }
  }
  std::printf("%ld\n", wrong);
}
