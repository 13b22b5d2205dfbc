// The exact codec's ops on a GPU. The schemas are in schemas.cpp.
#include <optional>
#include <tuple>
#include <vector>

#include "ops/arguments.h"
#include "ops/on_device.h"

namespace fdjpeg {
namespace {

std::tuple<Tensor, Tensor> round_trip_with(const Tensor& image, const Geometry& g, const Steps& steps) {
  check_size(g);
  RoundTrip op{};
  op.geometry = g;
  op.steps = steps;
  op.input = image_view(image, "image");
  Tensor output = new_like(image);
  Tensor planes = allocate(image, {g.images, g.plane_bytes}, ScalarType::Byte);
  op.output = image_view(output, "output");
  op.planes = static_cast<uint8_t*>(planes.data_ptr());
  if (image.numel() > 0) {
    OnDevice on(image);
    gpu::round_trip(op, on.stream);
  }
  return {output, planes};
}

std::tuple<Tensor, Tensor> round_trip(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical,
    bool fancy) {
  image_view(image, "image");  // checks it
  const Geometry g = geometry_of(image, horizontal, vertical, fancy);
  const std::optional<Tensor> dense_tables = contiguous(tables);
  if (dense_tables.has_value()) check_same_device(image, *dense_tables, "tables");
  return round_trip_with(image, g, steps_of(dense_tables, quality, g.images));
}

std::tuple<Tensor, Tensor> round_trip_by_block(
    const Tensor& image, const Tensor& qualities, int64_t horizontal, int64_t vertical, bool fancy) {
  image_view(image, "image");  // checks it
  check_same_device(image, qualities, "qualities");
  const Geometry g = geometry_of(image, horizontal, vertical, fancy);
  const Tensor dense_qualities = torch::stable::contiguous(qualities);
  return round_trip_with(image, g, steps_by_block(dense_qualities, g));
}

// Runs either backward op: straight through where there are no slopes.
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient, const Tensor* slopes) {
  const std::optional<Tensor> dense_tables = contiguous(tables);
  RoundTripBackward op = backward_of(grad, planes, image, dense_tables, quality, horizontal, vertical, fancy, slopes);
  const Geometry& g = op.geometry;
  check_size(g);
  const Tensor aligned_planes = aligned(planes);
  op.planes = static_cast<const uint8_t*>(aligned_planes.data_ptr());
  Tensor grad_image = new_like(image);
  op.grad_input = image_view(grad_image, "grad_image");

  Tensor grad_tables = table_gradient ? allocate(image, {g.images, 3, 8, 8}, ScalarType::Float)
                                      : allocate(image, {0}, ScalarType::Float);
  if (image.numel() == 0) return {grad_image, torch::stable::zero_(grad_tables)};
  Tensor partials = allocate(image, {table_gradient ? gpu::partials_of(g) : 0}, ScalarType::Float);
  float* sums = table_gradient ? static_cast<float*>(grad_tables.data_ptr()) : nullptr;
  OnDevice on(image);
  gpu::round_trip_backward(op, static_cast<float*>(partials.data_ptr()), sums, on.stream);
  return {grad_image, grad_tables};
}

std::tuple<Tensor, Tensor> round_trip_backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient) {
  return backward(grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient, nullptr);
}

std::tuple<Tensor, Tensor> surrogate_backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient, const Tensor& slopes) {
  return backward(grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient, &slopes);
}

std::tuple<Tensor, Tensor, Tensor> encode(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical) {
  const std::optional<Tensor> dense_tables = contiguous(tables);
  Encode op = encode_of(image, dense_tables, quality, horizontal, vertical);
  check_size(op.geometry);
  auto coefficients = new_coefficients(image, op);
  if (image.numel() > 0) {
    OnDevice on(image);
    gpu::encode(op, on.stream);
  }
  return coefficients;
}

Tensor decode(
    const Tensor& y, const Tensor& cb, const Tensor& cr, const Tensor& tables, int64_t height, int64_t width,
    int64_t horizontal, int64_t vertical, bool fancy, ScalarType dtype) {
  const Tensor kept[] = {aligned(y), aligned(cb), aligned(cr), torch::stable::contiguous(tables)};
  Decode op = decode_of(kept[0], kept[1], kept[2], kept[3], height, width, horizontal, vertical, fancy);
  const Geometry& g = op.geometry;
  check_size(g);
  Tensor planes = allocate(y, {g.images, g.plane_bytes}, ScalarType::Byte);
  op.planes = static_cast<uint8_t*>(planes.data_ptr());
  Tensor output = new_tensor(y, {g.images, g.channels, height, width}, dtype);
  op.output = image_view(output, "dtype");
  if (output.numel() > 0) {
    OnDevice on(y);
    gpu::decode(op, on.stream);
  }
  return output;
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CUDA, m) {
  m.impl("round_trip", TORCH_BOX(&fdjpeg::round_trip));
  m.impl("round_trip_by_block", TORCH_BOX(&fdjpeg::round_trip_by_block));
  m.impl("round_trip_backward", TORCH_BOX(&fdjpeg::round_trip_backward));
  m.impl("surrogate_backward", TORCH_BOX(&fdjpeg::surrogate_backward));
  m.impl("encode", TORCH_BOX(&fdjpeg::encode));
  m.impl("decode", TORCH_BOX(&fdjpeg::decode));
}
