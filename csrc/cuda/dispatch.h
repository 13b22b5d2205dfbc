// The parts that the launches of all kernels share: which instance of a template serves an image, and how many threads
// of it.
#pragma once

#include "cuda/samples.cuh"

namespace fdjpeg {

struct Grid {
  unsigned x;  // blocks for one image
  unsigned y;  // images
};

constexpr int64_t kMaxImages = 65535;  // of a launch: the greatest extent of a grid along y

template <class Body>
void with_float_type(SampleType type, Body&& body) {
  with_type(type, [&]<SampleType one>() {
    if constexpr (one != SampleType::uint8) body.template operator()<one>();
  });
}

// Whether `count` neighbours in a row are contiguous and start at a multiple of their bytes, or of 16.
inline bool allows_vectors(const Image& image, int count) {
  const int64_t size = bytes_of(image.type), word = smaller<int64_t>(16, count * size);
  bool aligned = image.stride[3] == 1 && reinterpret_cast<uintptr_t>(image.data) % word == 0;
  for (int i = 0; i < 3; ++i) aligned = aligned && image.stride[i] * size % word == 0;
  return aligned;
}

inline unsigned blocks_for(int64_t work, int64_t of_block) {
  return static_cast<unsigned>((work + of_block - 1) / of_block);
}

// Calls body(first image, how many) for as many launches as the images need, of up to `most` each.
template <class Body>
void for_images(const Geometry& g, Body&& body, int64_t most = kMaxImages) {
  for (int64_t first = 0; first < g.images; first += most) {
    body(static_cast<int>(first), static_cast<unsigned>(smaller(most, g.images - first)));
  }
}

template <class L>
int64_t warps_across(const Geometry& g) {
  return (g.mcu_columns + L::kMcus - 1) / L::kMcus;
}

}  // namespace fdjpeg
