// Instructions of a GPU that C++ cannot spell. The tests provide the same names where a CPU runs the kernels.
#pragma once

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/tuning.h"

namespace fdjpeg::processor {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Multiplication and addition that the compiler may not fuse: two roundings.
__device__ __forceinline__ float multiply(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ __forceinline__ float add(float a, float b) {
  return __fadd_rn(a, b);
}

// a · b + c with one rounding.
__device__ __forceinline__ float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ double fused(double a, double b, double c) {
  return __fma_rn(a, b, c);
}

// x limited to [0, 1], NaN as 0; often part of the instruction that makes x.
__device__ __forceinline__ float saturate(float x) {
  return __saturatef(x);
}

__device__ __forceinline__ double multiply(double a, double b) {
  return __dmul_rn(a, b);
}
__device__ __forceinline__ int round_to_int(double x) {
  return __double2int_rn(x);
}

__device__ __forceinline__ unsigned bits_of(float x) {
  return __float_as_uint(x);
}

__device__ __forceinline__ unsigned largest(unsigned a, unsigned b, unsigned c) {
  return __vimax3_u32(a, b, c);
}

__device__ __forceinline__ float widen_half(uint16_t x) {
  return __half2float(__ushort_as_half(x));
}
__device__ __forceinline__ float widen_bfloat(uint16_t x) {
  return __uint_as_float(static_cast<unsigned>(x) << 16);
}

// Two numbers rounded to 16 bits each, the first in the low half.
__device__ __forceinline__ unsigned narrow_halves(float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ unsigned narrow_bfloats(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// Four numbers limited to 0 … 255, the first in the low byte.
__device__ __forceinline__ unsigned pack_saturated(int a, int b, int c, int d) {
  unsigned word;
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, 0;" : "=r"(word) : "r"(d), "r"(c));
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b), "r"(a), "r"(word));
  return word;
}

// Four bytes of two words (0 … 3 of a, 4 … 7 of b), the lowest digit of the selector choosing the lowest byte.
__device__ __forceinline__ unsigned permute(unsigned a, unsigned b, unsigned selector) {
  return __byte_perm(a, b, selector);
}

// The same address, of which the compiler no longer knows how it was computed: else it computes it again at each use,
// to save registers.
template <class T>
__device__ __forceinline__ T* keep(T* address) {
  asm volatile("" : "+l"(address));
  __builtin_assume(__isGlobal(address));  // nor that it is not an address of shared memory
  return address;
}

// Memory that is read or written once: it should not drive what is read again out of the caches.
template <class Word>
__device__ __forceinline__ Word load_once(const Word* address) {
  return FDJPEG_STREAMING ? __ldcs(address) : *address;
}
template <class Word>
__device__ __forceinline__ void store_once(Word* address, Word value) {
  if (FDJPEG_STREAMING) {
    __stcs(address, value);
  } else {
    *address = value;
  }
}

// A word from the image to shared memory, while the thread does other work; and the end of all of the thread's copies.
template <class Word>
__device__ __forceinline__ void copy_async(Word* shared, const Word* address) {
  const auto target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(address), "n"(sizeof(Word)) : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ unsigned shuffle(unsigned x, int lane) {
  return __shfl_sync(kWholeWarp, x, lane);
}
__device__ __forceinline__ unsigned shuffle_xor(unsigned x, int mask) {
  return __shfl_xor_sync(kWholeWarp, x, mask);
}
__device__ __forceinline__ float shuffle_xor(float x, int mask) {
  return __shfl_xor_sync(kWholeWarp, x, mask);
}
__device__ __forceinline__ double shuffle_xor(double x, int mask) {
  return __shfl_xor_sync(kWholeWarp, x, mask);
}
__device__ __forceinline__ unsigned ballot(bool condition) {
  return __ballot_sync(kWholeWarp, condition);
}

}  // namespace fdjpeg::processor

#endif  // __CUDACC__
