// Which kernel serves which image, and how many threads of it. The launcher is the caller's: a stream of a GPU, or a
// CPU that runs the kernels in tests. It is called as launch(kernel, grid, threads, job).
#pragma once

#include <algorithm>
#include <limits>
#include <utility>

#include "codec_kernels.cuh"

namespace fdjpeg {

struct Grid {
  unsigned x;  // blocks for one image
  unsigned y;  // images
};

constexpr int64_t kMaxImages = 65535;  // of a launch: the greatest extent of a grid along y

// The scratch memory that backward needs for the gradient of the tables, in floats.
struct TableScratch {
  int parts;                // of an image, each summed by one block of threads
  int64_t plane_gradients;  // [images][flag_offset]
  int64_t partials;         // [images][parts][3][8][8]

  static TableScratch of(const Geometry& g);
};

template <class Body>
void with_sampling(const Geometry& g, Body&& body) {
  if (g.channels == 1) return body.template operator()<1, 1, true>();
  if (g.horizontal == 4) return body.template operator()<4, 1, false>();
  if (g.horizontal == 2)
    return g.vertical == 2 ? body.template operator()<2, 2, false>() : body.template operator()<2, 1, false>();
  return g.vertical == 2 ? body.template operator()<1, 2, false>() : body.template operator()<1, 1, false>();
}

template <class Body>
void with_upsampling(const Geometry& g, Body&& body) {
  with_sampling(g, [&]<int horizontal, int vertical, bool grey>() {
    if constexpr (!grey && (horizontal == 2 || vertical == 2)) {
      if (g.triangle_across() || g.triangle_down())
        return body.template operator()<Upsampling<horizontal, vertical, true, grey>>();
    }
    body.template operator()<Upsampling<horizontal, vertical, false, grey>>();
  });
}

template <class Body>
void with_type(SampleType type, Body&& body) {
  switch (type) {
    case SampleType::uint8:
      return body.template operator()<SampleType::uint8>();
    case SampleType::float16:
      return body.template operator()<SampleType::float16>();
    case SampleType::bfloat16:
      return body.template operator()<SampleType::bfloat16>();
    case SampleType::float32:
      return body.template operator()<SampleType::float32>();
    case SampleType::float64:
      return body.template operator()<SampleType::float64>();
  }
}

inline int64_t bytes_of(SampleType type) {
  switch (type) {
    case SampleType::uint8:
      return 1;
    case SampleType::float16:
    case SampleType::bfloat16:
      return 2;
    case SampleType::float32:
      return 4;
    case SampleType::float64:
      return 8;
  }
  return 0;
}

// Whether `count` neighbours in a row lie together and start at a multiple of their bytes, or of 16.
inline bool allows_vectors(const Image& image, int count) {
  const int64_t size = bytes_of(image.type), word = std::min<int64_t>(16, count * size);
  bool aligned = image.stride[3] == 1 && reinterpret_cast<uintptr_t>(image.data) % word == 0;
  for (int i = 0; i < 3; ++i) aligned = aligned && image.stride[i] * size % word == 0;
  return aligned;
}

inline unsigned blocks_for(int64_t work, int64_t of_block) {
  return static_cast<unsigned>((work + of_block - 1) / of_block);
}

// Calls body(first image, how many) for as many launches as the images need.
template <class Body>
void for_images(const Geometry& g, Body&& body) {
  for (int64_t first = 0; first < g.images; first += kMaxImages) {
    body(static_cast<int>(first), static_cast<unsigned>(std::min(kMaxImages, g.images - first)));
  }
}

template <class L>
int64_t warps_across(const Geometry& g) {
  return (g.mcu_columns + L::kMcus - 1) / L::kMcus;
}

template <bool encode, class Launcher>
void launch_code_blocks(const Geometry& g, CodeBlocks job, Launcher& launch) {
  job.sizes = Sizes::of(g);
  job.vectors = allows_vectors(job.input, kBlock);
  with_sampling(g, [&]<int horizontal, int vertical, bool grey>() {
    using L = Layout<horizontal, vertical, grey>;
    job.warps_across = Divider::by(warps_across<L>(g));
    job.warps = static_cast<int>(g.mcu_rows * warps_across<L>(g));
    with_type(job.input.type, [&]<SampleType type>() {
      for_images(g, [&](int first, unsigned images) {
        job.first_image = first;
        launch(code_blocks<L, type, encode>, Grid{blocks_for(job.warps, kCodeWarps), images}, kCodeThreads, job);
      });
    });
  });
}

template <class Launcher>
void launch_emit_image(const Geometry& g, const uint8_t* planes, const Image& output, Launcher& launch) {
  EmitImage job{};
  job.sizes = Sizes::of(g);
  job.planes = planes;
  job.output = output;
  with_type(output.type, [&]<SampleType type>() {
    constexpr int kWide = kPatchWidth<type>, kTall = kPatch / kWide;
    job.vectors = allows_vectors(output, kWide);
    const int64_t across = (g.width + kWide - 1) / kWide;
    job.patches_across = Divider::by(across);
    job.patches = static_cast<int>(across * ((g.height + kTall - 1) / kTall));
    with_upsampling(g, [&]<class U>() {
      for_images(g, [&](int first, unsigned images) {
        job.first_image = first;
        launch(emit_image<U, type>, Grid{blocks_for(job.patches, kEmitThreads), images}, kEmitThreads, job);
      });
    });
  });
}

template <class Launcher>
void launch_round_trip(const RoundTrip& op, Launcher& launch) {
  CodeBlocks job{};
  job.steps = op.steps;
  job.input = op.input;
  job.planes = op.planes;
  launch_code_blocks<false>(op.geometry, job, launch);
  launch_emit_image(op.geometry, op.planes, op.output, launch);
}

template <class Launcher>
void launch_encode(const Encode& op, Launcher& launch) {
  CodeBlocks job{};
  job.steps = op.steps;
  job.input = op.input;
  std::copy(op.coefficients, op.coefficients + 3, job.coefficients);
  launch_code_blocks<true>(op.geometry, job, launch);
}

template <class Launcher>
void launch_decode(const Decode& op, Launcher& launch) {
  const Geometry& g = op.geometry;
  for (int c = 0; c < g.channels; ++c) {
    DecodeBlocks job{};
    job.steps = op.steps;
    job.component = c;
    job.coefficients = op.coefficients[c];
    job.planes = op.planes + (c == 0 ? 0 : c == 1 ? g.cb_offset : g.cr_offset);
    job.plane_bytes = g.plane_bytes;
    const int64_t columns = c == 0 ? g.luma_columns : g.chroma_columns;
    job.blocks = static_cast<int>(columns * (c == 0 ? g.luma_rows : g.chroma_rows));
    job.columns = Divider::by(columns);
    for_images(g, [&](int first, unsigned images) {
      job.first_image = first;
      launch(decode_blocks, Grid{blocks_for(job.blocks, 4 * kDecodeWarps), images}, kDecodeThreads, job);
    });
  }
  launch_emit_image(g, op.planes, op.output, launch);
}

// A part is some ten turns of a block of threads, so that its fixed costs do not count; few enough to add up quickly.
inline TableScratch TableScratch::of(const Geometry& g) {
  constexpr int64_t kTurns = 8, kMaxParts = 64;
  const int64_t warps = g.mcu_rows * g.mcu_columns / (g.horizontal == 1 ? 4 : 2) + 1;
  const int64_t parts = std::clamp<int64_t>(warps / (kSumWarps * kTurns), 1, kMaxParts);
  return {static_cast<int>(parts), g.images * g.flag_offset, g.images * parts * 3 * kBlockSize};
}

// `scratch` and `table_sums` ([images][3][8][8]) are null where no gradient of the tables is wanted.
template <class Launcher>
void launch_round_trip_backward(const RoundTripBackward& op, float* scratch, float* table_sums, Launcher& launch) {
  const Geometry& g = op.geometry;
  Differentiate job{};
  job.sizes = Sizes::of(g);
  job.grad_output = op.grad_output;
  job.read_vectors = allows_vectors(op.grad_output, kGradientWide);
  job.planes = op.planes;
  job.input = op.input;
  job.grad_input = op.grad_input;
  job.write_vectors = allows_vectors(op.grad_input, kGradientWide);
  job.plane_gradients = scratch;
  const int64_t across = (g.width + kTileWide - 1) / kTileWide, down = (g.height + kTileTall - 1) / kTileTall;
  job.tiles_across = Divider::by(across);
  const auto with_float_type = [&](auto&& body) {
    with_type(op.input.type, [&]<SampleType type>() {
      if constexpr (type != SampleType::uint8) body.template operator()<type>();
    });
  };
  with_float_type([&]<SampleType type>() {
    with_upsampling(g, [&]<class U>() {
      for_images(g, [&](int first, unsigned images) {
        job.first_image = first;
        launch(differentiate<U, type>, Grid{static_cast<unsigned>(across * down), images}, kGradientThreads, job);
      });
    });
  });
  if (table_sums == nullptr) return;

  const TableScratch sizes = TableScratch::of(g);
  SumTables sum{};
  sum.sizes = Sizes::of(g);
  sum.steps = op.steps;
  sum.input = op.input;
  sum.vectors = allows_vectors(op.input, kBlock);
  sum.plane_gradients = scratch;
  sum.partials = scratch + sizes.plane_gradients;
  with_float_type([&]<SampleType type>() {
    with_sampling(g, [&]<int horizontal, int vertical, bool grey>() {
      using L = Layout<horizontal, vertical, grey>;
      sum.warps_across = Divider::by(warps_across<L>(g));
      sum.warps = static_cast<int>(g.mcu_rows * warps_across<L>(g));
      for_images(g, [&](int first, unsigned images) {
        sum.first_image = first;
        launch(sum_tables<L, type>, Grid{static_cast<unsigned>(sizes.parts), images}, kSumThreads, sum);
      });
    });
  });
  AddPartials add{};
  add.partials = sum.partials;
  add.sums = table_sums;
  add.parts = sizes.parts;
  add.count = g.images * 3 * kBlockSize;
  launch(add_partials, Grid{blocks_for(add.count, kAddThreads), 1}, kAddThreads, add);
}

}  // namespace fdjpeg
