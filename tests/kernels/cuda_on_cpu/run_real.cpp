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
    // In one turn; or in two, of which the last is the smaller one where the images are odd.
    const int64_t images = job.geometry.images, at_once = job.geometry.height % 2 == 0 ? images : (images + 1) / 2;
    const auto used = static_cast<size_t>(at_once * job.geometry.flag_offset);
    // As many planes as there are images, so that writing too many shows in them; a sanitizer sees it by itself.
    std::vector<Real> planes(kBeyond == 0 ? used : static_cast<size_t>(images * job.geometry.flag_offset), NAN);
    launch_real_round_trip(op, planes.data(), at_once, job.launch);
    const bool turns = std::all_of(planes.begin() + used, planes.end(), [](Real x) { return std::isnan(x); });
    return turns && close(c.type, job.out[0], expected[0], c.tolerance) && equal(job.out[1], expected[1]);
  }
  op.output = job.image(job.in[3], c.output_stride);
  op.mask = job.in[4].data();
  const bool of_tables = !expected[1].empty();
  std::vector<Real> scratch(static_cast<size_t>(of_tables ? real_partials_of(job.geometry, op.input.type) : 0), NAN);
  launch_real_backward(
      op, job.image(job.out[0], c.output_stride), scratch.data(), pointer<Real>(job.out[1]), job.launch);
  constexpr SampleType kOfTables = std::is_same_v<Real, double> ? SampleType::float64 : SampleType::float32;
  return close(c.type, job.out[0], expected[0], c.tolerance) &&
      close_numbers<kOfTables>(job.out[1], expected[1], c.tolerance);
}

// tables, rounding, image, and for backward grad, mask -> image, mask; or image's gradient, tables' gradient or nothing
bool run(Job& job, const std::vector<Bytes>& expected) {
  return static_cast<SampleType>(job.c.type) == SampleType::float64 ? run_in<double>(job, expected)
                                                                    : run_in<float>(job, expected);
}
