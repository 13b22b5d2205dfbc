// Cases of the ops in real numbers: 0 round trip, 1 its backward.
#include "cases.h"

#include "cuda/real_launch.h"

template <class Real>
bool run_in(Job& job, const std::vector<Bytes>& expected) {
  const Case& c = job.c;
  RealOp op{};
  op.geometry = job.geometry;
  std::memcpy(&op.rounding, job.in[1].data(), sizeof(op.rounding));
  const int64_t tables = c.table_stride == 0 ? 1 : job.geometry.images;
  const bool in_double = job.in[0].size() == static_cast<size_t>(tables * 3 * kBlockSize) * sizeof(double);
  op.steps = job.in[0].empty() ? real_standard_tables(c.quality, op.rounding.soft)
                               : RealStepTables{job.in[0].data(), in_double, c.table_stride, 0, false};
  op.input = job.image(job.in[2], c.input_stride);
  if (c.kind == 0) {
    op.output = job.image(job.out[0], c.output_stride);
    op.mask = job.out[1].data();
    const int64_t at_once = job.geometry.height % 2 == 0 ? job.geometry.images : 1;  // in one turn and in several
    std::vector<Real> planes(static_cast<size_t>(at_once * job.geometry.flag_offset), NAN);
    launch_real_round_trip(op, planes.data(), at_once, job.launch);
    return close<Real>(job.out[0], expected[0], c.tolerance) && job.out[1] == expected[1];
  }
  op.output = job.image(job.in[3], c.output_stride);
  op.mask = job.in[4].data();
  const bool of_tables = !expected[1].empty();
  std::vector<Real> scratch(static_cast<size_t>(of_tables ? real_partials_of(job.geometry, op.input.type) : 0), NAN);
  launch_real_backward(
      op, job.image(job.out[0], c.output_stride), scratch.data(), pointer<Real>(job.out[1]), job.launch);
  return close<Real>(job.out[0], expected[0], c.tolerance) && close<Real>(job.out[1], expected[1], c.tolerance);
}

// tables, rounding, image, and for backward grad, mask -> image, mask; or image's gradient, tables' gradient or nothing
bool run(Job& job, const std::vector<Bytes>& expected) {
  return static_cast<SampleType>(job.c.type) == SampleType::float64 ? run_in<double>(job, expected)
                                                                    : run_in<float>(job, expected);
}
