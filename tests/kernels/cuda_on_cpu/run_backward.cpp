// Cases of the backward ops.
#include "cases.h"

// tables, slopes or nothing, grad, planes, image -> image's gradient, tables' gradient or nothing
bool run(Job& job, const std::vector<Bytes>& expected) {
  const Case& c = job.c;
  RoundTripBackward op{};
  op.geometry = job.geometry;
  op.steps = job.steps;
  op.slopes = pointer<float>(job.in[1]);
  op.slope_intervals = static_cast<int>(job.in[1].size() / sizeof(float)) - 1;
  op.grad_output = job.image(job.in[2], c.output_stride);
  op.planes = job.in[3].data();
  op.input = job.image(job.in[4], c.input_stride);
  op.grad_input = job.image(job.out[0], c.output_stride);
  const bool of_tables = !expected[1].empty();
  std::vector<float> scratch(static_cast<size_t>(of_tables ? partials_of(job.geometry) : 0), NAN);
  launch_round_trip_backward(op, scratch.data(), pointer<float>(job.out[1]), job.launch);
  constexpr double kOfTables = 2e-5;
  return close(c.type, job.out[0], expected[0], c.tolerance) &&
      close_numbers<SampleType::float32>(job.out[1], expected[1], kOfTables);
}
