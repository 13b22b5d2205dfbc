// Which kernel serves which image, and how many threads of it. The launcher is the caller's: a stream of a GPU, or a
// CPU that runs the kernels in tests. It is called as launch(kernel, grid, threads, job).
#pragma once

#include "cuda/dispatch.h"
#include "cuda/exact_backward_blocks.cuh"
#include "cuda/exact_forward.cuh"

namespace fdjpeg {

template <Make make, class Launcher>
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
        launch(code_blocks<L, type, make>, Grid{blocks_for(job.warps, kCodeWarps), images}, kCodeThreads, job);
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
  if (op.steps.qualities != nullptr) {
    launch_code_blocks<Make::planes_by_block>(op.geometry, job, launch);
  } else {
    launch_code_blocks<Make::planes>(op.geometry, job, launch);
  }
  launch_emit_image(op.geometry, op.planes, op.output, launch);
}

template <class Launcher>
void launch_encode(const Encode& op, Launcher& launch) {
  CodeBlocks job{};
  job.steps = op.steps;
  job.input = op.input;
  for (int c = 0; c < 3; ++c) job.coefficients[c] = op.coefficients[c];
  launch_code_blocks<Make::coefficients>(op.geometry, job, launch);
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

template <class L, int warps>
int64_t tiles_across(const Geometry& g) {
  return (g.width + ThroughTile<L, warps>::kWide - 1) / ThroughTile<L, warps>::kWide;
}
template <class L, int warps>
int64_t tiles_down(const Geometry& g) {
  return (g.height + ThroughTile<L, warps>::kTall - 1) / ThroughTile<L, warps>::kTall;
}

// Into how many parts an image is cut where gradients pass through coefficients, each for one block of threads. Some
// turns of a block, so that its fixed costs do not count; and no more blocks than keep a large GPU busy, as their sums
// must be added up: an H200 runs some 500 at once, so that the last of 2000 leave it idle for little of the time.
template <int warps = kThroughWarps>
int parts_of(const Geometry& g) {
  constexpr int64_t kTurns = 4, kBlocks = 2048;
  int64_t tiles = 0;
  with_sampling(g, [&]<int horizontal, int vertical, bool grey>() {
    using L = Layout<horizontal, vertical, grey>;
    tiles = tiles_across<L, warps>(g) * tiles_down<L, warps>(g);
  });
  return static_cast<int>(
      smaller(larger<int64_t>(1, tiles / kTurns), larger<int64_t>(1, kBlocks / larger<int64_t>(1, g.images))));
}

// Numbers of scratch memory for the gradient of the tables, [images][parts][3][8][8]: none where an image is one part,
// as its sums are then where the gradient comes. So they are few compared with the images' samples, however small these
// are.
template <int warps = kThroughWarps>
int64_t partials_of(const Geometry& g) {
  const int64_t parts = parts_of<warps>(g);
  return parts == 1 ? 0 : g.images * parts * 3 * kBlockSize;
}

// Tiles of the stencil.
inline int64_t gradient_tiles_across(const Geometry& g) {
  return (g.width + kTileWide - 1) / kTileWide;
}
inline unsigned gradient_tiles(const Geometry& g) {
  return static_cast<unsigned>(gradient_tiles_across(g) * ((g.height + kTileTall - 1) / kTileTall));
}

template <class Launcher>
void launch_differentiate(const Geometry& g, Differentiate job, Launcher& launch) {
  job.read_vectors = allows_vectors(job.grad_output, kGradientWide);
  job.write_vectors = allows_vectors(job.grad_input, kGradientWide);
  job.tiles_across = Divider::by(gradient_tiles_across(g));
  with_float_type(job.input.type, [&]<SampleType type>() {
    with_upsampling(g, [&]<class U>() {
      for_images(g, [&](int first, unsigned images) {
        job.first_image = first;
        launch(differentiate<U, type>, Grid{gradient_tiles(g), images}, kGradientThreads, job);
      });
    });
  });
}

template <SampleType type, bool by_surrogate, class Launcher>
void launch_differentiate_blocks(const Geometry& g, DifferentiateBlocks job, Launcher& launch) {
  job.common.read_vectors = allows_vectors(job.common.grad_output, kBlock);
  job.common.write_vectors = allows_vectors(job.common.grad_input, kBlock);
  job.input_vectors = allows_vectors(job.common.input, kBlock);
  with_upsampling(g, [&]<class U>() {
    using L = Layout<U::kHorizontal, U::kVertical, U::kGrey>;
    job.common.tiles_across = Divider::by(tiles_across<L, kThroughWarps>(g));
    job.tiles = static_cast<int>(tiles_across<L, kThroughWarps>(g) * tiles_down<L, kThroughWarps>(g));
    const Grid grid{static_cast<unsigned>(parts_of(g)), 0};
    for_images(g, [&](int first, unsigned images) {
      job.common.first_image = first;
      launch(differentiate_blocks<L, U, type, by_surrogate>, Grid{grid.x, images}, kThroughThreads, job);
    });
  });
}

// Adds the parts up. They may be where the sums are, if each image is one part.
template <class Real, class Launcher>
void launch_add_partials(const Geometry& g, const Real* partials, int parts, Real* table_sums, Launcher& launch) {
  const AddPartials<Real> job{partials, table_sums, parts};
  launch(add_partials<Real>, Grid{static_cast<unsigned>(3 * g.images), 1}, kAddThreads, job);
}

// `scratch` is for partials_of(op.geometry); `table_sums`, [images][3][8][8], is null where no gradient of the tables
// is wanted.
template <class Launcher>
void launch_round_trip_backward(const RoundTripBackward& op, float* scratch, float* table_sums, Launcher& launch) {
  const Geometry& g = op.geometry;
  const int parts = parts_of(g);
  float* partials = parts == 1 || table_sums == nullptr ? table_sums : scratch;
  DifferentiateBlocks job{};
  job.common.sizes = Sizes::of(g);
  job.common.grad_output = op.grad_output;
  job.common.planes = op.planes;
  job.common.input = op.input;
  job.common.grad_input = op.grad_input;
  job.steps = op.steps;
  job.slopes = op.slopes;
  job.slope_intervals = op.slope_intervals;
  job.partials = partials;
  if (op.slopes == nullptr && partials == nullptr) {
    launch_differentiate(g, job.common, launch);
  } else {
    with_float_type(op.input.type, [&]<SampleType type>() {
      if (kServesBoth<type> || op.slopes != nullptr) {
        launch_differentiate_blocks<type, true>(g, job, launch);
      } else {
        launch_differentiate_blocks<type, kServesBoth<type>>(g, job, launch);
      }
    });
  }
  if (table_sums != nullptr) launch_add_partials(g, partials, parts, table_sums, launch);
}

}  // namespace fdjpeg
