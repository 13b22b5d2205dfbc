// Argument checks of the ops, the same on every device; a message shows the value that came.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"

namespace fdjpeg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

inline SampleType sample_type(ScalarType type, const char* name) {
  switch (type) {
    case ScalarType::Byte:
      return SampleType::uint8;
    case ScalarType::Half:
      return SampleType::float16;
    case ScalarType::BFloat16:
      return SampleType::bfloat16;
    case ScalarType::Float:
      return SampleType::float32;
    case ScalarType::Double:
      return SampleType::float64;
    default:
      STD_TORCH_CHECK(
          false, name, " must be uint8, float16, bfloat16, float32 or float64, got ",
          torch::headeronly::toString(type));
  }
}

inline Image image_view(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      tensor.dim() == 4 && (tensor.size(1) == 1 || tensor.size(1) == 3), name,
      " must have shape (N, 1, H, W) or (N, 3, H, W), got ", shape_of(tensor));
  Image image{};
  image.data = tensor.data_ptr();
  image.type = sample_type(tensor.scalar_type(), name);
  for (int i = 0; i < 4; ++i) image.stride[i] = tensor.stride(i);
  return image;
}

inline void check_factors(int64_t horizontal, int64_t vertical) {
  STD_TORCH_CHECK(
      (vertical == 1 && (horizontal == 1 || horizontal == 2 || horizontal == 4)) ||
          (vertical == 2 && horizontal <= 2 && horizontal >= 1),
      "horizontal and vertical must be (1, 1), (2, 1), (2, 2), (1, 2) or (4, 1), got (", horizontal, ", ", vertical,
      ")");
}

inline Geometry geometry_of(const Tensor& image, int64_t horizontal, int64_t vertical, bool fancy) {
  check_factors(horizontal, vertical);
  return Geometry::of(image.size(0), image.size(1), image.size(2), image.size(3), horizontal, vertical, fancy);
}

// `tables` must be contiguous; the caller makes it so and keeps it alive.
inline Steps steps_of(const std::optional<Tensor>& tables, double quality, int64_t images) {
  Steps steps{};
  if (!tables.has_value()) {
    steps.scale = quality_scale(quality);
    return steps;
  }
  STD_TORCH_CHECK(
      tables->dim() == 4 && (tables->size(0) == 1 || tables->size(0) == images) && tables->size(1) == 3 &&
          tables->size(2) == 8 && tables->size(3) == 8,
      "tables must have shape (1, 3, 8, 8) or (", images, ", 3, 8, 8), got ", shape_of(*tables));
  STD_TORCH_CHECK(
      tables->scalar_type() == ScalarType::Float, "tables must be float32, got ",
      torch::headeronly::toString(tables->scalar_type()));
  steps.tables = static_cast<const float*>(tables->data_ptr());
  steps.image_stride = tables->size(0) == 1 ? 0 : 3 * kBlockSize;
  return steps;
}

inline Steps steps_by_block(const Tensor& qualities, const Geometry& g) {
  STD_TORCH_CHECK(
      qualities.dim() == 3 && qualities.scalar_type() == ScalarType::Byte && qualities.size(0) == g.images &&
          qualities.size(1) == g.luma_rows && qualities.size(2) == g.luma_columns && qualities.is_contiguous(),
      "qualities must be contiguous uint8 of shape (", g.images, ", ", g.luma_rows, ", ", g.luma_columns, "), got ",
      torch::headeronly::toString(qualities.scalar_type()), " of ", shape_of(qualities));
  Steps steps{};
  steps.qualities = static_cast<const uint8_t*>(qualities.data_ptr());
  return steps;
}

inline void check_same_device(const Tensor& image, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(image.device() == other.device(), name, " must be on the image's device");
}

inline void check_same_shape(const Tensor& image, const Tensor& other, const char* name) {
  bool same = image.dim() == other.dim();
  for (int64_t i = 0; same && i < image.dim(); ++i) same = image.size(i) == other.size(i);
  STD_TORCH_CHECK(same, name, " must have the image's shape ", shape_of(image), ", got ", shape_of(other));
}

inline void check_floating_alike(const Tensor& image, const Tensor& grad) {
  STD_TORCH_CHECK(
      image.scalar_type() == grad.scalar_type() && image.scalar_type() != ScalarType::Byte,
      "grad must have the image's floating dtype ", torch::headeronly::toString(image.scalar_type()), ", got ",
      torch::headeronly::toString(grad.scalar_type()));
}

inline void check_planes(const Tensor& planes, const Geometry& g) {
  STD_TORCH_CHECK(
      planes.dim() == 2 && planes.scalar_type() == ScalarType::Byte && planes.size(0) == g.images &&
          planes.size(1) == g.plane_bytes && planes.is_contiguous(),
      "planes must be contiguous uint8 of shape (", g.images, ", ", g.plane_bytes, "), got ", shape_of(planes));
}

inline void check_slopes(const Tensor& slopes) {
  STD_TORCH_CHECK(
      slopes.dim() == 1 && slopes.numel() >= 2 && slopes.scalar_type() == ScalarType::Float && slopes.is_contiguous(),
      "slopes must be contiguous float32 of shape (intervals + 1,), got ",
      torch::headeronly::toString(slopes.scalar_type()), " of ", shape_of(slopes));
}

// What a backward op takes, checked, but for where its gradient goes. `tables` must be contiguous; the caller keeps
// them and the planes alive. `slopes` are null where straight through.
inline RoundTripBackward backward_of(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, const Tensor* slopes) {
  RoundTripBackward job{};
  job.input = image_view(image, "image");
  job.grad_output = image_view(grad, "grad");
  check_same_shape(image, grad, "grad");
  check_floating_alike(image, grad);
  check_same_device(image, grad, "grad");
  check_same_device(image, planes, "planes");
  if (tables.has_value()) check_same_device(image, *tables, "tables");
  job.geometry = geometry_of(image, horizontal, vertical, fancy);
  check_planes(planes, job.geometry);
  job.steps = steps_of(tables, quality, job.geometry.images);
  job.planes = static_cast<const uint8_t*>(planes.data_ptr());
  if (slopes != nullptr) {
    check_slopes(*slopes);
    check_same_device(image, *slopes, "slopes");
    job.slopes = static_cast<const float*>(slopes->data_ptr());
    job.slope_intervals = static_cast<int>(slopes->numel() - 1);
  }
  return job;
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return tensor;
  return torch::stable::contiguous(*tensor);
}

}  // namespace fdjpeg
