// How the CPU's ops share out rows of MCUs among threads, the scratch memory of a thread, and the sum of what the rows
// contribute.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "codec/exact_math.h"
#include "codec/geometry.h"

namespace fdjpeg {

// Scratch memory on a cache line.
class ScratchMemory {
 public:
  explicit ScratchMemory(int64_t bytes) : memory_(new char[static_cast<size_t>(bytes) + kCacheLine]) {}

  void* begin() const {
    return reinterpret_cast<void*>(
        (reinterpret_cast<uintptr_t>(memory_.get()) + kCacheLine - 1) / kCacheLine * kCacheLine);
  }

 private:
  static constexpr uintptr_t kCacheLine = 64;
  std::unique_ptr<char[]> memory_;
};

// The rows of a batch in shares of one size: one for each thread, fewer where a thread would get little.
class Shares {
 public:
  Shares(int64_t rows, int64_t samples_of_row) : rows_(rows) {
    const int64_t worthwhile = std::min(rows * samples_of_row / kWorthAThread, rows);
    count_ = std::max<int64_t>(1, std::min<int64_t>(worthwhile, torch::stable::get_num_threads()));
  }

  // The rows of MCUs of all images, one image after another.
  explicit Shares(const Geometry& g)
      : Shares(g.images * g.mcu_rows, g.mcu_columns * g.horizontal * g.vertical * kBlockSize) {}

  int64_t count() const {
    return count_;
  }

  // Calls body(first row, the one after the last) for each share, at the same time.
  template <class Body>
  void for_each(const Body& body) const {
    torch::stable::parallel_for(0, count_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(rows_ * i / count_, rows_ * (i + 1) / count_);
    });
  }

 private:
  static constexpr int64_t kWorthAThread = 1 << 15;  // samples: they take longer than waking a thread
  int64_t rows_, count_;
};

constexpr int64_t kTables = 3 * kBlockSize;  // steps of an image

// Adds up the shares that rows of MCUs have in the gradients of the tables: from [images][rows][3][8][8] to
// [images][3][8][8]. In one order whatever the threads did, so that the sums are the same bits every time.
template <class Partial, class Sum>
void add_rows(const std::vector<Partial>& partials, int64_t images, int64_t rows, Sum* sums) {
  for (int64_t i = 0; i < images * kTables; ++i) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) {
      sum += partials[static_cast<size_t>((i / kTables * rows + row) * kTables + i % kTables)];
    }
    sums[i] = static_cast<Sum>(sum);
  }
}

}  // namespace fdjpeg
