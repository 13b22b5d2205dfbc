// Launches kernels on a stream of a GPU. No torch, so that the files of kernels compile without its headers.
#pragma once

#include <cuda_runtime.h>

#include "cuda/dispatch.h"

namespace fdjpeg {

// Throws what CUDA says.
[[noreturn]] void refuse_launch(cudaError_t error);

// Asks at once whether a launch was accepted; waits for nothing.
struct StreamLauncher {
  cudaStream_t stream;

  template <class Job>
  void operator()(void (*kernel)(Job), Grid grid, int threads, const Job& job) const {
    kernel<<<dim3(grid.x, grid.y), static_cast<unsigned>(threads), 0, stream>>>(job);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) refuse_launch(error);
  }
};

}  // namespace fdjpeg
