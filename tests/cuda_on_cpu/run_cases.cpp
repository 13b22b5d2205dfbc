// Runs the cases in a file through the GPU's kernels on a CPU, in each order of threads, and compares with what the
// file expects. Exits with 1 and a line for the first case that differs. Without Python, so that sanitizers see the
// kernels alone, and a broken kernel can do no harm. Compiled with BACKWARD 0 it runs the forward ops' cases, with 1
// those of the backward ops.
#include "emulation.h"

#include "codec_launch.h"

using namespace fdjpeg;

namespace {

struct Case {
  int64_t kind;  // 0 round trip, 1 its backward, 2 encode, 3 decode, 4 round trip by block
  int64_t shape[4];
  int64_t horizontal, vertical, fancy, type;
  int64_t input_stride[4], output_stride[4];
  int64_t table_stride;
  double quality, tolerance;
};

using Bytes = std::vector<unsigned char>;

bool read_exactly(std::FILE* file, void* target, size_t bytes) {
  return bytes == 0 || std::fread(target, bytes, 1, file) == 1;
}

// An array is its size in bytes and the bytes. Memory of just that size lets a sanitizer see the first byte beyond.
Bytes read_array(std::FILE* file) {
  int64_t bytes = 0;
  if (!read_exactly(file, &bytes, sizeof(bytes))) std::exit(2);
  Bytes array(static_cast<size_t>(bytes));
  if (!read_exactly(file, array.data(), array.size())) std::exit(2);
  return array;
}

Bytes garbage(size_t bytes) {
  return Bytes(bytes, 0xa5);
}

template <class T>
T* pointer(Bytes& array) {
  return array.empty() ? nullptr : reinterpret_cast<T*>(array.data());
}

template <class T>
bool close(const Bytes& actual, const Bytes& expected, double tolerance) {
  const T* a = reinterpret_cast<const T*>(actual.data());
  const T* b = reinterpret_cast<const T*>(expected.data());
  double scale = 1e-30;
  for (size_t i = 0; i < expected.size() / sizeof(T); ++i) scale = std::max(scale, std::abs(static_cast<double>(b[i])));
  for (size_t i = 0; i < expected.size() / sizeof(T); ++i) {
    if (!(std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])) <= tolerance * scale)) return false;
  }
  return true;
}

struct Job {
  const Case& c;
  std::vector<Bytes>& in;  // the tables come first
  std::vector<Bytes> out;
  emulation::Launcher launch;
  Geometry geometry;
  Steps steps;

  Job(const Case& with, std::vector<Bytes>& inputs, const std::vector<Bytes>& expected, emulation::Order order)
      : c(with), in(inputs), launch{order} {
    for (const Bytes& one : expected) out.push_back(garbage(one.size()));
    geometry = Geometry::of(c.shape[0], c.shape[1], c.shape[2], c.shape[3], c.horizontal, c.vertical, c.fancy != 0);
    steps = {pointer<float>(in[0]), c.table_stride, in[0].empty() ? quality_scale(c.quality) : 0, nullptr};
  }
  Image image(Bytes& data, const int64_t (&stride)[4]) const {
    return {data.data(), static_cast<SampleType>(c.type), {stride[0], stride[1], stride[2], stride[3]}};
  }
};

#if BACKWARD

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
  std::vector<float> partials(static_cast<size_t>(of_tables ? partials_of(job.geometry) : 0), NAN);
  launch_round_trip_backward(op, of_tables ? partials.data() : nullptr, pointer<float>(job.out[1]), job.launch);
  const bool image_close = op.input.type == SampleType::float64 ? close<double>(job.out[0], expected[0], c.tolerance)
                                                                : close<float>(job.out[0], expected[0], c.tolerance);
  return image_close && close<float>(job.out[1], expected[1], c.tolerance);
}

#else

bool run(Job& job, const std::vector<Bytes>& expected) {
  const Case& c = job.c;
  if (c.kind == 0 || c.kind == 4) {
    RoundTrip op{
        job.geometry, job.steps, job.image(job.in[1], c.input_stride), job.image(job.out[0], c.output_stride),
        job.out[1].data()};
    if (c.kind == 4) op.steps.qualities = job.in[2].data();
    launch_round_trip(op, job.launch);
  } else if (c.kind == 2) {
    Encode op{job.geometry, job.steps, job.image(job.in[1], c.input_stride), {}};
    for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(job.out[i]);
    launch_encode(op, job.launch);
  } else {
    Bytes planes = garbage(static_cast<size_t>(job.geometry.images * job.geometry.plane_bytes));
    Decode op{job.geometry, job.steps, {}, planes.data(), job.image(job.out[0], c.output_stride)};
    for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(job.in[1 + i]);
    launch_decode(op, job.launch);
  }
  return job.out == expected;
}

#endif

}  // namespace

// The file, and in how many of the orders.
int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (file == nullptr) return 2;
  Case c;
  const int orders = std::atoi(arguments[2]);
  int number = 0;
  for (; read_exactly(file, &c, sizeof(c)); ++number) {
    constexpr size_t kInputs[] = {2, 5, 2, 4, 3}, kOutputs[] = {2, 2, 3, 1, 2};
    std::vector<Bytes> in, expected;
    for (size_t i = 0; i < kInputs[c.kind]; ++i) in.push_back(read_array(file));
    for (size_t i = 0; i < kOutputs[c.kind]; ++i) expected.push_back(read_array(file));
    for (int order = 0; order < orders; ++order) {
      Job job(c, in, expected, static_cast<emulation::Order>(order));
      if (run(job, expected)) continue;
      std::printf("case %d (kind %d), order %d: differs\n", number, static_cast<int>(c.kind), order);
      return 1;
    }
  }
  std::printf("%d cases\n", number);
  std::fclose(file);
  return number > 0 ? 0 : 2;
}
