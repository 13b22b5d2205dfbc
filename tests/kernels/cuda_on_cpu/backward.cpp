// The backward ops on a CPU by the GPU's kernels, for Python's ctypes.
#include "arguments.h"

using namespace fdjpeg;

extern "C" {

// Bytes of scratch memory for the gradient of the tables.
int64_t scratch_of(const int64_t* shape, const int* options) {
  return partials_of(geometry_of(shape, options)) * static_cast<int64_t>(sizeof(float));
}

// round_trip_backward, or with slopes surrogate_backward.
void round_trip_backward(
    const int64_t* shape, const int* options, int type, void* grad, const int64_t* grad_stride, const uint8_t* planes,
    void* input, const int64_t* input_stride, const float* tables, int64_t table_stride, double quality,
    void* grad_input, const int64_t* grad_input_stride, float* table_sums, const float* slopes, int slope_intervals) {
  emulation::Launcher launch = launcher_of(options);
  RoundTripBackward op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, quality);
  op.grad_output = image_of(grad, type, grad_stride);
  op.planes = planes;
  op.input = image_of(input, type, input_stride);
  op.grad_input = image_of(grad_input, type, grad_input_stride);
  op.slopes = slopes;
  op.slope_intervals = slope_intervals;
  std::vector<float> scratch(static_cast<size_t>(partials_of(op.geometry)), NAN);
  launch_round_trip_backward(op, scratch.data(), table_sums, launch);
}
}
