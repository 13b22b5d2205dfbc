// What every_kernel.cpp and the kernels include of the standard library and of an instruction set, to be compiled once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && FDJPEG_VECTOR_BYTES > 16
#include <immintrin.h>
#endif
