// The CPU kernels for any processor, without torch: reads one RGB image (bytes, 3 × height × width) and writes what the
// round trip makes of it, as bytes and as floats, for all subsamplings and both upsamplings.
//
//   round_trip HEIGHT WIDTH QUALITY < image > results
#include "common.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace fdjpeg;

template <class T>
static void round_trip(std::vector<T> pixels, SampleType type, const Geometry& g, const StepTables& tables) {
  std::vector<T> result(pixels.size());
  std::vector<uint8_t> planes(static_cast<size_t>(g.plane_bytes));
  std::vector<char> scratch(static_cast<size_t>(scratch_bytes(g)));
  RoundTrip job{};
  job.geometry = g;
  job.input = contiguous(pixels, type, g.height, g.width);
  job.output = contiguous(result, type, g.height, g.width);
  job.planes = planes.data();
  for (int64_t row = 0; row < g.mcu_rows; ++row) code_row(job, tables, 0, row, scratch.data());
  for (int64_t row = 0; row < g.mcu_rows; ++row) emit_row(g, planes.data(), job.output, 0, row, scratch.data());
  std::fwrite(result.data(), sizeof(T), result.size(), stdout);
}

int main(int, char** arguments) {
  const int64_t height = std::atoi(arguments[1]), width = std::atoi(arguments[2]);
  const StepTables tables = tables_at(std::atof(arguments[3]));
  std::vector<uint8_t> pixels(static_cast<size_t>(3 * height * width));
  if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 1;
  std::vector<float> fractions(pixels.size());
  for (size_t i = 0; i < pixels.size(); ++i) fractions[i] = static_cast<float>(pixels[i]) / 255;
  for (const Sampling& factors : kSamplings) {
    for (const bool fancy : {true, false}) {
      const Geometry g = Geometry::of(1, 3, height, width, factors.horizontal, factors.vertical, fancy);
      round_trip(pixels, SampleType::uint8, g, tables);
      round_trip(fractions, SampleType::float32, g, tables);
    }
  }
}
