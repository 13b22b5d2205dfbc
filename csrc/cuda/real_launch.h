// Which kernel serves which image in real numbers, and how many threads of it; as exact_launch.h.
#pragma once

#include "cuda/exact_launch.h"
#include "cuda/real_backward.cuh"

namespace fdjpeg {

// Whether `count` neighbours in a row of both may be accessed as words.
inline bool allow_vectors(const Image& image, const Image& mask, int count) {
  return allows_vectors(image, count) && allows_vectors(mask, count);
}

// The clamp's mask, a byte for each pixel.
inline Image mask_of(const Geometry& g, uint8_t* mask) {
  return {mask, SampleType::uint8, {g.height * g.width, g.height * g.width, g.width, 1}};
}

// Of how many images the planes exist at once. Real planes are as large as the image or larger, so that those of a
// batch would neither be small nor stay in the L2 cache until the second kernel reads them. Those of half the cache of
// the target, of 50 MB, do both.
inline int64_t real_images_at_once(const Geometry& g, SampleType type) {
  constexpr int64_t kBytes = 25'000'000;
  const int64_t of_image = g.flag_offset * (type == SampleType::float64 ? 8 : 4);
  const int64_t most = clamp<int64_t>(kBytes / of_image, 1, kMaxImages);
  const int64_t turns = larger<int64_t>(1, (g.images + most - 1) / most);
  return (g.images + turns - 1) / turns;  // alike, so that the last turn is not a small one
}

// `planes` are those of `at_once` images, [at_once][samples of all planes].
template <class Launcher>
void launch_real_round_trip(const RealOp& op, void* planes, int64_t at_once, Launcher& launch) {
  const Geometry& g = op.geometry;
  RealCodeBlocks code{};
  code.sizes = Sizes::of(g);
  code.steps = op.steps;
  code.rounding = op.rounding;
  code.input = op.input;
  code.vectors = allows_vectors(op.input, kBlock);
  code.planes = planes;
  RealEmitPixels emit{};
  emit.sizes = code.sizes;
  emit.planes = planes;
  emit.output = op.output;
  emit.mask = mask_of(g, op.mask);
  emit.vectors = allow_vectors(op.output, emit.mask, kBlock);
  emit.groups = static_cast<int>(g.height * g.luma_columns);
  emit.groups_across = Divider::by(g.luma_columns);
  with_type(op.input.type, [&]<SampleType type>() {
    with_upsampling(g, [&]<class U>() {
      using L = Layout<U::kHorizontal, U::kVertical, U::kGrey>;
      code.warps_across = Divider::by(warps_across<L>(g));
      code.warps = static_cast<int>(g.mcu_rows * warps_across<L>(g));
      const auto turn = [&](int first, unsigned images) {
        code.first_image = emit.first_image = first;
        launch(real_code_blocks<L, type>, Grid{blocks_for(code.warps, kRealWarps), images}, kRealThreads, code);
        const Grid grid{blocks_for(emit.groups, kRealEmitThreads), images};
        launch(real_emit_pixels<U, type>, grid, kRealEmitThreads, emit);
      };
      for_images(g, turn, at_once);
    });
  });
}

// Real numbers of scratch memory for the gradient of the tables: see partials_of.
inline int64_t real_partials_of(const Geometry& g, SampleType type) {
  return type == SampleType::float64 ? partials_of<kRealBackwardWarps<SampleType::float64>>(g)
                                     : partials_of<kRealBackwardWarps<SampleType::float32>>(g);
}

template <class Launcher>
void launch_real_differentiate_samples(const Geometry& g, RealDifferentiate job, Launcher& launch) {
  job.common.read_vectors = allow_vectors(job.common.grad_output, job.mask, kGradientWide);
  job.common.write_vectors = allows_vectors(job.common.grad_input, kGradientWide);
  job.common.tiles_across = Divider::by(gradient_tiles_across(g));
  with_float_type(job.common.input.type, [&]<SampleType type>() {
    with_upsampling(g, [&]<class U>() {
      for_images(g, [&](int first, unsigned images) {
        job.common.first_image = first;
        launch(real_differentiate_samples<U, type>, Grid{gradient_tiles(g), images}, kGradientThreads, job);
      });
    });
  });
}

// `op.output` is the output's gradient. `scratch` and `table_sums` are as for launch_round_trip_backward.
template <class Launcher>
void launch_real_backward(
    const RealOp& op, const Image& grad_input, void* scratch, void* table_sums, Launcher& launch) {
  const Geometry& g = op.geometry;
  RealDifferentiate job{};
  job.common.sizes = Sizes::of(g);
  job.common.grad_output = op.output;
  job.common.input = op.input;
  job.common.grad_input = grad_input;
  job.common.write_vectors = allows_vectors(grad_input, kBlock);
  job.mask = mask_of(g, op.mask);
  if (op.rounding.surrogate == Surrogate::straight_through && table_sums == nullptr) {
    return launch_real_differentiate_samples(g, job, launch);
  }
  job.steps = op.steps;
  job.rounding = op.rounding;
  job.input_vectors = allows_vectors(op.input, kBlock);
  with_float_type(op.input.type, [&]<SampleType type>() {
    using Real = RealOf<type>;
    constexpr int kWarps = kRealBackwardWarps<type>;
    const int parts = parts_of<kWarps>(g);
    job.partials = parts == 1 || table_sums == nullptr ? table_sums : scratch;
    with_upsampling(g, [&]<class U>() {
      using L = Layout<U::kHorizontal, U::kVertical, U::kGrey>;
      job.common.read_vectors = allow_vectors(op.output, job.mask, ThroughTile<L, kWarps>::kPatchWide);
      job.common.tiles_across = Divider::by(tiles_across<L, kWarps>(g));
      job.tiles = static_cast<int>(tiles_across<L, kWarps>(g) * tiles_down<L, kWarps>(g));
      for_images(g, [&](int first, unsigned images) {
        job.common.first_image = first;
        const Grid grid{static_cast<unsigned>(parts), images};
        launch(real_differentiate<L, U, type>, grid, kWarps * kWarp, job);
      });
    });
    if (table_sums == nullptr) return;
    launch_add_partials(g, static_cast<const Real*>(job.partials), parts, static_cast<Real*>(table_sums), launch);
  });
}

}  // namespace fdjpeg
