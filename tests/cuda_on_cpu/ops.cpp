// The ops on a CPU by the GPU's kernels, for Python's ctypes.
#include "emulation.h"

#include "codec_launch.h"

using namespace fdjpeg;

namespace {

Geometry geometry_of(const int64_t* shape, const int* options) {
  return Geometry::of(shape[0], shape[1], shape[2], shape[3], options[0], options[1], options[2] != 0);
}

Image image_of(void* data, int type, const int64_t* stride) {
  return {data, static_cast<SampleType>(type), {stride[0], stride[1], stride[2], stride[3]}};
}

Steps steps_of(const float* tables, int64_t stride, double quality) {
  return {tables, stride, tables == nullptr ? quality_scale(quality) : 0};
}

}  // namespace

// `options` are the horizontal and the vertical sampling factor, whether upsampling is fancy, and the order of threads.
extern "C" {

int64_t plane_bytes(const int64_t* shape, const int* options) {
  return geometry_of(shape, options).plane_bytes;
}

void round_trip(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const float* tables,
    int64_t table_stride, double quality, void* output, const int64_t* output_stride, uint8_t* planes) {
  emulation::Launcher launch{static_cast<emulation::Order>(options[3])};
  RoundTrip op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, quality);
  op.input = image_of(input, type, input_stride);
  op.output = image_of(output, type, output_stride);
  op.planes = planes;
  launch_round_trip(op, launch);
}

void round_trip_backward(
    const int64_t* shape, const int* options, int type, void* grad, const int64_t* grad_stride, const uint8_t* planes,
    void* input, const int64_t* input_stride, const float* tables, int64_t table_stride, double quality, void* grad_input,
    const int64_t* grad_input_stride, float* table_sums) {
  emulation::Launcher launch{static_cast<emulation::Order>(options[3])};
  RoundTripBackward op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, quality);
  op.grad_output = image_of(grad, type, grad_stride);
  op.planes = planes;
  op.input = image_of(input, type, input_stride);
  op.grad_input = image_of(grad_input, type, grad_input_stride);
  const TableScratch sizes = TableScratch::of(op.geometry);
  std::vector<float> scratch(table_sums == nullptr ? 0 : static_cast<size_t>(sizes.plane_gradients + sizes.partials), NAN);
  launch_round_trip_backward(op, table_sums == nullptr ? nullptr : scratch.data(), table_sums, launch);
}

void encode(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const float* tables,
    int64_t table_stride, double quality, int16_t* y, int16_t* cb, int16_t* cr) {
  emulation::Launcher launch{static_cast<emulation::Order>(options[3])};
  Encode op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, quality);
  op.input = image_of(input, type, input_stride);
  op.coefficients[0] = y;
  op.coefficients[1] = cb;
  op.coefficients[2] = cr;
  launch_encode(op, launch);
}

void decode(
    const int64_t* shape, const int* options, int type, const int16_t* y, const int16_t* cb, const int16_t* cr,
    const float* tables, int64_t table_stride, uint8_t* planes, void* output, const int64_t* output_stride) {
  emulation::Launcher launch{static_cast<emulation::Order>(options[3])};
  Decode op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, 0);
  op.coefficients[0] = y;
  op.coefficients[1] = cb;
  op.coefficients[2] = cr;
  op.planes = planes;
  op.output = image_of(output, type, output_stride);
  launch_decode(op, launch);
}

// The formula that stands for a correctly rounded division by 255.
float fraction_of(int byte) {
  return fraction(byte);
}

int quotient_of(int n, int divisor) {
  return Divider::by(divisor).quotient(n);
}
}
