// The exact codec's ops on the CPU: which kernels, which threads, which memory. The schemas are in schemas.cpp.
#include "ops/arguments.h"
#include "ops/cpu_kernels.h"
#include "ops/cpu_shares.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <tuple>
#include <vector>

namespace fdjpeg {
namespace {

StepTables step_tables(const Steps& steps, int64_t image) {
  static constexpr uint8_t kStandard[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};
  static constexpr std::array<NarrowStep, kMaxSample + 1> kNarrow = [] {
    std::array<NarrowStep, kMaxSample + 1> narrow{};
    for (int q = 1; q <= kMaxSample; ++q) narrow[q] = narrow_step(q);
    return narrow;
  }();
  StepTables tables;
  for (int c = 0; c < 3; ++c) {
    StepTables::Table& table = tables.component[c];
    for (int i = 0; i < kBlockSize; ++i) {
      const int q = steps.tables == nullptr ? standard_step(kStandard[c > 0][i], steps.scale)
                                            : table_step(steps.tables[image * steps.image_stride + c * kBlockSize + i]);
      table.step[i] = static_cast<int16_t>(q);
      table.half[i] = static_cast<int16_t>(kBlock / 2 * q);
      table.reciprocal[i] = kNarrow[q].reciprocal;
      table.scale[i] = kNarrow[q].scale;
    }
  }
  return tables;
}

// Returns the standard tables of every quality, by quality; entry 0 is unused.
const StepTables* palette() {
  static const std::vector<StepTables> tables = [] {
    std::vector<StepTables> of_quality(kMaxQuality + 1);
    for (int quality = 1; quality <= kMaxQuality; ++quality) {
      Steps steps{};
      steps.scale = quality_scale(quality);
      of_quality[static_cast<size_t>(quality)] = step_tables(steps, 0);
    }
    return of_quality;
  }();
  return tables.data();
}

// A thread's state while it works on its share: scratch memory, and the tables of its last image.
class Worker {
 public:
  Worker(const Geometry& g, const Steps& steps) : steps_(steps), memory_(exact_kernels().scratch_bytes(g)) {}

  void* scratch() const {
    return memory_.begin();
  }

  const StepTables& tables(int64_t image) {
    if (image_ < 0 || (image != image_ && steps_.image_stride != 0)) tables_ = step_tables(steps_, image);
    image_ = image;
    return tables_;
  }

 private:
  const Steps steps_;
  const ScratchMemory memory_;
  int64_t image_ = -1;
  StepTables tables_;
};

// Calls body(image, MCU row, worker) for every row of MCUs of a batch, shared out among threads.
template <class Body>
void for_each_mcu_row(const Geometry& g, const Steps& steps, const Body& body) {
  Shares(g).for_each([&](int64_t begin, int64_t end) {
    Worker worker(g, steps);
    for (int64_t i = begin; i < end; ++i) body(i / g.mcu_rows, i % g.mcu_rows, worker);
  });
}

// Makes the planes of every image with make_row and turns them into pixels: each row of MCUs just after the rows that
// it blends, while they are in a cache. Rows at the ends of a thread's share may blend what another thread makes, and
// wait until all are made.
template <class MakeRow>
void make_planes_and_emit(
    const Geometry& g, const Steps& steps, const uint8_t* planes, const Image& output, const MakeRow& make_row) {
  const Shares shares(g);
  const int64_t below = g.triangle_down() ? 1 : 0;  // rows that must be made beyond the one that is emitted
  const auto waits = [&](int64_t i, int64_t begin, int64_t end) {
    const int64_t row = i % g.mcu_rows;
    return g.triangle_down() && ((i == begin && row > 0) || (i == end - 1 && row < g.mcu_rows - 1));
  };
  const auto emit = [&](int64_t i, void* scratch) {
    exact_kernels().emit_row(g, planes, output, i / g.mcu_rows, i % g.mcu_rows, scratch);
  };
  shares.for_each([&](int64_t begin, int64_t end) {
    Worker worker(g, steps);
    for (int64_t i = begin; i < end + below; ++i) {
      if (i < end) make_row(i / g.mcu_rows, i % g.mcu_rows, worker);
      const int64_t ready = i - below;
      if (ready >= begin && !waits(ready, begin, end)) emit(ready, worker.scratch());
    }
  });
  if (below == 0 || shares.count() == 1) return;
  shares.for_each([&](int64_t begin, int64_t end) {
    const ScratchMemory scratch(exact_kernels().scratch_bytes(g));
    if (waits(begin, begin, end)) emit(begin, scratch.begin());
    if (end - 1 > begin && waits(end - 1, begin, end)) emit(end - 1, scratch.begin());
  });
}

// Asks for large pages under a large new tensor, as NumPy does under its arrays, where the system leaves that to
// programs: where memory is fresh, a fault at each small page takes longer than coding its pixels.
Tensor in_large_pages(Tensor tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096, kLeast = 4 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t end = begin + static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  if (end - begin < kLeast) return tensor;
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), end / kPage * kPage - first, MADV_HUGEPAGE);  // advice: failing is no harm
#endif
  return tensor;
}

Tensor new_bytes(const Tensor& like, std::initializer_list<int64_t> size) {
  return in_large_pages(new_tensor(like, size, ScalarType::Byte));
}

std::tuple<Tensor, Tensor> round_trip_with(const Tensor& image, const Geometry& g, const Steps& steps) {
  RoundTrip job{};
  job.geometry = g;
  job.steps = steps;
  job.input = image_view(image, "image");
  Tensor output = in_large_pages(new_like(image));
  Tensor planes = new_bytes(image, {g.images, g.plane_bytes});
  job.output = image_view(output, "output");
  job.planes = static_cast<uint8_t*>(planes.data_ptr());
  if (image.numel() > 0) {
    make_planes_and_emit(g, steps, job.planes, job.output, [&](int64_t n, int64_t row, Worker& worker) {
      if (steps.qualities != nullptr) {
        exact_kernels().code_row_by_block(job, palette(), n, row, worker.scratch());
      } else {
        exact_kernels().code_row(job, worker.tables(n), n, row, worker.scratch());
      }
    });
  }
  return {output, planes};
}

std::tuple<Tensor, Tensor> round_trip(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical,
    bool fancy) {
  image_view(image, "image");  // checks it
  const std::optional<Tensor> contiguous_tables = contiguous(tables);
  const Geometry g = geometry_of(image, horizontal, vertical, fancy);
  return round_trip_with(image, g, steps_of(contiguous_tables, quality, g.images));
}

std::tuple<Tensor, Tensor> round_trip_by_block(
    const Tensor& image, const Tensor& qualities, int64_t horizontal, int64_t vertical, bool fancy) {
  image_view(image, "image");  // checks it
  const Tensor contiguous_qualities = torch::stable::contiguous(qualities);
  const Geometry g = geometry_of(image, horizontal, vertical, fancy);
  return round_trip_with(image, g, steps_by_block(contiguous_qualities, g));
}

// Runs either backward op: straight through where there are no slopes.
std::tuple<Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient, const Tensor* slopes) {
  const std::optional<Tensor> contiguous_tables = contiguous(tables);
  RoundTripBackward job =
      backward_of(grad, planes, image, contiguous_tables, quality, horizontal, vertical, fancy, slopes);
  const Geometry& g = job.geometry;
  Tensor grad_image = in_large_pages(new_like(image));
  job.grad_input = image_view(grad_image, "grad_image");

  const int64_t table_images = table_gradient ? g.images : 0;
  std::vector<float> partials(static_cast<size_t>(table_images * g.mcu_rows * 3 * kBlockSize));
  job.table_partials = table_gradient ? partials.data() : nullptr;
  if (image.numel() > 0) {
    for_each_mcu_row(g, job.steps, [&](int64_t n, int64_t row, Worker& worker) {
      exact_kernels().backward_row(job, worker.tables(n), n, row, worker.scratch());
    });
  }
  Tensor grad_tables = new_tensor(
      image, table_gradient ? std::vector<int64_t>{g.images, 3, 8, 8} : std::vector<int64_t>{0}, ScalarType::Float);
  add_rows(partials, table_images, g.mcu_rows, static_cast<float*>(grad_tables.data_ptr()));
  return {grad_image, grad_tables};
}

std::tuple<Tensor, Tensor> round_trip_backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient) {
  return backward(grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient, nullptr);
}

std::tuple<Tensor, Tensor> surrogate_backward(
    const Tensor& grad, const Tensor& planes, const Tensor& image, const std::optional<Tensor>& tables, double quality,
    int64_t horizontal, int64_t vertical, bool fancy, bool table_gradient, const Tensor& slopes) {
  return backward(grad, planes, image, tables, quality, horizontal, vertical, fancy, table_gradient, &slopes);
}

std::tuple<Tensor, Tensor, Tensor> encode(
    const Tensor& image, const std::optional<Tensor>& tables, double quality, int64_t horizontal, int64_t vertical) {
  const std::optional<Tensor> contiguous_tables = contiguous(tables);
  Encode job = encode_of(image, contiguous_tables, quality, horizontal, vertical);
  auto coefficients = new_coefficients(image, job);
  if (image.numel() > 0) {
    for_each_mcu_row(job.geometry, job.steps, [&](int64_t n, int64_t row, Worker& worker) {
      exact_kernels().encode_row(job, worker.tables(n), n, row, worker.scratch());
    });
  }
  return coefficients;
}

Tensor decode(
    const Tensor& y, const Tensor& cb, const Tensor& cr, const Tensor& tables, int64_t height, int64_t width,
    int64_t horizontal, int64_t vertical, bool fancy, ScalarType dtype) {
  using torch::stable::contiguous;
  const Tensor kept[] = {contiguous(y), contiguous(cb), contiguous(cr), contiguous(tables)};
  Decode job = decode_of(kept[0], kept[1], kept[2], kept[3], height, width, horizontal, vertical, fancy);
  const Geometry& g = job.geometry;
  Tensor planes = new_bytes(y, {g.images, g.plane_bytes});
  job.planes = static_cast<uint8_t*>(planes.data_ptr());
  Tensor output = in_large_pages(new_tensor(y, {g.images, g.channels, height, width}, dtype));
  job.output = image_view(output, "dtype");
  if (output.numel() > 0) {
    make_planes_and_emit(g, job.steps, job.planes, job.output, [&](int64_t n, int64_t row, Worker& worker) {
      exact_kernels().decode_row(job, worker.tables(n), n, row, worker.scratch());
    });
  }
  return output;
}

std::string cpu_instruction_set() {
  return name_of(instruction_set());
}

}  // namespace
}  // namespace fdjpeg

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CPU, m) {
  m.impl("round_trip", TORCH_BOX(&fdjpeg::round_trip));
  m.impl("round_trip_by_block", TORCH_BOX(&fdjpeg::round_trip_by_block));
  m.impl("round_trip_backward", TORCH_BOX(&fdjpeg::round_trip_backward));
  m.impl("surrogate_backward", TORCH_BOX(&fdjpeg::surrogate_backward));
  m.impl("encode", TORCH_BOX(&fdjpeg::encode));
  m.impl("decode", TORCH_BOX(&fdjpeg::decode));
}

STABLE_TORCH_LIBRARY_IMPL(fdjpeg, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&fdjpeg::cpu_instruction_set));
}
