// The ops of the round trip in real numbers on a GPU. The schemas are in schemas.cpp.
#include <optional>
#include <string>
#include <tuple>

#include "ops/arguments.h"
#include "ops/on_device.h"

namespace fdjpeg {
namespace {

// `tables` must be contiguous; the caller keeps it alive.
RealStepTables real_steps_of(const std::optional<Tensor>& tables, double quality, const Tensor& image, bool soft) {
  if (!tables.has_value()) return real_standard_tables(quality, soft);
  check_same_device(image, *tables, "tables");
  const bool in_double = check_real_tables(*tables, image.size(0));
  return {tables->data_ptr(), in_double, tables->size(0) == 1 ? 0 : 3 * kBlockSize, 0, false};
}

ScalarType real_type_of(const Image& image) {
  return image.type == SampleType::float64 ? ScalarType::Double : ScalarType::Float;
}

RealOp op_of(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical,
    bool fancy, const std::string& surrogate, double parameter, double floor, bool soft) {
  RealOp op{};
  op.input = image_view(image, "image");
  op.geometry = geometry_of(image, horizontal, vertical, fancy);
  check_size(op.geometry);
  op.steps = real_steps_of(tables, quality, image, soft);
  op.rounding = rounding_of(surrogate, parameter, floor, soft);
  return op;
}

std::tuple<Tensor, Tensor> real_round_trip(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical,
    bool fancy, const std::string& surrogate, double parameter, double floor, bool soft) {
  const std::optional<Tensor> dense = contiguous(tables);
  RealOp op = op_of(image, dense, quality, horizontal, vertical, fancy, surrogate, parameter, floor, soft);
  const Geometry& g = op.geometry;
  Tensor output = new_like(image);
  Tensor mask = allocate(image, {g.images, g.height, g.width}, ScalarType::Byte);
  op.output = image_view(output, "output");
  op.mask = static_cast<uint8_t*>(mask.data_ptr());
  if (image.numel() > 0) {
    const int64_t at_once = gpu::real_images_at_once(g, op.input.type);
    Tensor planes = allocate(image, {at_once, g.flag_offset}, real_type_of(op.input));
    OnDevice on(image);
    gpu::real_round_trip(op, planes.data_ptr(), at_once, on.stream);
  }
  return {output, mask};
}

std::tuple<Tensor, Tensor> real_round_trip_backward(
    const Tensor& grad, const Tensor& mask, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, const std::string& surrogate, double parameter, double floor,
    bool soft, bool table_gradient) {
  const std::optional<Tensor> dense = contiguous(tables);
  RealOp op = op_of(image, dense, quality, horizontal, vertical, fancy, surrogate, parameter, floor, soft);
  const Geometry& g = op.geometry;
  op.output = image_view(grad, "grad");
  check_same_shape(image, grad, "grad");
  check_floating_alike(image, grad);
  check_same_device(image, grad, "grad");
  check_same_device(image, mask, "mask");
  check_mask(mask, g);
  op.mask = static_cast<uint8_t*>(mask.data_ptr());
  Tensor grad_image = new_like(image);
  const ScalarType real = real_type_of(op.input);
  Tensor grad_tables = table_gradient ? allocate(image, {g.images, 3, 8, 8}, real) : allocate(image, {0}, real);
  if (image.numel() == 0) return {grad_image, torch::stable::zero_(grad_tables)};
  Tensor partials = allocate(image, {table_gradient ? gpu::real_partials_of(g, op.input.type) : 0}, real);
  OnDevice on(image);
  gpu::real_backward(
      op, image_view(grad_image, "grad_image"), partials.data_ptr(), table_gradient ? grad_tables.data_ptr() : nullptr,
      on.stream);
  return {grad_image, grad_tables};
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CUDA, m) {
  m.impl("real_round_trip", TORCH_BOX(&fdjpeg::real_round_trip));
  m.impl("real_round_trip_backward", TORCH_BOX(&fdjpeg::real_round_trip_backward));
}
