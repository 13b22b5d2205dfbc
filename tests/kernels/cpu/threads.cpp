// Rows of one image shared out among threads, without torch, for ThreadSanitizer: forward, then backward with gradients
// of the tables. Fails if the threads' results differ from one thread's.
//
//   threads HEIGHT WIDTH THREADS
#include "common.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

using namespace fdjpeg;

namespace {

// Calls row(number, scratch) for all rows of MCUs, every `count`-th in the same thread, each thread with its scratch.
void for_each_row(const Geometry& g, int count, const std::function<void(int64_t, void*)>& row) {
  std::vector<std::thread> threads;
  for (int own = 0; own < count; ++own) {
    threads.emplace_back([&g, &row, own, count] {
      std::vector<char> scratch(static_cast<size_t>(scratch_bytes(g)));
      for (int64_t number = own; number < g.mcu_rows; number += count) row(number, scratch.data());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Results {
  std::vector<float> output, gradient, partials;
  bool operator==(const Results&) const = default;
};

Results results_of(std::vector<float>& pixels, const Geometry& g, const StepTables& tables, int threads) {
  Results results{std::vector<float>(pixels.size()), std::vector<float>(pixels.size()), {}};
  results.partials.resize(static_cast<size_t>(g.mcu_rows * 3 * kBlockSize));
  std::vector<uint8_t> planes(static_cast<size_t>(g.plane_bytes));
  RoundTrip job{};
  job.geometry = g;
  job.input = contiguous(pixels, SampleType::float32, g.height, g.width);
  job.output = contiguous(results.output, SampleType::float32, g.height, g.width);
  job.planes = planes.data();
  for_each_row(g, threads, [&](int64_t row, void* scratch) { code_row(job, tables, 0, row, scratch); });
  for_each_row(
      g, threads, [&](int64_t row, void* scratch) { emit_row(g, planes.data(), job.output, 0, row, scratch); });
  RoundTripBackward backward{};
  backward.geometry = g;
  backward.grad_output = job.input;
  backward.planes = planes.data();
  backward.input = job.input;
  backward.grad_input = contiguous(results.gradient, SampleType::float32, g.height, g.width);
  backward.table_partials = results.partials.data();
  for_each_row(g, threads, [&](int64_t row, void* scratch) { backward_row(backward, tables, 0, row, scratch); });
  return results;
}

}  // namespace

int main(int, char** arguments) {
  const int64_t height = std::atoi(arguments[1]), width = std::atoi(arguments[2]);
  const int threads = std::atoi(arguments[3]);
  const StepTables tables = tables_at(60);
  std::vector<float> pixels(static_cast<size_t>(3 * height * width));
  uint32_t state = 1;
  for (float& pixel : pixels) {
    state = state * 1664525u + 1013904223u;
    pixel = static_cast<float>(state >> 24) / 255;
  }
  for (const Sampling& factors : kSamplings) {
    for (const bool fancy : {true, false}) {
      const Geometry g = Geometry::of(1, 3, height, width, factors.horizontal, factors.vertical, fancy);
      if (results_of(pixels, g, tables, threads) == results_of(pixels, g, tables, 1)) continue;
      std::printf("%d x %d differs among %d threads\n", factors.horizontal, factors.vertical, threads);
      return 1;
    }
  }
}
