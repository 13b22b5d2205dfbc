// Runs the cases in a file through the GPU's kernels on a CPU, in each order of threads, and compares with what the
// file expects. Exits with 1 and a line for the first case that differs. Without Python, so that sanitizers see the
// kernels alone, and a broken kernel can do no harm.
#include "emulation.h"

#include "codec_launch.h"

using namespace fdjpeg;

namespace {

struct Case {
  int64_t kind;  // 0 round trip, 1 its backward, 2 encode, 3 decode
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

bool run(const Case& c, std::vector<Bytes>& in, const std::vector<Bytes>& expected, emulation::Order order) {
  const auto type = static_cast<SampleType>(c.type);
  const auto image = [&](Bytes& data, const int64_t* stride) {
    return Image{data.data(), type, {stride[0], stride[1], stride[2], stride[3]}};
  };
  emulation::Launcher launch{order};
  const Geometry geometry =
      Geometry::of(c.shape[0], c.shape[1], c.shape[2], c.shape[3], c.horizontal, c.vertical, c.fancy != 0);
  std::vector<Bytes> out;
  for (const Bytes& one : expected) out.push_back(garbage(one.size()));
  Bytes& tables = in[0];
  const Steps steps{pointer<float>(tables), c.table_stride, tables.empty() ? quality_scale(c.quality) : 0, nullptr};
  if (c.kind == 0) {
    RoundTrip op{geometry, steps, image(in[1], c.input_stride), image(out[0], c.output_stride), out[1].data()};
    launch_round_trip(op, launch);
    return out == expected;
  }
  if (c.kind == 1) {  // tables, slopes or nothing, grad, planes, image -> image's gradient, tables' gradient
    RoundTripBackward op{};
    op.geometry = geometry;
    op.steps = steps;
    op.slopes = pointer<float>(in[1]);
    op.slope_intervals = static_cast<int>(in[1].size() / sizeof(float)) - 1;
    op.grad_output = image(in[2], c.output_stride);
    op.planes = in[3].data();
    op.input = image(in[4], c.input_stride);
    op.grad_input = image(out[0], c.output_stride);
    std::vector<float> partials(static_cast<size_t>(partials_of(geometry)), NAN);
    launch_round_trip_backward(op, partials.data(), pointer<float>(out[1]), launch);
    const bool image_close = type == SampleType::float64 ? close<double>(out[0], expected[0], c.tolerance)
                                                         : close<float>(out[0], expected[0], c.tolerance);
    return image_close && close<float>(out[1], expected[1], c.tolerance);
  }
  if (c.kind == 2) {
    Encode op{geometry, steps, image(in[1], c.input_stride), {}};
    for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(out[i]);
    launch_encode(op, launch);
    return out == expected;
  }
  Bytes planes = garbage(static_cast<size_t>(geometry.images * geometry.plane_bytes));
  Decode op{geometry, steps, {}, planes.data(), image(out[0], c.output_stride)};
  for (size_t i = 0; i < 3; ++i) op.coefficients[i] = pointer<int16_t>(in[1 + i]);
  launch_decode(op, launch);
  return out == expected;
}

}  // namespace

int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (file == nullptr) return 2;
  Case c;
  int number = 0;
  for (; read_exactly(file, &c, sizeof(c)); ++number) {
    constexpr size_t kInputs[] = {2, 5, 2, 4}, kOutputs[] = {2, 2, 3, 1};
    std::vector<Bytes> in, expected;
    for (size_t i = 0; i < kInputs[c.kind]; ++i) in.push_back(read_array(file));
    for (size_t i = 0; i < kOutputs[c.kind]; ++i) expected.push_back(read_array(file));
    for (int order = 0; order < 3; ++order) {
      if (run(c, in, expected, static_cast<emulation::Order>(order))) continue;
      std::printf("case %d (kind %d), order %d: differs\n", number, static_cast<int>(c.kind), order);
      return 1;
    }
  }
  std::printf("%d cases\n", number);
  std::fclose(file);
  return number > 0 ? 0 : 2;
}
