// Rows of an image as the CPU's kernels read and write them, whatever the image's strides, and scratch memory.
//
// Included by source files that are compiled for one instruction set each, so everything here has internal linkage (see
// exact_table.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "codec/exact_jobs.h"
#include "codec/exact_math.h"

namespace fdjpeg {
namespace {

// Hands out pieces of the scratch memory, one after another.
class Scratch {
 public:
  explicit Scratch(void* memory) : next_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += bytes(count * static_cast<int64_t>(sizeof(T)));
    return piece;
  }

  // A piece starts on a cache line, and kSlack bytes beyond its end may be read and written too.
  static constexpr int64_t kSlack = 128;
  static constexpr int64_t bytes(int64_t size) {
    return (size + kSlack + 63) / 64 * 64;
  }

 private:
  char* next_;
};

// Calls body.template operator()<type, channels>().
template <class Body>
FDJPEG_INLINE void with_type_and_channels(SampleType type, int channels, Body body) {
  with_type(type, [&]<SampleType one>() {
    if (channels == 1) {
      body.template operator()<one, 1>();
    } else {
      body.template operator()<one, 3>();
    }
  });
}

FDJPEG_INLINE int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

FDJPEG_INLINE int64_t most(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// Samples of a pixel row that its MCUs cover: the image's width, replicated up to whole MCUs.
FDJPEG_INLINE int64_t padded_width(const Geometry& g) {
  return g.mcu_columns * kBlock * g.horizontal;
}

template <class T>
FDJPEG_INLINE T* row_of(const Image& image, int64_t n, int64_t c, int64_t y) {
  return static_cast<T*>(image.data) + n * image.stride[0] + c * image.stride[1] + y * image.stride[2];
}

// Three channels whose samples take turns, as in an image loaded from a file.
template <int channels>
FDJPEG_INLINE bool is_interleaved(const Image& image) {
  return channels == 3 && image.stride[3] == 3 && image.stride[1] == 1;
}

// The channels of a pixel row as contiguous samples: in place, or gathered where their stride is not 1.
template <int channels, class T>
FDJPEG_INLINE void gather_row(
    const Image& image, int64_t n, int64_t y, int64_t width, T* const gathered[channels], const T* rows[channels]) {
  const int64_t stride = image.stride[3];
  for (int c = 0; c < channels; ++c) rows[c] = stride == 1 ? row_of<const T>(image, n, c, y) : gathered[c];
  if (stride == 1) return;
  if (is_interleaved<channels>(image)) {
    const T* __restrict pixels = row_of<const T>(image, n, 0, y);
    T* __restrict first = gathered[0];
    T* __restrict second = gathered[1 % channels];
    T* __restrict third = gathered[2 % channels];
    for (int64_t x = 0; x < width; ++x) {
      first[x] = pixels[3 * x];
      second[x] = pixels[3 * x + 1];
      third[x] = pixels[3 * x + 2];
    }
    return;
  }
  for (int c = 0; c < channels; ++c) {
    const T* row = row_of<const T>(image, n, c, y);
    for (int64_t x = 0; x < width; ++x) gathered[c][x] = row[x * stride];
  }
}

// Where to write the channels of a pixel row, and scatter_row() from there to the image.
template <int channels, class T>
FDJPEG_INLINE void target_row(const Image& image, int64_t n, int64_t y, T* const staged[channels], T* rows[channels]) {
  for (int c = 0; c < channels; ++c) rows[c] = image.stride[3] == 1 ? row_of<T>(image, n, c, y) : staged[c];
}

template <int channels, class T>
FDJPEG_INLINE void scatter_row(const Image& image, int64_t n, int64_t y, int64_t width, T* const rows[channels]) {
  const int64_t stride = image.stride[3];
  if (stride == 1) return;
  if (is_interleaved<channels>(image)) {
    T* __restrict pixels = row_of<T>(image, n, 0, y);
    const T* __restrict first = rows[0];
    const T* __restrict second = rows[1 % channels];
    const T* __restrict third = rows[2 % channels];
    for (int64_t x = 0; x < width; ++x) {
      pixels[3 * x] = first[x];
      pixels[3 * x + 1] = second[x];
      pixels[3 * x + 2] = third[x];
    }
    return;
  }
  for (int c = 0; c < channels; ++c) {
    T* row = row_of<T>(image, n, c, y);
    for (int64_t x = 0; x < width; ++x) row[x * stride] = rows[c][x];
  }
}

// Calls body(samples of each row, x) for x = 0, step, … < padded; the rows' last sample is repeated beyond their width.
template <int rows, int step, class T, class Body>
FDJPEG_INLINE void for_each_step(const T* const sources[rows], int64_t width, int64_t padded, Body body) {
  const int64_t whole = width / step * step;
  for (int64_t x = 0; x < whole; x += step) {
    const T* at[rows];
    for (int c = 0; c < rows; ++c) at[c] = sources[c] + x;
    body(at, x);
  }
  for (int64_t x = whole; x < padded; x += step) {
    T edge[rows][step];
    const T* at[rows];
    const int64_t count = most(least(width - x, step), 0);
    for (int c = 0; c < rows; ++c) {
      std::memcpy(edge[c], sources[c] + x, static_cast<size_t>(count) * sizeof(T));
      for (int64_t i = count; i < step; ++i) edge[c][i] = sources[c][width - 1];
      at[c] = edge[c];
    }
    body(at, x);
  }
}

// Stores a step of samples by store(target) where only `count` of them are inside the image.
template <int step, class T, class Store>
FDJPEG_INLINE void store_some(T* target, int64_t count, Store store_all) {
  if (count >= step) {
    store_all(target);
  } else {
    T edge[step];
    store_all(edge);
    std::memcpy(target, edge, static_cast<size_t>(count) * sizeof(T));
  }
}

}  // namespace
}  // namespace fdjpeg
