// The ops' arguments on every device: checks, the jobs that are built from them, and new tensors for results. A message
// names the argument, what it must be, and what came: "<argument> must be <wanted>, got <value>".
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"
#include "codec/real_jobs.h"
#include "ops/allocation.h"

namespace fdjpeg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return tensor;
  return torch::stable::contiguous(*tensor);
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
  bool known = false;
  std::string wanted;
  for (size_t i = 0; i < std::size(kSamplings); ++i) {
    const Sampling& one = kSamplings[i];
    known = known || (one.horizontal == horizontal && one.vertical == vertical);
    wanted += i == 0 ? "(" : i + 1 < std::size(kSamplings) ? ", (" : " or (";
    wanted += std::to_string(one.horizontal) + ", " + std::to_string(one.vertical) + ")";
  }
  STD_TORCH_CHECK(known, "horizontal and vertical must be ", wanted, ", got (", horizontal, ", ", vertical, ")");
}

inline Geometry geometry_of(const Tensor& image, int64_t horizontal, int64_t vertical, bool fancy) {
  check_factors(horizontal, vertical);
  return Geometry::of(image.size(0), image.size(1), image.size(2), image.size(3), horizontal, vertical, fancy);
}

inline void check_table_shape(const Tensor& tables, int64_t images) {
  STD_TORCH_CHECK(
      tables.dim() == 4 && (tables.size(0) == 1 || tables.size(0) == images) && tables.size(1) == 3 &&
          tables.size(2) == kBlock && tables.size(3) == kBlock,
      "tables must have shape (1, 3, 8, 8) or (", images, ", 3, 8, 8), got ", shape_of(tables));
}

// `tables` must be contiguous; the caller makes it so and keeps it alive.
inline Steps steps_of(const std::optional<Tensor>& tables, double quality, int64_t images) {
  Steps steps{};
  if (!tables.has_value()) {
    steps.scale = quality_scale(quality);
    return steps;
  }
  check_table_shape(*tables, images);
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

// As "cpu" or "cuda:0".
inline std::string device_of(const Tensor& tensor) {
  return tensor.is_cpu() ? "cpu" : "cuda:" + std::to_string(tensor.get_device_index());
}

inline void check_same_device(const Tensor& image, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(
      image.device() == other.device(), name, " must be on the image's device ", device_of(image), ", got ",
      device_of(other));
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
      "planes must be contiguous uint8 of shape (", g.images, ", ", g.plane_bytes, "), got ",
      torch::headeronly::toString(planes.scalar_type()), " of ", shape_of(planes));
}

inline void check_slopes(const Tensor& slopes) {
  STD_TORCH_CHECK(
      slopes.dim() == 1 && slopes.numel() >= 2 && slopes.scalar_type() == ScalarType::Float && slopes.is_contiguous(),
      "slopes must be contiguous float32 of shape (intervals + 1,), got ",
      torch::headeronly::toString(slopes.scalar_type()), " of ", shape_of(slopes));
}

// A backward op's arguments, checked, but for where its gradient goes. `tables` must be contiguous; the caller keeps
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

// An encode op's arguments, checked; new_coefficients() adds where its results go. `tables` must be contiguous; the
// caller keeps them alive.
inline Encode encode_of(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical) {
  Encode job{};
  job.input = image_view(image, "image");
  job.geometry = geometry_of(image, horizontal, vertical, false);
  if (tables.has_value()) check_same_device(image, *tables, "tables");
  job.steps = steps_of(tables, quality, job.geometry.images);
  return job;
}

// The coefficients of Y, Cb and Cr, which the job fills.
inline std::tuple<Tensor, Tensor, Tensor> new_coefficients(const Tensor& image, Encode& job) {
  const Geometry& g = job.geometry;
  const auto blocks = [&](int component, int64_t rows, int64_t columns) {
    const std::vector<int64_t> shape{g.images, rows, columns, kBlock, kBlock};
    Tensor coefficients = new_tensor(image, shape, ScalarType::Short);
    job.coefficients[component] = static_cast<int16_t*>(coefficients.data_ptr());
    return coefficients;
  };
  return {
      blocks(0, g.luma_rows, g.luma_columns), blocks(1, g.chroma_rows, g.chroma_columns),
      blocks(2, g.chroma_rows, g.chroma_columns)};
}

// Coefficients of grey images come with chroma of no blocks. (Those of an empty batch have rows and columns all the
// same, so the number of coefficients does not show it.)
inline bool is_grey(const Tensor& cb) {
  return cb.dim() == 5 && cb.size(1) == 0;
}

inline const int16_t* coefficients_of(
    const Tensor& y, const Tensor& component, const Geometry& g, int64_t rows, int64_t columns, const char* name) {
  check_same_device(y, component, name);
  STD_TORCH_CHECK(
      component.dim() == 5 && component.scalar_type() == ScalarType::Short && component.size(0) == g.images &&
          component.size(1) == rows && component.size(2) == columns && component.size(3) == kBlock &&
          component.size(4) == kBlock,
      name, " must be int16 of shape (", g.images, ", ", rows, ", ", columns, ", 8, 8), got ",
      torch::headeronly::toString(component.scalar_type()), " of ", shape_of(component));
  return static_cast<const int16_t*>(component.data_ptr());
}

// A decode op's arguments, checked, but for its planes and its output. All tensors must be contiguous; the caller keeps
// them alive.
inline Decode decode_of(
    const Tensor& y, const Tensor& cb, const Tensor& cr, const Tensor& tables, int64_t height, int64_t width,
    int64_t horizontal, int64_t vertical, bool fancy) {
  check_factors(horizontal, vertical);
  STD_TORCH_CHECK(y.dim() == 5, "y must have shape (N, rows, columns, 8, 8), got ", shape_of(y));
  Decode job{};
  job.geometry = Geometry::of(y.size(0), is_grey(cb) ? 1 : 3, height, width, horizontal, vertical, fancy);
  const Geometry& g = job.geometry;
  check_same_device(y, tables, "tables");
  job.steps = steps_of(tables, 0, g.images);
  job.coefficients[0] = coefficients_of(y, y, g, g.luma_rows, g.luma_columns, "y");
  job.coefficients[1] = coefficients_of(y, cb, g, g.chroma_rows, g.chroma_columns, "cb");
  job.coefficients[2] = coefficients_of(y, cr, g, g.chroma_rows, g.chroma_columns, "cr");
  return job;
}

// ---------------------------------------------------------------------------------------------------------------------
// Real numbers

// `parameter` is alpha, or the number of terms.
inline Rounding rounding_of(const std::string& surrogate, double parameter, double floor, bool soft) {
  Rounding rounding{};
  rounding.soft = soft;
  rounding.floor = floor;
  rounding.alpha = parameter;
  if (surrogate == "straight-through") {
    rounding.surrogate = Surrogate::straight_through;
  } else if (surrogate == "zero") {
    rounding.surrogate = Surrogate::zero;
  } else if (surrogate == "cubic") {
    rounding.surrogate = Surrogate::cubic;
  } else if (surrogate == "sine") {
    rounding.surrogate = Surrogate::sine;
  } else if (surrogate == "fourier") {
    rounding.surrogate = Surrogate::fourier;
    rounding.terms = static_cast<int>(parameter);
  } else if (surrogate == "tanh") {
    rounding.surrogate = Surrogate::tanh;
    rounding.norm = 0.5 / std::tanh(parameter / 2);
  } else if (surrogate == "softmax") {
    rounding.surrogate = Surrogate::softmax;
    rounding.norm = std::exp(-2 * parameter);
  } else {
    STD_TORCH_CHECK(
        false, "surrogate must be straight-through, zero, cubic, sine, fourier, tanh or softmax, got ", surrogate);
  }
  STD_TORCH_CHECK(
      !soft || (rounding.surrogate != Surrogate::straight_through && rounding.surrogate != Surrogate::zero),
      "surrogate must have a smooth forward where soft is true, got ", surrogate);
  return rounding;
}

// Whether the tables are float64.
inline bool check_real_tables(const Tensor& tables, int64_t images) {
  check_table_shape(tables, images);
  const bool in_double = tables.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      in_double || tables.scalar_type() == ScalarType::Float, "tables must be float32 or float64, got ",
      torch::headeronly::toString(tables.scalar_type()));
  return in_double;
}

inline void check_mask(const Tensor& mask, const Geometry& g) {
  STD_TORCH_CHECK(
      mask.dim() == 3 && mask.scalar_type() == ScalarType::Byte && mask.size(0) == g.images &&
          mask.size(1) == g.height && mask.size(2) == g.width && mask.is_contiguous(),
      "mask must be contiguous uint8 of shape (", g.images, ", ", g.height, ", ", g.width, "), got ",
      torch::headeronly::toString(mask.scalar_type()), " of ", shape_of(mask));
}

// ---------------------------------------------------------------------------------------------------------------------
// Block transforms

// A result of the same outer sizes, dtype and device.
inline Tensor transformed_like(const Tensor& input, int64_t outer_dims, std::initializer_list<int64_t> inner) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < outer_dims; ++i) shape.push_back(input.size(i));
  shape.insert(shape.end(), inner);
  return new_tensor(input, shape, input.scalar_type());
}

inline void check_floating(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(sample_type(tensor.scalar_type(), name) != SampleType::uint8, name, " must be floating, got uint8");
}

inline Tensor empty_blocks(const Tensor& samples) {
  check_floating(samples, "samples");
  const int64_t dims = samples.dim();
  STD_TORCH_CHECK(
      dims >= 2 && samples.size(dims - 2) % kBlock == 0 && samples.size(dims - 1) % kBlock == 0,
      "samples must have shape (..., H, W), H and W multiples of 8, got ", shape_of(samples));
  const int64_t rows = samples.size(dims - 2) / kBlock, columns = samples.size(dims - 1) / kBlock;
  return transformed_like(samples, dims - 2, {rows, columns, kBlock, kBlock});
}

inline Tensor empty_samples(const Tensor& blocks) {
  check_floating(blocks, "blocks");
  const int64_t dims = blocks.dim();
  STD_TORCH_CHECK(
      dims >= 4 && blocks.size(dims - 2) == kBlock && blocks.size(dims - 1) == kBlock,
      "blocks must have shape (..., rows, columns, 8, 8), got ", shape_of(blocks));
  return transformed_like(blocks, dims - 4, {blocks.size(dims - 4) * kBlock, blocks.size(dims - 3) * kBlock});
}

// Of contiguous tensors that are not empty; `blocks` is one of `input` and `output`.
inline BlockTransform transform_of(const Tensor& input, const Tensor& output, const Tensor& blocks) {
  BlockTransform job{};
  job.type = sample_type(input.scalar_type(), "input");
  job.input = input.data_ptr();
  job.output = output.data_ptr();
  job.columns = blocks.size(blocks.dim() - 3);
  job.rows = input.numel() / (job.columns * kBlockSize);
  return job;
}

}  // namespace fdjpeg
