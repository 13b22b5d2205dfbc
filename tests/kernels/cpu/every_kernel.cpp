// Every CPU kernel over images of one sample type, without torch: writes all that they make, as doubles, for bugs that
// are planted in copies of the kernels' sources. Compiled with FDJPEG_TYPE, a SampleType, with FDJPEG_VECTOR_BYTES, and
// for the real kernels with FDJPEG_REAL.
//
//   every_kernel > results
#include "standard.h"

#include "common.h"
#if defined(FDJPEG_REAL)
#include "cpu/real_table.h"
#endif

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

// Writes samples of which each bit counts: the bits of each, as one or two numbers.
template <class Samples>
void write_bits(const Samples& samples) {
  const size_t size = samples.size() * sizeof(samples[0]);
  if (sizeof(samples[0]) < sizeof(uint32_t)) return write(samples.data(), samples.size());
  std::vector<uint32_t> bits(size / sizeof(uint32_t));
  std::memcpy(bits.data(), samples.data(), size);
  write(bits);
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
#if defined(__aarch64__)
  if constexpr (kType == SampleType::float16) return bit_cast<uint16_t>(static_cast<__fp16>(x));
#elif defined(__FLT16_MAX__)
  if constexpr (kType == SampleType::float16) return bit_cast<uint16_t>(static_cast<_Float16>(x));
#endif
  return static_cast<Stored>(x);
}

// Memory that begins where a register does, as stores around the caches want it.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kLine));
  }
  void deallocate(T* memory, size_t) {
    ::operator delete(memory, kLine);
  }
  bool operator==(const Aligned&) const = default;
};

// Images of which the layout is contiguous (0), interleaved (1) or every second column (2).
struct Samples {
  std::vector<Stored, Aligned<Stored>> memory;
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

// The second image's samples in [0, 1], but for one above 1 or NaN in most rows of MCUs.
void leave_odd_samples(Samples& input, const Geometry& g) {
  static int turn = 0;
  const int64_t* stride = input.image.stride;
  const auto sample = [&](int64_t c, int64_t y, int64_t x) -> Stored& {
    return input.memory[static_cast<size_t>(stride[0] + c * stride[1] + y * stride[2] + x * stride[3])];
  };
  for (int64_t i = 0; i < g.channels * g.height * g.width; ++i) {
    sample(i / g.width / g.height, i / g.width % g.height, i % g.width) = stored(uniform());
  }
  for (int64_t row = 0; row < g.mcu_rows; ++row) {
    ++turn;
    const double odd = turn % 4 == 2 ? 1.5 : std::numeric_limits<double>::quiet_NaN();
    if (kType != SampleType::uint8 && turn % 4 != 0) {
      sample(turn % g.channels, row * kBlock * g.vertical, 7 * turn % g.width) = stored(odd);
    }
  }
}

void round_trips(const Geometry& g, int layout, double quality) {
  const StepTables tables = tables_at(quality);
  std::vector<StepTables> palette;
  for (int q = 0; q <= kMaxQuality; ++q) palette.push_back(tables_at(q));
  std::vector<char> scratch(static_cast<size_t>(scratch_bytes(g)));
  Samples input(g, layout), output(g, layout), grad_output(g, layout), grad_input(g, layout);
  fill(input, 0, 1, false);
  for (size_t i = 0; i < input.memory.size() / 2; ++i) input.memory[i] = stored(-.1 + 1.2 * uniform());
  if (g.width == 64) leave_odd_samples(input, g);
  // White blocks, whose coefficients are the largest, and black ones.
  for (int64_t i = 0; g.width == 64 && i < g.channels * 1024; ++i) {
    const int64_t* stride = input.image.stride;
    const int64_t place = i / 1024 * stride[1] + i / 64 % 16 * stride[2] + i % 64 * stride[3];
    input.memory[static_cast<size_t>(place)] = stored(i / 512 % 2 == 0);
  }
  if (kType != SampleType::uint8) input.memory[7] = stored(std::numeric_limits<double>::quiet_NaN());
  if constexpr (kType == SampleType::float32) input.memory[9] = bit_cast<float>(0x7fc12345u);  // NaN as well
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
  write_bits(output.memory);

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
      write(grad_input.memory.data(), grad_input.memory.size());
      if (partial != nullptr) write(partials);
    }
  }
}

// The transforms, colour and upsampling of ints, as a GPU has them.
void exact_scalars() {
  for (int turn = 0; turn < 64; ++turn) {
    int x[kBlock], values[3];
    for (int& one : x) one = static_cast<int>(256 * uniform());
    for (int& one : values) one = static_cast<int>(256 * uniform());
    fdct_pass<true>(x);
    write(x, kBlock);
    fdct_pass<false>(x);
    write(x, kBlock);
    for (int& one : x) one = static_cast<int>(400 * uniform()) - 200;
    idct_pass<true>(x);
    write(x, kBlock);
    idct_pass<false>(x);
    write(x, kBlock);
    const auto [r, g, b] = values;
    const YCbCr<int> colour = rgb_to_ycbcr(r, g, b);
    const RGB<int> pixel = ycbcr_to_rgb(r, g, b);
    const int made[] = {
        colour.y,
        colour.cb,
        colour.cr,
        pixel.r,
        pixel.g,
        pixel.b,
        triangle<false>(r, g),
        triangle<true>(r, g),
        blend_rows(r, g),
        triangle_of_blend<false>(4 * r, 4 * g),
        triangle_of_blend<true>(4 * r, 4 * g),
        average_bias(1 + turn % 2, 1 + turn / 2 % 2, turn / 4),
        dequantize_saturating(300 * r - 30000, g),
        quantize<int>(50 * r - 6000, reciprocal_step(g + 1)),
    };
    write(made, std::size(made));
  }
}

// The lanes of an instruction set, one operation after another, and the transform of a tile.

template <class V>
void write_lanes(V v) {
  double numbers[sizeof v / sizeof v[0]];
  for (size_t i = 0; i < std::size(numbers); ++i) numbers[i] = v[i];
  write(numbers, std::size(numbers));
}

template <class V>
V random_lanes(double low, double high) {
  V v;
  for (size_t i = 0; i < sizeof v / sizeof v[0]; ++i) v[i] = low + (high - low) * uniform();
  return v;
}

void write_fractions(const Fractions& fractions) {
  write_lanes(bit_cast<Ints>(fractions.low));
  write_lanes(bit_cast<Ints>(fractions.high));
}

void lanes() {
  for (int turn = 0; turn < 16; ++turn) {
    const Shorts a = random_lanes<Shorts>(0, 256), b = random_lanes<Shorts>(0, 256), c = random_lanes<Shorts>(0, 256);
    const Shorts wide = random_lanes<Shorts>(-300, 600), any = random_lanes<Shorts>(-32768, 32767);
    const YCbCr<Shorts> colour = rgb_to_ycbcr(a, b, c);
    const RGB<Shorts> pixel = ycbcr_to_rgb(a, b, c);
    for (const Shorts& one : {colour.y, colour.cb, colour.cr, pixel.r, pixel.g, pixel.b}) write_lanes(one);
    write_fractions(fractions_of_bytes(wide));
    write_lanes(adjacent_sums(a, b));
    write_lanes(magnitude(any));
    write_lanes(with_sign_of(a, wide));
    write_lanes(multiply_high_unsigned(any, random_lanes<Shorts>(-32768, 32767)));
    write_lanes(multiply_rounded(any, random_lanes<Shorts>(-32768, 32767)));
    write_lanes(pack_rows(a, wide));
    write_lanes(pack_bytes_saturating(wide));
    const Ints low = random_lanes<Ints>(-300, 60000), high = random_lanes<Ints>(-300, 60000);
    write_lanes(narrow_saturating(low, high));
    const uint8_t bytes[kLanes] = {0, 1, 127, 128, 200, 255};
    write_lanes(load_bytes(bytes));
    write_lanes(repeat(random_lanes<EightShorts>(-300, 300)));
    Floats reals = random_lanes<Floats>(-.9, 300);
    write_lanes(rounded(reals));
    reals[turn % kHalf] = std::nanf("");
    write_lanes(smaller_or_second(splat<Floats>(255), reals) != 255);
    write_lanes(rounded(reals) < 0);
    const Floats first = random_lanes<Floats>(-1, 1), second = random_lanes<Floats>(-1, 1);
    write_lanes(even_lanes(first, second));
    write_lanes(odd_lanes(first, second));
    const LaneMasks are_inside = are_bytes(wide);
    write_lanes(where(are_inside.low, random_lanes<Floats>(1, 2)));
    write_lanes(where(are_inside.high, random_lanes<RealLanes<double>>(1, 2)));

    const StepTables tables[] = {tables_at(100), tables_at(60), tables_at(30), tables_at(10)};
    alignas(64) uint8_t tile[kTileBytes], samples[kTileBytes];
    Shorts x[kBlock], levels[kBlock];
    for (uint8_t& one : tile) one = static_cast<uint8_t>(256 * uniform());
    fdct(tile, x);
    for (const Shorts& row : x) write_lanes(in_natural_order(row));
    const SharedTable shared(tables[turn % 4].component[turn % 2]);
    TableOfEachBlock own;
    for (int i = 0; i < kBlocks; ++i) own.tables[i] = &tables[i].component[turn % 2];
    const auto finish = [&](const auto& steps, int64_t count) {
      for (int i = 0; i < kBlock; ++i) {
        levels[i] = quantize_row(x[i], steps, i);
        write_lanes(in_natural_order(levels[i]));
        levels[i] *= steps.scaled_step(i);
      }
      std::memset(samples, 0xaa, sizeof samples);
      idct(levels, samples, kLanes, count);
      write(samples, sizeof samples);
    };
    finish(shared, 1);
    finish(own, kBlocks);
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
    std::fill(scratch.begin(), scratch.end(), 0x41);
    round_trip_rows(job, n, cut, g.mcu_rows, scratch.data());
  }
  write(output.memory.data(), output.memory.size());
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
    write(grad_input.memory.data(), grad_input.memory.size());
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

// Single numbers, as a GPU has them: colour, the transforms, and surrogates at and between all levels.
template <class R>
void real_scalars(const Rounding* roundings, int count) {
  for (int turn = 0; turn < 16; ++turn) {
    R x[kBlock];
    for (R& one : x) one = R(uniform());
    const YCbCr<R> colour = real_rgb_to_ycbcr(x[0], x[1], x[2]), of_rgb = real_ycbcr_to_rgb_adjoint(x[0], x[1], x[2]);
    const RGB<R> pixel = real_ycbcr_to_rgb(x[0], x[1], x[2]), of_ycbcr = real_rgb_to_ycbcr_adjoint(x[0], x[1], x[2]);
    const R made[] = {colour.y, colour.cb, colour.cr, pixel.r,    pixel.g,    pixel.b,
                      of_rgb.y, of_rgb.cb, of_rgb.cr, of_ycbcr.r, of_ycbcr.g, of_ycbcr.b};
    write(made, std::size(made));
    real_dct_pass(x);
    write(x, kBlock);
    for (R& one : x) one = R(uniform());
    real_idct_pass(x);
    write(x, kBlock);
  }
  for (const Rounding* one = roundings; one != roundings + count; ++one) {
    with_surrogate(one->surrogate, [&]<Surrogate surrogate>() {
      for (int i = -96; i <= 96; ++i) {
        const R c = R(i) / 32 + R(i % 3) / 100;
        const Derivatives<R> derivatives = derivatives_of_rounding<surrogate>(c, *one);
        const R made[] = {rounded_or_soft<surrogate>(c, *one), derivatives.of_coefficient, derivatives.of_step};
        write(made, std::size(made));
      }
    });
  }
}

#endif

// A batch of many images is said to be large, so that results are written around the caches.
struct Size {
  int64_t height, width;
  double quality;
  int64_t images;
};

}  // namespace

int main() {
  constexpr int64_t kMany = 1 << 20;
  const Size sizes[] = {
      {37, 71, 20, kMany}, {18, 5, 100, kImages}, {11, 4, 62, kImages}, {9, 6, 35, kImages}, {17, 64, 50, kMany}};
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
      // Powers below the smallest number, for single numbers alone.
      {Surrogate::tanh, true, 0, 1500, .5, 0},
      {Surrogate::softmax, true, 0, 1500, 0, 0},
  };
#endif
  int number = 0;
  for (const Sampling& factors : kSamplings) {
    for (const bool fancy : {true, false}) {
      for (int i = 0; i < 5; ++i) {
        const int channels = i == 2 && !fancy ? 1 : 3;
        const Geometry g = Geometry::of(
            sizes[i].images, channels, sizes[i].height, sizes[i].width, factors.horizontal, factors.vertical, fancy);
#if defined(FDJPEG_REAL)
        round_trips(g, (i + number / 5) % 3, roundings[number % 8]);
        ++number;
#else
        round_trips(g, (i + number++) % 3, sizes[i].quality);
#endif
      }
    }
  }
#if defined(FDJPEG_REAL)
  transforms();
  real_scalars<RealOf<kType>>(roundings, std::size(roundings));
#else
  exact_scalars();
  lanes();
  scalars();
#endif
}
