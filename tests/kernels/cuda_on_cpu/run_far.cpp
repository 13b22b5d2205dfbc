// The ops on images of almost 2^32 samples in their components, of which only the last rows of the last are computed:
// an offset that overflows there, or is kept in too few bits, is found by a sanitizer or leaves what differs from the
// same rows of a small image. The rows of a large image are all in one place. The other memory that its kernels need is
// mapped to memory where they touch it.
#include "emulation.h"

#include <sys/mman.h>

#include "cuda/real_launch.h"

using namespace fdjpeg;

constexpr int64_t kWidth = 528, kRows = 64;  // of the small image
constexpr int64_t kHeight = 5'408'848;       // the most that the GPU's ops take of this width, by whole MCUs
constexpr int64_t kChannels = 3, kRow = kChannels * kWidth;

// Runs all blocks of threads of the last image, or of a large one those of its last rows.
struct LastRows {
  double share;

  template <class Kernel, class Job>
  void operator()(Kernel kernel, Grid grid, int threads, const Job& job) {
    unsigned blocks = grid.x;
    // A block for each tile, where one would go through many.
    if constexpr (requires { job.tiles; }) blocks = std::max(blocks, static_cast<unsigned>(job.tiles));
    gridDim = {blocks, grid.y, 1};
    const unsigned last = static_cast<unsigned>(blocks * share) + 2;
    for (unsigned x = blocks - std::min(blocks, last); x < blocks; ++x) {
      blockIdx = {x, grid.y - 1, 0};
      emulation::run_block(threads, emulation::Order::ascending, [&] { kernel(job); });
    }
  }
};

// Zeros that take memory only where they are written.
template <class T>
T* mapped(int64_t count) {
  void* memory = mmap(
      nullptr, static_cast<size_t>(count) * sizeof(T), PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::printf("not so much address space\n");
    std::exit(3);
  }
  return static_cast<T*>(memory);
}

// The results of the ops for the last of so many images of so many rows: the last rows of coefficients, then rows of
// images and gradients.
struct Results {
  std::vector<int16_t> coefficients;
  std::vector<std::vector<float>> rows;
};

Results results(int64_t images, int64_t height, std::vector<float>& image_row, std::vector<float>& grad_row) {
  const Geometry g = Geometry::of(images, kChannels, height, kWidth, 2, 2, true);
  LastRows launch{static_cast<double>(2 * kRows) / static_cast<double>(height)};
  const auto of = [](std::vector<float>& row) { return Image{row.data(), SampleType::float32, {0, kWidth, 0, 1}}; };
  Results made;
  const auto new_row = [&] { return of(made.rows.emplace_back(kRow, NAN)); };
  made.rows.reserve(8);
  const Image image = of(image_row), grad = of(grad_row);
  const Steps steps{nullptr, 0, quality_scale(75), nullptr};

  uint8_t* planes = mapped<uint8_t>(g.images * g.plane_bytes);
  launch_round_trip(RoundTrip{g, steps, image, new_row(), planes}, launch);

  RoundTripBackward backward{};
  backward.geometry = g;
  backward.steps = steps;
  backward.grad_output = grad;
  backward.planes = planes;
  backward.input = image;
  backward.grad_input = new_row();
  launch_round_trip_backward(backward, nullptr, nullptr, launch);
  const float slopes[] = {1.5f, .2f, .7f};
  backward.slopes = slopes;
  backward.slope_intervals = 2;
  backward.grad_input = new_row();
  launch_round_trip_backward(backward, nullptr, nullptr, launch);

  Encode encode{g, steps, image, {}};
  const int64_t blocks[] = {g.images * g.luma_rows * g.luma_columns, g.images * g.chroma_rows * g.chroma_columns};
  for (int c = 0; c < kChannels; ++c) encode.coefficients[c] = mapped<int16_t>(blocks[c > 0] * kBlockSize);
  launch_encode(encode, launch);
  for (int c = 0; c < kChannels; ++c) {
    const int16_t* end = encode.coefficients[c] + blocks[c > 0] * kBlockSize;
    made.coefficients.insert(made.coefficients.end(), end - 2 * kWidth * kBlock, end);
  }
  const std::vector<float> table(3 * kBlockSize, 9);
  Decode decode{g, {table.data(), 0, 0, nullptr}, {}, mapped<uint8_t>(g.images * g.plane_bytes), new_row()};
  std::copy(encode.coefficients, encode.coefficients + kChannels, decode.coefficients);
  launch_decode(decode, launch);

  RealOp real{};
  real.geometry = g;
  real.rounding.surrogate = Surrogate::straight_through;
  real.steps = real_standard_tables(75, false);
  real.input = image;
  real.output = new_row();
  real.mask = mapped<uint8_t>(g.images * g.height * g.width);
  launch_real_round_trip(real, mapped<float>(g.images * g.flag_offset), g.images, launch);
  real.output = grad;
  launch_real_backward(real, new_row(), nullptr, nullptr, launch);
  real.rounding.surrogate = Surrogate::sine;
  launch_real_backward(real, new_row(), nullptr, nullptr, launch);
  return made;
}

int main() {
  std::vector<float> image(kRow), grad(kRow);
  unsigned state = 1;
  for (std::vector<float>* row : {&image, &grad}) {
    for (float& x : *row) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(state >> 8) / static_cast<float>(1 << 24) * 1.4f - .2f;
    }
  }
  const Results large = results(3, kHeight, image, grad), small = results(1, kRows, image, grad);
  int different = large.coefficients == small.coefficients ? 0 : 1;
  if (different) std::printf("coefficients differ\n");
  for (size_t i = 0; i < large.rows.size(); ++i) {
    if (large.rows[i] == small.rows[i]) continue;
    std::printf("result %zu differs\n", i);
    different = 1;
  }
  return different;
}
