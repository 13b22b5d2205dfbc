// How the CPU's ops share out rows of MCUs among threads, and the scratch memory of a thread.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "codec/exact_jobs.h"

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

}  // namespace fdjpeg
