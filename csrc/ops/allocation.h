// New tensors. Where memory runs out, the stable ABI passes on neither torch's error nor its words, so they are put in
// again: callers, such as searches for the largest batch, tell that error from others by them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fdjpeg {

template <class Make>
torch::stable::Tensor allocated(const torch::stable::Tensor& like, const std::vector<int64_t>& size, Make make) {
  try {
    return make();
  } catch (const std::runtime_error&) {
    std::string shape;
    for (const int64_t length : size) shape += (shape.empty() ? "" : ", ") + std::to_string(length);
    const std::string words = like.is_cuda() ? "CUDA out of memory. " : "DefaultCPUAllocator: can't allocate memory: ";
    throw std::runtime_error(words + "fdjpeg tried to allocate a tensor of shape (" + shape + ")");
  }
}

inline torch::stable::Tensor new_like(const torch::stable::Tensor& like) {
  std::vector<int64_t> size;
  for (int64_t i = 0; i < like.dim(); ++i) size.push_back(like.size(i));
  return allocated(like, size, [&] { return torch::stable::empty_like(like); });
}

inline torch::stable::Tensor new_tensor(
    const torch::stable::Tensor& like, const std::vector<int64_t>& size, torch::headeronly::ScalarType type) {
  return allocated(like, size, [&] { return torch::stable::new_empty(like, size, type); });
}

}  // namespace fdjpeg
