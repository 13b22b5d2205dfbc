// Every CPU kernel over images of one sample type, without torch: writes all that they make, as doubles, for bugs that
// are planted in copies of the kernels' sources. Compiled with FDJPEG_TYPE, a SampleType, and for the real kernels with
// FDJPEG_REAL.
//
//   every_kernel > results
#include "common.h"
#if defined(FDJPEG_REAL)
#include "cpu/real_table.h"
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

using namespace fdjpeg;

namespace {

constexpr SampleType kType = SampleType::FDJPEG_TYPE;
constexpr int64_t kImages = 2;

uint32_t state = 1;

// 0 … 1
double uniform() {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) / 16777216.0;
}

template <class T>
void write(const T* values, size_t count) {
  std::vector<double> doubles(values, values + count);
  std::fwrite(doubles.data(), sizeof(double), count, stdout);
}

template <class T>
void write(const std::vector<T>& values) {
  write(values.data(), values.size());
}

// ---------------------------------------------------------------------------------------------------------------------
// Samples of the type

#if defined(FDJPEG_HALF)
using Stored = uint16_t;
#else
using Stored = Sample<kType>::Stored;
#endif

Stored stored(double x) {
  if constexpr (kType == SampleType::uint8) return static_cast<uint8_t>(std::min(std::max(x * 255, 0.0), 255.0));
  if constexpr (kType == SampleType::bfloat16) return bit_cast<uint32_t>(static_cast<float>(x)) >> 16;
#if defined(__FLT16_MAX__)
  if constexpr (kType == SampleType::float16) return bit_cast<uint16_t>(static_cast<_Float16>(x));
#endif
  return static_cast<Stored>(x);
}

// Images of which the layout is contiguous (0), interleaved (1) or every second column (2).
struct Samples {
  std::vector<Stored> memory;
  Image image;

  Samples(const Geometry& g, int layout) {
    const int64_t area = g.height * g.width, all = g.channels * area;
    memory.assign(static_cast<size_t>(kImages * all * 2), Stored{});
    image = {memory.data(), kType, {all, area, g.width, 1}};
    if (layout == 1) image = {memory.data(), kType, {all, 1, g.width * g.channels, g.channels}};
    if (layout == 2) image = {memory.data(), kType, {2 * all, 2 * area, 2 * g.width, 2}};
  }
};

void fill(Samples& samples, double low, double high, bool with_nan) {
  for (Stored& sample : samples.memory) sample = stored(low + (high - low) * uniform());
  // NaN in the first image only: the second has no odd samples.
  if (with_nan && kType != SampleType::uint8) samples.memory[7] = stored(std::numeric_limits<double>::quiet_NaN());
}

// ---------------------------------------------------------------------------------------------------------------------
// The integers

#if !defined(FDJPEG_REAL)

void round_trips(const Geometry& g, int layout, double quality) {
  const StepTables tables = tables_at(quality);
  std::vector<StepTables> palette;
  for (int q = 0; q <= kMaxQuality; ++q) palette.push_back(tables_at(q));
  std::vector<char> scratch(static_cast<size_t>(scratch_bytes(g)));
  Samples input(g, layout), output(g, layout), grad_output(g, layout), grad_input(g, layout);
  fill(input, 0, 1, false);
  for (size_t i = 0; i < input.memory.size() / 2; ++i) input.memory[i] = stored(-.1 + 1.2 * uniform());
  if (kType != SampleType::uint8) input.memory[7] = stored(std::numeric_limits<double>::quiet_NaN());
  fill(grad_output, -1, 1, false);

  RoundTrip job{};
  job.geometry = g;
  job.input = input.image;
  job.output = output.image;
  std::vector<uint8_t> planes(static_cast<size_t>(kImages * g.plane_bytes), 0xaa);
  job.planes = planes.data();
  std::vector<uint8_t> qualities(static_cast<size_t>(kImages * g.luma_rows * g.luma_columns));
  for (uint8_t& one : qualities) one = static_cast<uint8_t>(120 * uniform());
  job.steps.qualities = qualities.data();
  const auto rows = [&](auto body) {
    for (int64_t n = 0; n < kImages; ++n) {
      for (int64_t row = 0; row < g.mcu_rows; ++row) body(n, row);
    }
  };
  rows([&](int64_t n, int64_t row) { code_row_by_block(job, palette.data(), n, row, scratch.data()); });
  write(planes);
  rows([&](int64_t n, int64_t row) { code_row(job, tables, n, row, scratch.data()); });
  write(planes);
  rows([&](int64_t n, int64_t row) { emit_row(g, planes.data(), job.output, n, row, scratch.data()); });
  write(output.memory);

  Encode encode{};
  encode.geometry = g;
  encode.input = input.image;
  Decode decode{};
  decode.geometry = g;
  std::vector<int16_t> coefficients[3];
  for (int c = 0; c < g.channels; ++c) {
    const int64_t blocks = c == 0 ? g.luma_rows * g.luma_columns : g.chroma_rows * g.chroma_columns;
    coefficients[c].resize(static_cast<size_t>(kImages * blocks * kBlockSize));
    encode.coefficients[c] = coefficients[c].data();
    decode.coefficients[c] = coefficients[c].data();
  }
  rows([&](int64_t n, int64_t row) { encode_row(encode, tables, n, row, scratch.data()); });
  for (const std::vector<int16_t>& one : coefficients) write(one);
  for (int i = 0; i < kBlock; ++i) coefficients[0][i] = static_cast<int16_t>(i % 2 ? -32768 : 32767);
  std::vector<uint8_t> decoded(planes.size());
  decode.planes = decoded.data();
  rows([&](int64_t n, int64_t row) { decode_row(decode, tables, n, row, scratch.data()); });
  write(decoded);

  if constexpr (kType == SampleType::uint8) return;
  RoundTripBackward backward{};
  backward.geometry = g;
  backward.grad_output = grad_output.image;
  backward.planes = planes.data();
  backward.input = input.image;
  backward.grad_input = grad_input.image;
  std::vector<float> partials(static_cast<size_t>(kImages * g.mcu_rows * 3 * kBlockSize));
  const std::vector<float> slopes{.1f, .3f, .2f, .9f, 1.4f, .6f};
  backward.slope_intervals = static_cast<int>(slopes.size()) - 1;
  for (const float* table : {static_cast<const float*>(nullptr), slopes.data()}) {
    for (float* partial : {static_cast<float*>(nullptr), partials.data()}) {
      backward.slopes = table;
      backward.table_partials = partial;
      rows([&](int64_t n, int64_t row) { backward_row(backward, tables, n, row, scratch.data()); });
      write(grad_input.memory);
      if (partial != nullptr) write(partials);
    }
  }
}

// The functions of which only a GPU or the ops make use.
void scalars() {
  double found[8] = {};
  for (const float q : {-3.0f, 0.4f, 0.5f, 1.5f, 2.5f, 254.5f, 254.6f, 255.6f, 1e9f, std::nanf("")}) {
    const int step = table_step(q);
    write(&step, 1);
  }
  for (const double q : {-1.0, 0.0, 1.0, 1.5, 30.0, 49.9, 50.0, 73.0, 100.0, 101.0, std::nan("")}) {
    const int scale = quality_scale(q);
    write(&scale, 1);
  }
  for (int q = 1; q <= kMaxSample; ++q) {
    for (int c = -16384; c < 16384; ++c) {
      const int level = (std::abs(c) + kBlock / 2 * q) / (kBlock * q);
      found[0] += quantize<int>(c, reciprocal_step(q)) != (c < 0 ? -level : level);
    }
  }
  write(found, 8);
}

#else

// ---------------------------------------------------------------------------------------------------------------------
// Real numbers

void round_trips(const Geometry& g, int layout, const Rounding& rounding) {
  std::vector<char> scratch(static_cast<size_t>(real_scratch_bytes(g, kType)));
  Samples input(g, layout), output(g, layout), grad_output(g, layout), grad_input(g, layout);
  fill(input, -.1, 1.1, false);
  fill(grad_output, -1, 1, false);
  std::vector<double> tables(2 * 3 * kBlockSize);
  for (double& step : tables) step = .5 + 30 * uniform();
  std::vector<uint8_t> mask(static_cast<size_t>(kImages * g.height * g.width));

  RealRoundTrip job{};
  job.geometry = g;
  job.steps = {tables.data(), 3 * kBlockSize};
  job.rounding = rounding;
  job.input = input.image;
  job.output = output.image;
  job.mask = mask.data();
  for (int64_t n = 0; n < kImages; ++n) {
    // In two shares: the rows at the cut need their neighbours.
    const int64_t cut = g.mcu_rows / 2;
    round_trip_rows(job, n, 0, cut, scratch.data());
    round_trip_rows(job, n, cut, g.mcu_rows, scratch.data());
  }
  write(output.memory);
  write(mask);

  if constexpr (kType == SampleType::uint8) return;
  RealRoundTripBackward backward{};
  backward.geometry = g;
  backward.steps = job.steps;
  backward.rounding = rounding;
  backward.grad_output = grad_output.image;
  backward.mask = mask.data();
  backward.input = input.image;
  backward.grad_input = grad_input.image;
  std::vector<double> partials(static_cast<size_t>(kImages * g.mcu_rows * 3 * kBlockSize));
  for (double* partial : {static_cast<double*>(nullptr), partials.data()}) {
    backward.table_partials = partial;
    for (int64_t n = 0; n < kImages; ++n) backward_rows(backward, n, 0, g.mcu_rows, scratch.data());
    write(grad_input.memory);
  }
  write(partials);
}

void transforms() {
  if constexpr (kType == SampleType::uint8) return;
  BlockTransform job{};
  job.type = kType;
  job.rows = 2;
  job.columns = 3;
  std::vector<Stored> samples(2 * 3 * kBlockSize), blocks(samples.size()), back(samples.size());
  for (Stored& sample : samples) sample = stored(uniform());
  std::vector<char> scratch(static_cast<size_t>(transform_scratch_bytes(job)));
  job.input = samples.data();
  job.output = blocks.data();
  for (int64_t row = 0; row < job.rows; ++row) dct_row(job, row, scratch.data());
  write(blocks);
  job.input = blocks.data();
  job.output = back.data();
  for (int64_t row = 0; row < job.rows; ++row) idct_row(job, row, scratch.data());
  write(back);
}

#endif

struct Size {
  int64_t height, width;
  double quality;
};

}  // namespace

int main() {
  const Size sizes[] = {{37, 71, 20}, {18, 5, 100}, {11, 4, 62}, {9, 6, 35}};
  int number = 0;
  for (const Sampling& factors : kSamplings) {
    for (const bool fancy : {true, false}) {
      for (int i = 0; i < 4; ++i) {
        const int channels = i == 2 && !fancy ? 1 : 3;
        const Geometry g = Geometry::of(
            kImages, channels, sizes[i].height, sizes[i].width, factors.horizontal, factors.vertical, fancy);
#if defined(FDJPEG_REAL)
        const double alpha = 4, of_tanh = 1 / (2 * std::tanh(alpha / 2)), of_softmax = std::exp(-2 * alpha);
        const Rounding roundings[] = {
            {Surrogate::straight_through, false, 0, 0, 0, 0},
            {Surrogate::cubic, true, 0, 0, 0, 0},
            {Surrogate::sine, true, 0, 0, 0, .05},
            {Surrogate::fourier, true, 4, 0, 0, 0},
            {Surrogate::tanh, true, 0, alpha, of_tanh, 0},
            {Surrogate::softmax, true, 0, alpha, of_softmax, .1},
            {Surrogate::cubic, false, 0, 0, 0, .3},
            {Surrogate::zero, false, 0, 0, 0, 0},
        };
        round_trips(g, i % 3, roundings[number++ % 8]);
#else
        round_trips(g, (i + number++) % 3, sizes[i].quality);
#endif
      }
    }
  }
#if defined(FDJPEG_REAL)
  transforms();
#else
  scalars();
#endif
}
