// The ops in real numbers on the CPU: which kernels, which threads, which memory. The schemas are in schemas.cpp.
#include "ops/arguments.h"
#include "ops/cpu_kernels.h"
#include "ops/cpu_shares.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

namespace fdjpeg {
namespace {

// The tables of the batch, or where there are none the standard ones: libjpeg's whole numbers, or real ones of at least
// 1 if soft.
std::vector<double> tables_of(const std::optional<Tensor>& tables, double quality, int64_t images, bool soft) {
  static constexpr uint8_t kStandard[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};
  std::vector<double> steps(kTables);
  if (!tables.has_value()) {
    const double percentage = quality_percentage(quality);
    for (int64_t i = 0; i < kTables; ++i) {
      const int base = kStandard[i >= kBlockSize][i % kBlockSize];
      steps[static_cast<size_t>(i)] =
          soft ? std::fmax(base * (percentage / 100), 1.0) : standard_step(base, quality_scale(quality));
    }
    return steps;
  }
  const bool is_double = check_real_tables(*tables, images);
  const Tensor contiguous = torch::stable::contiguous(*tables);
  steps.resize(static_cast<size_t>(contiguous.numel()));
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i] = is_double ? static_cast<const double*>(contiguous.data_ptr())[i]
                         : static_cast<const float*>(contiguous.data_ptr())[i];
  }
  return steps;
}

RealSteps steps_of(const std::vector<double>& tables) {
  return {tables.data(), tables.size() == kTables ? 0 : kTables};
}

// Calls body(image, first row of MCUs, the one after the last, scratch memory), shared out among threads.
template <class Body>
void for_each_rows(const Geometry& g, SampleType type, const Body& body) {
  Shares(g).for_each([&](int64_t begin, int64_t end) {
    const ScratchMemory scratch(real_kernels().scratch_bytes(g, type));
    while (begin < end) {
      const int64_t image = begin / g.mcu_rows, first = begin % g.mcu_rows;
      const int64_t rows = std::min(g.mcu_rows - first, end - begin);
      body(image, first, first + rows, scratch.begin());
      begin += rows;
    }
  });
}

std::tuple<Tensor, Tensor> real_round_trip(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical,
    bool fancy, const std::string& surrogate, double parameter, double floor, bool soft) {
  RealRoundTrip job{};
  job.input = image_view(image, "image");
  job.geometry = geometry_of(image, horizontal, vertical, fancy);
  const Geometry& g = job.geometry;
  const std::vector<double> steps = tables_of(tables, quality, g.images, soft);
  job.steps = steps_of(steps);
  job.rounding = rounding_of(surrogate, parameter, floor, soft);
  Tensor output = new_like(image);
  Tensor mask = new_tensor(image, {g.images, g.height, g.width}, ScalarType::Byte);
  job.output = image_view(output, "output");
  job.mask = static_cast<uint8_t*>(mask.data_ptr());
  if (image.numel() > 0) {
    for_each_rows(g, job.input.type, [&](int64_t n, int64_t begin, int64_t end, void* scratch) {
      real_kernels().round_trip_rows(job, n, begin, end, scratch);
    });
  }
  return {output, mask};
}

std::tuple<Tensor, Tensor> real_round_trip_backward(
    const Tensor& grad, const Tensor& mask, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, const std::string& surrogate, double parameter, double floor,
    bool soft, bool table_gradient) {
  RealRoundTripBackward job{};
  job.input = image_view(image, "image");
  job.grad_output = image_view(grad, "grad");
  check_same_shape(image, grad, "grad");
  check_floating_alike(image, grad);
  job.geometry = geometry_of(image, horizontal, vertical, fancy);
  const Geometry& g = job.geometry;
  check_mask(mask, g);
  const std::vector<double> steps = tables_of(tables, quality, g.images, soft);
  job.steps = steps_of(steps);
  job.rounding = rounding_of(surrogate, parameter, floor, soft);
  job.mask = static_cast<const uint8_t*>(mask.data_ptr());
  Tensor grad_image = new_like(image);
  job.grad_input = image_view(grad_image, "grad_image");

  const int64_t table_images = table_gradient ? g.images : 0;
  std::vector<double> partials(static_cast<size_t>(table_images * g.mcu_rows * kTables));
  job.table_partials = table_gradient ? partials.data() : nullptr;
  if (image.numel() > 0) {
    for_each_rows(g, job.input.type, [&](int64_t n, int64_t begin, int64_t end, void* scratch) {
      real_kernels().backward_rows(job, n, begin, end, scratch);
    });
  }
  const bool is_double = job.input.type == SampleType::float64;
  Tensor grad_tables = new_tensor(
      image, table_gradient ? std::vector<int64_t>{g.images, 3, 8, 8} : std::vector<int64_t>{0},
      is_double ? ScalarType::Double : ScalarType::Float);
  if (is_double) {
    add_rows(partials, table_images, g.mcu_rows, static_cast<double*>(grad_tables.data_ptr()));
  } else {
    add_rows(partials, table_images, g.mcu_rows, static_cast<float*>(grad_tables.data_ptr()));
  }
  return {grad_image, grad_tables};
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CPU, m) {
  m.impl("real_round_trip", TORCH_BOX(&fdjpeg::real_round_trip));
  m.impl("real_round_trip_backward", TORCH_BOX(&fdjpeg::real_round_trip_backward));
}
