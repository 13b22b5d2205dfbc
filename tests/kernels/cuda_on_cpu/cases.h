// A program that runs the cases in a file through the GPU's kernels on a CPU, in each order of threads, and compares
// with what the file expects. It exits with 1 and a line for the first case that differs. Without Python, so that
// sanitizers see the kernels alone, and a broken kernel can do no harm. A file that includes this defines run().
#pragma once

#include "emulation.h"

#include "cuda/block_launch.h"

using namespace fdjpeg;

struct Case {
  int64_t kind;             // which op, as the program numbers them
  int64_t inputs, outputs;  // arrays that follow
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

// Bytes after a result, which no kernel may write. A sanitizer sees it without them.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kBeyond = 0;
#else
constexpr size_t kBeyond = 1 << 16;
#endif

// Memory for a result; none where nothing is expected.
Bytes room_for(const Bytes& expected) {
  return garbage(expected.empty() ? 0 : expected.size() + kBeyond);
}

bool untouched_beyond(const Bytes& actual, const Bytes& expected) {
  static const Bytes untouched = garbage(kBeyond);
  return expected.empty() || std::memcmp(actual.data() + expected.size(), untouched.data(), kBeyond) == 0;
}

bool equal(const Bytes& actual, const Bytes& expected) {
  return expected.empty() || std::memcmp(actual.data(), expected.data(), expected.size()) == 0;
}

template <class T>
T* pointer(Bytes& array) {
  return array.empty() ? nullptr : reinterpret_cast<T*>(array.data());
}

template <SampleType type>
bool close_numbers(const Bytes& actual, const Bytes& expected, double tolerance) {
  using T = typename Sample<type>::Stored;
  const auto number = [](const Bytes& bytes, size_t i) {
    T stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(T), sizeof(T));
    return static_cast<double>(Sample<type>::real(stored));
  };
  const size_t count = expected.size() / sizeof(T);
  double scale = 1e-30;
  for (size_t i = 0; i < count; ++i) scale = std::max(scale, std::abs(number(expected, i)));
  for (size_t i = 0; i < count; ++i) {
    if (!(std::abs(number(actual, i) - number(expected, i)) <= tolerance * scale)) return false;
  }
  return true;
}

// Of a thousand bytes one may be the other neighbour of a number between two.
bool close_bytes(const Bytes& actual, const Bytes& expected) {
  size_t others = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const int error = std::abs(actual[i] - expected[i]);
    if (error > 1) return false;
    others += static_cast<size_t>(error);
  }
  return 1000 * others <= expected.size();
}

// Samples of a type, of which `tolerance` is a part of the largest.
bool close(int64_t type, const Bytes& actual, const Bytes& expected, double tolerance) {
  bool all = false;
  with_type(static_cast<SampleType>(type), [&]<SampleType one>() {
    if constexpr (one == SampleType::uint8) {
      all = close_bytes(actual, expected);
    } else {
      all = close_numbers<one>(actual, expected, tolerance);
    }
  });
  return all;
}

// A case in one order of threads.
struct Job {
  const Case& c;
  std::vector<Bytes>& in;  // the tables come first
  std::vector<Bytes> out;
  emulation::Launcher launch;
  Geometry geometry;
  Steps steps;

  Job(const Case& with, std::vector<Bytes>& inputs, const std::vector<Bytes>& expected, emulation::Order order)
      : c(with), in(inputs), launch{order} {
    for (const Bytes& one : expected) out.push_back(room_for(one));
    geometry = Geometry::of(c.shape[0], c.shape[1], c.shape[2], c.shape[3], c.horizontal, c.vertical, c.fancy != 0);
    steps = {pointer<float>(in[0]), c.table_stride, in[0].empty() ? quality_scale(c.quality) : 0, nullptr};
  }
  bool wrote_only(const std::vector<Bytes>& expected) const {
    bool only = true;
    for (size_t i = 0; i < out.size(); ++i) only = only && untouched_beyond(out[i], expected[i]);
    return only;
  }
  Image image(Bytes& data, const int64_t (&stride)[4]) const {
    return {data.data(), static_cast<SampleType>(c.type), {stride[0], stride[1], stride[2], stride[3]}};
  }
};

// Whether the ops of a case give what is expected.
bool run(Job& job, const std::vector<Bytes>& expected);

// The file, and in how many of the orders.
int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (file == nullptr) return 2;
  Case c;
  const int orders = std::atoi(arguments[2]);
  int number = 0;
  for (; read_exactly(file, &c, sizeof(c)); ++number) {
    std::vector<Bytes> in, expected;
    for (int64_t i = 0; i < c.inputs; ++i) in.push_back(read_array(file));
    for (int64_t i = 0; i < c.outputs; ++i) expected.push_back(read_array(file));
    for (int order = 0; order < orders; ++order) {
      Job job(c, in, expected, static_cast<emulation::Order>(order));
      if (run(job, expected) && job.wrote_only(expected)) continue;
      std::printf("case %d (kind %d), order %d: differs\n", number, static_cast<int>(c.kind), order);
      return 1;
    }
  }
  std::printf("%d cases\n", number);
  std::fclose(file);
  return number > 0 ? 0 : 2;
}
