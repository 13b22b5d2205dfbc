// Cases of the forward ops: 0 round trip, 1 encode, 2 decode, 3 round trip by block.
#include "cases.h"

bool run(Job& job, const std::vector<Bytes>& expected) {
  const Case& c = job.c;
  if (c.kind == 0 || c.kind == 3) {
    RoundTrip op{
        job.geometry, job.steps, job.image(job.in[1], c.input_stride), job.image(job.out[0], c.output_stride),
        job.out[1].data()};
    if (c.kind == 3) op.steps.qualities = job.in[2].data();
    launch_round_trip(op, job.launch);
  } else if (c.kind == 1) {
    Encode op{job.geometry, job.steps, job.image(job.in[1], c.input_stride), {}};
    for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(job.out[i]);
    launch_encode(op, job.launch);
  } else {
    Bytes planes = garbage(static_cast<size_t>(job.geometry.images * job.geometry.plane_bytes));
    Decode op{job.geometry, job.steps, {}, planes.data(), job.image(job.out[0], c.output_stride)};
    for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(job.in[1 + i]);
    launch_decode(op, job.launch);
  }
  bool all = true;
  for (size_t i = 0; i < expected.size(); ++i) all = all && equal(job.out[i], expected[i]);
  return all;
}
