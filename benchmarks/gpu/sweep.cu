// Times the kernels of one set of the switches in csrc/cuda/tuning.h on 256 × 3 × 224 × 224 at 4:2:0: a line of JSON
// for each kernel and type. Built and run by sweep.py.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/exact_launch.h"

using namespace fdjpeg;

namespace {

constexpr int kImages = 256, kSide = 224, kChannelSamples = kSide * kSide;
constexpr int kBatches = 4;  // in turn, so that none is still in a cache
constexpr int kTurns = 15;
constexpr size_t kSamples = size_t{kImages} * 3 * kChannelSamples;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <class Job>
void launch(void (*kernel)(Job), Grid grid, int threads, const Job& job) {
  kernel<<<dim3(grid.x, grid.y), static_cast<unsigned>(threads)>>>(job);
  check(cudaGetLastError());
}

// A smooth image with some noise: the sum of two waves, as a fraction of 255.
int sample_at(int channel, int y, int x) {
  const int wave = (x * (3 + channel) + y * 2) % 256, noise = (x * 7919 + y * 104729 + channel * 31) % 23;
  return std::min(255, (wave < 128 ? wave : 255 - wave) + noise + 40);
}

template <SampleType type>
std::vector<typename Sample<type>::Stored> image_of(int shift) {
  using T = typename Sample<type>::Stored;
  std::vector<T> one(3 * kChannelSamples);
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < kChannelSamples; ++i) {
      const int byte = sample_at(c, i / kSide, i % kSide + shift);
      T& sample = one[c * kChannelSamples + i];
      if constexpr (type == SampleType::uint8) {
        sample = static_cast<T>(byte);
      } else if constexpr (type == SampleType::float16) {
        const __half half = __float2half(static_cast<float>(byte) / 255.0f);
        __builtin_memcpy(&sample, &half, sizeof(sample));
      } else {
        sample = static_cast<float>(byte) / 255.0f;
      }
    }
  }
  return one;
}

// A digest of bytes on the device.
unsigned long long digest(const void* data, size_t bytes) {
  std::vector<unsigned char> host(bytes);
  check(cudaMemcpy(host.data(), data, bytes, cudaMemcpyDeviceToHost));
  unsigned long long hash = 14695981039346656037ull;
  for (const unsigned char byte : host) hash = (hash ^ byte) * 1099511628211ull;
  return hash;
}

template <class Call>
double microseconds(Call&& call) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int turn = -2; turn < kTurns; ++turn) {  // two to warm up
    check(cudaEventRecord(begin));
    for (int batch = 0; batch < kBatches; ++batch) call(batch);
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (turn >= 0) times.push_back(milliseconds * 1000 / kBatches);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class Job>
void report(
    const char* kernel, const char* type, double us, void (*function)(Job), int threads, const void* out,
    size_t bytes) {
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function, threads, 0));
  std::printf(
      "{\"kernel\": \"%s\", \"dtype\": \"%s\", \"us\": %.2f, \"resident\": %d, \"digest\": \"%016llx\"}\n", kernel,
      type, us, resident, digest(out, bytes));
  std::fflush(stdout);
}

template <SampleType type>
void time_type(const char* name) {
  using T = typename Sample<type>::Stored;
  using L = Layout<2, 2, false>;
  using U = Upsampling<2, 2, true, false>;
  const Geometry g = Geometry::of(kImages, 3, kSide, kSide, 2, 2, true);
  T *input[kBatches], *output;
  uint8_t* planes;
  for (int batch = 0; batch < kBatches; ++batch) {
    check(cudaMalloc(&input[batch], kSamples * sizeof(T)));
    const auto one = image_of<type>(batch);
    for (int n = 0; n < kImages; ++n) {
      const size_t bytes = one.size() * sizeof(T);
      check(cudaMemcpy(input[batch] + n * one.size(), one.data(), bytes, cudaMemcpyHostToDevice));
    }
  }
  check(cudaMalloc(&output, kSamples * sizeof(T)));
  check(cudaMalloc(&planes, static_cast<size_t>(g.plane_bytes) * kImages));
  const auto view = [](T* data) { return Image{data, type, {3 * kChannelSamples, kChannelSamples, kSide, 1}}; };

  CodeBlocks code{};
  code.sizes = Sizes::of(g);
  code.steps = {nullptr, 0, quality_scale(75), nullptr};
  code.vectors = true;
  code.planes = planes;
  code.warps_across = Divider::by(warps_across<L>(g));
  code.warps = static_cast<int>(g.mcu_rows * warps_across<L>(g));
  const Grid code_grid{blocks_for(code.warps, kCodeWarps), kImages};
  const double code_us = microseconds([&](int batch) {
    code.input = view(input[batch]);
    launch(code_blocks<L, type, Make::planes>, code_grid, kCodeThreads, code);
  });
  report(
      "code_blocks", name, code_us, code_blocks<L, type, Make::planes>, kCodeThreads, planes,
      static_cast<size_t>(g.plane_bytes) * kImages);

  constexpr int kWide = kPatchWidth<type>, kTall = kPatch / kWide;
  EmitImage emit{};
  emit.sizes = code.sizes;
  emit.planes = planes;
  emit.output = view(output);
  emit.vectors = true;
  const int64_t across = (kSide + kWide - 1) / kWide;
  emit.patches_across = Divider::by(across);
  emit.patches = static_cast<int>(across * ((kSide + kTall - 1) / kTall));
  const double emit_us = microseconds([&](int) {
    launch(emit_image<U, type>, Grid{blocks_for(emit.patches, kEmitThreads), kImages}, kEmitThreads, emit);
  });
  report("emit_image", name, emit_us, emit_image<U, type>, kEmitThreads, output, kSamples * sizeof(T));

  if constexpr (type != SampleType::uint8) {
    Differentiate gradient{};
    gradient.sizes = code.sizes;
    gradient.read_vectors = gradient.write_vectors = true;
    gradient.planes = planes;
    gradient.grad_input = view(output);
    gradient.tiles_across = Divider::by(gradient_tiles_across(g));
    const double gradient_us = microseconds([&](int batch) {
      gradient.grad_output = gradient.input = view(input[batch]);
      launch(differentiate<U, type>, Grid{gradient_tiles(g), kImages}, kGradientThreads, gradient);
    });
    report("differentiate", name, gradient_us, differentiate<U, type>, kGradientThreads, output, kSamples * sizeof(T));
  }
  for (T* one : input) check(cudaFree(one));
  check(cudaFree(output));
  check(cudaFree(planes));
}

}  // namespace

int main() {
#if defined(FDJPEG_SWEEP_FLOAT32_ALONE)
  time_type<SampleType::float32>("float32");
#else
  time_type<SampleType::float32>("float32");
  time_type<SampleType::float16>("float16");
  time_type<SampleType::uint8>("uint8");
#endif
}
