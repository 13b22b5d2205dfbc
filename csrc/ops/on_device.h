// The parts that the ops on a GPU share: allocation, the current stream, limits.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <vector>

#include "ops/arguments.h"
#include "ops/gpu_launches.h"

// In a CUDA build of torch only, hence weak: with a CPU build of torch the library loads, and no tensor comes here.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace fdjpeg {
namespace {

// Makes the image's device the current one, and finds its current stream.
struct OnDevice {
  explicit OnDevice(const Tensor& image) : guard(image.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(image.get_device_index(), &stream));
  }

  torch::stable::accelerator::DeviceGuard guard;
  gpu::Stream stream = nullptr;
};

// The same numbers, contiguous and at an address that wide accesses may use.
inline Tensor aligned(const Tensor& tensor) {
  const Tensor dense = torch::stable::contiguous(tensor);
  return reinterpret_cast<uintptr_t>(dense.data_ptr()) % 16 == 0 ? dense : torch::stable::clone(dense);
}

inline Tensor allocate(const Tensor& like, std::initializer_list<int64_t> size, ScalarType type) {
  return new_tensor(like, size, type);
}

// A thread computes offsets within an image's planes in 32 bits, and numbers images so.
inline void check_size(const Geometry& g) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(g.images <= kMost, "image must have up to 2^31 - 1 images on a GPU, got ", g.images);
  STD_TORCH_CHECK(
      g.height < kMost - 64 && g.width < kMost - 64 && g.plane_bytes <= 2 * kMost,
      "image must have up to 2^32 samples in its components on a GPU, got ", g.height, " × ", g.width);
}

}  // namespace
}  // namespace fdjpeg
