// The ops in real numbers on a CPU by the GPU's kernels, for Python's ctypes.
#include "arguments.h"

#include "cuda/real_launch.h"

using namespace fdjpeg;

namespace {

RealOp op_of(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const void* tables,
    int in_double, int64_t table_stride, double quality, const Rounding* rounding, void* output,
    const int64_t* output_stride, uint8_t* mask) {
  RealOp op{};
  op.geometry = geometry_of(shape, options);
  op.rounding = *rounding;
  op.steps = tables == nullptr ? real_standard_tables(quality, rounding->soft)
                               : RealStepTables{tables, in_double != 0, table_stride, 0, false};
  op.input = image_of(input, type, input_stride);
  op.output = image_of(output, type, output_stride);
  op.mask = mask;
  return op;
}

}  // namespace

extern "C" {

// Of how many images there are planes at once, and bytes of scratch memory for the gradient of the tables.
int64_t images_at_once_of(const int64_t* shape, const int* options, int type) {
  return real_images_at_once(geometry_of(shape, options), static_cast<SampleType>(type));
}
int64_t scratch_of(const int64_t* shape, const int* options, int type) {
  const SampleType sample = static_cast<SampleType>(type);
  return real_partials_of(geometry_of(shape, options), sample) * (sample == SampleType::float64 ? 8 : 4);
}

void real_round_trip(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const void* tables,
    int in_double, int64_t table_stride, double quality, const Rounding* rounding, void* output,
    const int64_t* output_stride, uint8_t* mask) {
  emulation::Launcher launch = launcher_of(options);
  const RealOp op = op_of(
      shape, options, type, input, input_stride, tables, in_double, table_stride, quality, rounding, output,
      output_stride, mask);
  const int64_t at_once = (op.geometry.images + 1) / 2;  // so that a second turn finds the planes of the first
  std::vector<double> planes(static_cast<size_t>(at_once * op.geometry.flag_offset), NAN);
  launch_real_round_trip(op, planes.data(), at_once, launch);
}

void real_round_trip_backward(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const void* tables,
    int in_double, int64_t table_stride, double quality, const Rounding* rounding, void* grad,
    const int64_t* grad_stride, uint8_t* mask, void* grad_input, const int64_t* grad_input_stride, void* table_sums) {
  emulation::Launcher launch = launcher_of(options);
  const RealOp op = op_of(
      shape, options, type, input, input_stride, tables, in_double, table_stride, quality, rounding, grad, grad_stride,
      mask);
  std::vector<double> scratch(static_cast<size_t>(real_partials_of(op.geometry, op.input.type)), NAN);
  launch_real_backward(op, image_of(grad_input, type, grad_input_stride), scratch.data(), table_sums, launch);
}
}
