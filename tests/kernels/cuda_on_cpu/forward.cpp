// The forward ops on a CPU by the GPU's kernels, for Python's ctypes.
#include "arguments.h"

using namespace fdjpeg;

extern "C" {

void round_trip(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const float* tables,
    int64_t table_stride, double quality, void* output, const int64_t* output_stride, uint8_t* planes) {
  emulation::Launcher launch = launcher_of(options);
  RoundTrip op{};
  op.geometry = geometry_of(shape, options);
  op.steps = steps_of(tables, table_stride, quality);
  op.input = image_of(input, type, input_stride);
  op.output = image_of(output, type, output_stride);
  op.planes = planes;
  launch_round_trip(op, launch);
}

void encode(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride, const float* tables,
    int64_t table_stride, double quality, int16_t* y, int16_t* cb, int16_t* cr) {
  emulation::Launcher launch = launcher_of(options);
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
  emulation::Launcher launch = launcher_of(options);
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

void round_trip_by_block(
    const int64_t* shape, const int* options, int type, void* input, const int64_t* input_stride,
    const uint8_t* qualities, void* output, const int64_t* output_stride, uint8_t* planes) {
  emulation::Launcher launch = launcher_of(options);
  RoundTrip op{};
  op.geometry = geometry_of(shape, options);
  op.steps.qualities = qualities;
  op.input = image_of(input, type, input_stride);
  op.output = image_of(output, type, output_stride);
  op.planes = planes;
  launch_round_trip(op, launch);
}

// The formula that replaces a correctly rounded division by 255.
float fraction_of(int byte) {
  return fraction(byte);
}

int quotient_of(int n, int divisor) {
  return Divider::by(divisor).quotient(n);
}
}
