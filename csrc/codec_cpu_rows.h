// The kernels of codec_cpu_kernels.h, written over the lanes of lanes.h.
//
// Included by one source file for each instruction set, which names it in FDJPEG_ISA; everything here has internal
// linkage, so that no function compiled for one processor is ever linked into another's path.
#pragma once

#include <cmath>

#include "codec_cpu_kernels.h"
#include "lanes.h"

namespace fdjpeg {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Memory

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

  // A piece starts on a cache line and may be read and written one vector beyond its end.
  static constexpr int64_t bytes(int64_t size) {
    return (size + 63) / 64 * 64 + 64;
  }

 private:
  char* next_;
};

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

struct Component {
  int64_t offset, rows, columns;       // in the planes; in blocks
  int vertical;                        // rows of its blocks in a row of MCUs
  int64_t stride() const {
    return columns * kBlock;
  }
};

FDJPEG_INLINE Component component_of(const Geometry& g, int index) {
  if (index == 0) return {0, g.luma_rows, g.luma_columns, g.vertical};
  return {index == 1 ? g.cb_offset : g.cr_offset, g.chroma_rows, g.chroma_columns, 1};
}

template <class T>
FDJPEG_INLINE T* row_of(const Image& image, int64_t n, int64_t c, int64_t y) {
  return static_cast<T*>(image.data) + n * image.stride[0] + c * image.stride[1] + y * image.stride[2];
}

// A row of an image as contiguous samples: itself, or gathered into `gathered` where its stride is not 1.
template <class T>
FDJPEG_INLINE const T* contiguous_row(const Image& image, int64_t n, int64_t c, int64_t y, int64_t width, T* gathered) {
  const T* row = row_of<const T>(image, n, c, y);
  const int64_t stride = image.stride[3];
  if (stride == 1) return row;
  for (int64_t x = 0; x < width; ++x) gathered[x] = row[x * stride];
  return gathered;
}

// Calls body(samples of each channel, x) for the columns 0 … padded in steps of eight, the last column replicated.
template <int channels, class T, class Body>
FDJPEG_INLINE void for_each_eight(const T* const rows[channels], int64_t width, int64_t padded, Body body) {
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t x = 0; x < whole; x += kLanes) {
    const T* at[channels];
    for (int c = 0; c < channels; ++c) at[c] = rows[c] + x;
    body(at, x);
  }
  for (int64_t x = whole; x < padded; x += kLanes) {
    T edge[channels][kLanes];
    const T* at[channels];
    for (int c = 0; c < channels; ++c) {
      for (int i = 0; i < kLanes; ++i) edge[c][i] = rows[c][least(x + i, width - 1)];
      at[c] = edge[c];
    }
    body(at, x);
  }
}

// Stores eight samples of each channel where only `count` of them lie inside the image.
template <SampleType type, class Lanes, class Store>
FDJPEG_INLINE void store_some(typename Sample<type>::Stored* target, Lanes lanes, int64_t count, Store store_all) {
  if (count >= kLanes) {
    store_all(target, lanes);
  } else {
    typename Sample<type>::Stored edge[kLanes];
    store_all(edge, lanes);
    for (int64_t i = 0; i < count; ++i) target[i] = edge[i];
  }
}

template <class T>
FDJPEG_INLINE void scatter_row(const T* samples, T* row, int64_t stride, int64_t width) {
  for (int64_t x = 0; x < width; ++x) row[x * stride] = samples[x];
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables

// A component's table, as the lanes want it: a row of the table is a vector.
struct LaneTable {
  Floats reciprocal[kBlock];
  Ints step[kBlock];
};

FDJPEG_INLINE LaneTable lane_table(const Steps& steps, int64_t image, int component) {
  static constexpr uint8_t kStandard[2][kBlockSize] = {FDJPEG_STANDARD_LUMA, FDJPEG_STANDARD_CHROMA};
  alignas(32) int32_t q[kBlockSize];
  if (steps.tables == nullptr) {
    const uint8_t* base = kStandard[component > 0];
    for (int i = 0; i < kBlockSize; ++i) q[i] = standard_step(base[i], steps.scale);
  } else {
    const float* table = steps.tables + image * steps.image_stride + component * kBlockSize;
    for (int i = 0; i < kBlockSize; ++i) q[i] = table_step(table[i]);
  }
  LaneTable lanes;
  for (int i = 0; i < kBlock; ++i) {
    lanes.step[i] = load<Ints>(q + i * kBlock);
    lanes.reciprocal[i] = 1.0f / __builtin_convertvector(lanes.step[i] * kBlock, Floats);
  }
  return lanes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks: x[i] is row i of a block

FDJPEG_INLINE void load_block(const uint8_t* samples, int64_t stride, Ints x[8]) {
  for (int i = 0; i < kBlock; ++i) x[i] = load_bytes(samples + i * stride) - kLevelShift;
}

FDJPEG_INLINE void store_block(uint8_t* samples, int64_t stride, const Ints x[8]) {
  for (int i = 0; i < kBlock; ++i) store_bytes(samples + i * stride, clamp(x[i] + kLevelShift, 0, kMaxSample));
}

FDJPEG_INLINE void fdct(Ints x[8]) {
  transpose(x);
  fdct_pass<true>(x);
  transpose(x);
  fdct_pass<false>(x);
}

FDJPEG_INLINE void idct(Ints x[8]) {
  idct_pass<true>(x);
  transpose(x);
  idct_pass<false>(x);
  transpose(x);
}

// ---------------------------------------------------------------------------------------------------------------------
// From pixels to the samples of a row of MCUs

// The components of a row of MCUs before the transform, at their coded width.
struct McuRow {
  uint8_t* samples[3];
};

FDJPEG_INLINE int64_t mcu_row_scratch(const Geometry& g) {
  const int64_t width = padded_width(g);
  return Scratch::bytes(width * kBlock * g.vertical) + 2 * Scratch::bytes(g.chroma_columns * kBlockSize) +
      4 * Scratch::bytes(width * 2) + 3 * Scratch::bytes(g.width * 8);
}

// Cb or Cr of one subsampled row, from `vertical` rows at full resolution.
FDJPEG_INLINE void average_row(const Geometry& g, const uint8_t* above, const uint8_t* below, uint8_t* target) {
  const int64_t width = g.chroma_columns * kBlock;
  if (g.horizontal == 2 && g.vertical == 2) {
    for (int64_t i = 0; i < width; ++i) {
      target[i] = static_cast<uint8_t>(
          (above[2 * i] + above[2 * i + 1] + below[2 * i] + below[2 * i + 1] + average_bias(2, 2, static_cast<int>(i & 1))) >> 2);
    }
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) {
      target[i] = static_cast<uint8_t>((above[2 * i] + above[2 * i + 1] + average_bias(2, 1, static_cast<int>(i & 1))) >> 1);
    }
  } else if (g.horizontal == 4) {
    for (int64_t i = 0; i < width; ++i) {
      const uint8_t* four = above + 4 * i;
      target[i] = static_cast<uint8_t>((four[0] + four[1] + four[2] + four[3] + average_bias(4, 1, 0)) >> 2);
    }
  } else if (g.vertical == 2) {
    for (int64_t i = 0; i < width; ++i) target[i] = static_cast<uint8_t>((above[i] + below[i] + average_bias(1, 2, 0)) >> 1);
  } else {
    std::memcpy(target, above, static_cast<size_t>(width));
  }
}

// Reads the pixel rows of a row of MCUs into its components. Returns whether any sample is NaN or above 1.
template <SampleType type>
FDJPEG_INLINE bool read_mcu_row(const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, McuRow& row, Scratch scratch) {
  using S = Sample<type>;
  using T = typename S::Stored;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  row.samples[0] = scratch.take<uint8_t>(width * rows);
  row.samples[1] = scratch.take<uint8_t>(chroma_width * kBlock);
  row.samples[2] = scratch.take<uint8_t>(chroma_width * kBlock);
  uint8_t* full[2][2];  // Cb and Cr at full resolution: the rows that are averaged together
  for (auto& component : full) {
    for (uint8_t*& line : component) line = scratch.take<uint8_t>(width);
  }
  T* gathered[3];
  for (T*& line : gathered) line = scratch.take<T>(g.width);

  Ints odd{};
  const int64_t top = mcu_row * rows;
  for (int i = 0; i < rows; ++i) {
    uint8_t* luma = row.samples[0] + i * width;
    const int64_t y = top + i;
    const int chroma_line = i / g.vertical, part = i % g.vertical;
    // A row of chroma that exists averages replicated pixel rows; one beyond the edge repeats the row above it.
    const bool chroma_exists = mcu_row * kBlock + chroma_line < g.chroma_height;
    if (y >= g.height) std::memcpy(luma, luma - width, static_cast<size_t>(width));
    if (g.channels == 1) {
      if (y >= g.height) continue;
      const T* grey[1] = {contiguous_row(input, n, 0, y, g.width, gathered[0])};
      for_each_eight<1>(grey, g.width, width, [&](const T* const at[1], int64_t x) {
        store_bytes(luma + x, S::load_byte(at[0], odd));
      });
      continue;
    }
    if (!chroma_exists) {
      if (part == 0) {
        for (int c = 1; c < 3; ++c) {
          uint8_t* line = row.samples[c] + chroma_line * chroma_width;
          std::memcpy(line, line - chroma_width, static_cast<size_t>(chroma_width));
        }
      }
      continue;
    }
    if (y < g.height) {
      const T* rgb[3];
      for (int c = 0; c < 3; ++c) rgb[c] = contiguous_row(input, n, c, y, g.width, gathered[c]);
      uint8_t* const cb = full[0][part];
      uint8_t* const cr = full[1][part];
      for_each_eight<3>(rgb, g.width, width, [&](const T* const at[3], int64_t x) {
        const Ints r = S::load_byte(at[0], odd), green = S::load_byte(at[1], odd), b = S::load_byte(at[2], odd);
        const YCbCr<Ints> colour = rgb_to_ycbcr(r, green, b);
        store_bytes(luma + x, colour.y);
        store_bytes(cb + x, colour.cb);
        store_bytes(cr + x, colour.cr);
      });
    }
    if (part == g.vertical - 1) {
      const int below = y < g.height ? part : 0;  // the edge row stands in for the one that is missing
      for (int c = 0; c < 2; ++c) {
        average_row(g, full[c][0], full[c][below], row.samples[c + 1] + chroma_line * chroma_width);
      }
    }
  }
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= odd[i] != 0;
  return any;
}

FDJPEG_INLINE bool read_mcu_row(const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, McuRow& row, Scratch scratch) {
  switch (input.type) {
    case SampleType::uint8:
      return read_mcu_row<SampleType::uint8>(g, input, n, mcu_row, row, scratch);
    case SampleType::float16:
      return read_mcu_row<SampleType::float16>(g, input, n, mcu_row, row, scratch);
    case SampleType::bfloat16:
      return read_mcu_row<SampleType::bfloat16>(g, input, n, mcu_row, row, scratch);
    case SampleType::float32:
      return read_mcu_row<SampleType::float32>(g, input, n, mcu_row, row, scratch);
    case SampleType::float64:
      return read_mcu_row<SampleType::float64>(g, input, n, mcu_row, row, scratch);
  }
  return false;
}

// Calls body(component, table, samples, their stride, block row, block column) for each block of a row of MCUs.
template <class Body>
FDJPEG_INLINE void for_each_block(const Geometry& g, const Steps& steps, int64_t n, int64_t mcu_row, const McuRow& row, Body body) {
  for (int c = 0; c < g.channels; ++c) {
    const Component component = component_of(g, c);
    const LaneTable table = lane_table(steps, n, c);
    const int64_t stride = c == 0 ? padded_width(g) : component.stride();
    for (int v = 0; v < component.vertical; ++v) {
      const int64_t block_row = mcu_row * component.vertical + v;
      if (block_row >= component.rows) break;
      const uint8_t* samples = row.samples[c] + v * kBlock * stride;
      for (int64_t column = 0; column < component.columns; ++column) {
        body(c, component, table, samples + column * kBlock, stride, block_row, column);
      }
    }
  }
}

void code_row(const RoundTrip& job, int64_t n, int64_t mcu_row, void* memory) {
  const Geometry& g = job.geometry;
  McuRow row;
  const bool odd = read_mcu_row(g, job.input, n, mcu_row, row, Scratch(memory));
  uint8_t* planes = job.planes + n * g.plane_bytes;
  std::memset(planes + g.flag_offset + mcu_row * g.mcu_columns, odd, static_cast<size_t>(g.mcu_columns));
  if (mcu_row == g.mcu_rows - 1) {
    const int64_t end = g.flag_offset + g.mcu_rows * g.mcu_columns;
    std::memset(planes + end, 0, static_cast<size_t>(g.plane_bytes - end));
  }
  for_each_block(g, job.steps, n, mcu_row, row,
      [&](int, const Component& component, const LaneTable& table, const uint8_t* samples, int64_t stride, int64_t block_row,
          int64_t column) FDJPEG_LAMBDA_INLINE {
        Ints x[8];
        load_block(samples, stride, x);
        fdct(x);
        for (int i = 0; i < kBlock; ++i) x[i] = quantize(x[i], table.reciprocal[i]) * table.step[i];
        idct(x);
        store_block(planes + component.offset + (block_row * component.stride() + column) * kBlock, component.stride(), x);
      });
}

void encode_row(const Encode& job, int64_t n, int64_t mcu_row, void* memory) {
  McuRow row;
  read_mcu_row(job.geometry, job.input, n, mcu_row, row, Scratch(memory));
  for_each_block(job.geometry, job.steps, n, mcu_row, row,
      [&](int c, const Component& component, const LaneTable& table, const uint8_t* samples, int64_t stride, int64_t block_row,
          int64_t column) FDJPEG_LAMBDA_INLINE {
        Ints x[8];
        load_block(samples, stride, x);
        fdct(x);
        int16_t* target = job.coefficients[c] + ((n * component.rows + block_row) * component.columns + column) * kBlockSize;
        for (int i = 0; i < kBlock; ++i) {
          store(target + i * kBlock, __builtin_convertvector(quantize(x[i], table.reciprocal[i]), Shorts));
        }
      });
}

void decode_row(const Decode& job, int64_t n, int64_t mcu_row, void*) {
  typedef int16_t SignedShorts __attribute__((vector_size(16)));
  const Geometry& g = job.geometry;
  uint8_t* planes = job.planes + n * g.plane_bytes;
  for (int c = 0; c < g.channels; ++c) {
    const Component component = component_of(g, c);
    const LaneTable table = lane_table(job.steps, n, c);
    for (int v = 0; v < component.vertical; ++v) {
      const int64_t block_row = mcu_row * component.vertical + v;
      if (block_row >= component.rows) break;
      const int16_t* source = job.coefficients[c] + (n * component.rows + block_row) * component.columns * kBlockSize;
      uint8_t* target = planes + component.offset + block_row * component.stride() * kBlock;
      for (int64_t column = 0; column < component.columns; ++column) {
        Ints x[8];
        for (int i = 0; i < kBlock; ++i) {
          const Ints k = __builtin_convertvector(load<SignedShorts>(source + column * kBlockSize + i * kBlock), Ints);
          x[i] = dequantize_saturating(k, table.step[i]);
        }
        idct(x);
        store_block(target + column * kBlock, component.stride(), x);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// From planes to pixels

FDJPEG_INLINE int64_t chroma_line_scratch(const Geometry& g) {
  return 2 * Scratch::bytes(padded_width(g) * 2 + 64) + 2 * Scratch::bytes(padded_width(g) + 64);
}

// The rows of chroma that pixel row y blends: it lies in the first, the second is the nearer neighbour.
struct ChromaRows {
  int64_t near, far;
};

FDJPEG_INLINE ChromaRows chroma_rows(const Geometry& g, int64_t y) {
  const int64_t near = y / g.vertical;
  if (!g.triangle_down()) return {near, near};
  const int64_t far = y % 2 == 0 ? near - 1 : near + 1;
  return {near, far < 0 || far >= g.chroma_height ? near : far};
}

// Cb or Cr along pixel row y at full resolution. Returns where it lies: in the plane itself at 4:4:4, else in `target`.
FDJPEG_INLINE const uint8_t* chroma_line(const Geometry& g, const uint8_t* plane, int64_t y, uint16_t* blend, uint8_t* target) {
  const int64_t stride = g.chroma_columns * kBlock, width = g.chroma_width;
  const ChromaRows rows = chroma_rows(g, y);
  const uint8_t* near = plane + rows.near * stride;
  const uint8_t* far = plane + rows.far * stride;
  if (g.triangle_across()) {
    uint16_t* s = blend + 1;
    if (g.triangle_down()) {
      for (int64_t i = 0; i < width; ++i) s[i] = static_cast<uint16_t>(blend_rows<int>(near[i], far[i]));
    } else {
      for (int64_t i = 0; i < width; ++i) s[i] = near[i];
    }
    s[-1] = s[0];
    s[width] = s[width - 1];
    if (g.triangle_down()) {
      for (int64_t i = 0; i < width; ++i) {
        target[2 * i] = static_cast<uint8_t>(triangle_of_blend<false, int>(s[i], s[i - 1]));
        target[2 * i + 1] = static_cast<uint8_t>(triangle_of_blend<true, int>(s[i], s[i + 1]));
      }
    } else {
      for (int64_t i = 0; i < width; ++i) {
        target[2 * i] = static_cast<uint8_t>(triangle<false, int>(s[i], s[i - 1]));
        target[2 * i + 1] = static_cast<uint8_t>(triangle<true, int>(s[i], s[i + 1]));
      }
    }
    return target;
  }
  if (g.triangle_down()) {
    const bool late = y % 2 == 1;
    for (int64_t i = 0; i < width; ++i) {
      target[i] = static_cast<uint8_t>(late ? triangle<true, int>(near[i], far[i]) : triangle<false, int>(near[i], far[i]));
    }
    return target;
  }
  if (g.horizontal == 1) return near;
  for (int64_t i = 0; i < width; ++i) {
    for (int j = 0; j < g.horizontal; ++j) target[g.horizontal * i + j] = near[i];
  }
  return target;
}

// Calls body(y samples, Cb, Cr) with the planes' samples along pixel row y, chroma at full resolution.
struct PlaneLine {
  const uint8_t *luma, *cb, *cr;
};

FDJPEG_INLINE PlaneLine plane_line(const Geometry& g, const uint8_t* planes, int64_t y, Scratch& scratch) {
  PlaneLine line{planes + y * g.luma_columns * kBlock, nullptr, nullptr};
  if (g.channels == 1) return line;
  uint16_t* blend = scratch.take<uint16_t>(padded_width(g) + 32);
  uint8_t* cb = scratch.take<uint8_t>(padded_width(g) + 64);
  uint8_t* cr = scratch.take<uint8_t>(padded_width(g) + 64);
  line.cb = chroma_line(g, planes + g.cb_offset, y, blend, cb);
  line.cr = chroma_line(g, planes + g.cr_offset, y, blend, cr);
  return line;
}

FDJPEG_INLINE RGB<Ints> pixels_before_clamp(const PlaneLine& line, int64_t x) {
  return ycbcr_to_rgb(load_bytes(line.luma + x), load_bytes(line.cb + x), load_bytes(line.cr + x));
}

template <SampleType type>
FDJPEG_INLINE void emit_row_as(const Geometry& g, const uint8_t* planes, const Image& output, int64_t n, int64_t mcu_row, void* memory) {
  using S = Sample<type>;
  using T = typename S::Stored;
  const auto store_byte = [](T* target, Ints byte) FDJPEG_LAMBDA_INLINE { S::store_byte(target, byte); };
  const bool direct = output.stride[3] == 1;
  Scratch scratch(memory);
  T* staged[3];
  for (T*& line : staged) line = scratch.take<T>(g.width + kLanes);
  const int64_t end = least((mcu_row + 1) * kBlock * g.vertical, g.height);
  for (int64_t y = mcu_row * kBlock * g.vertical; y < end; ++y) {
    Scratch line_scratch = scratch;
    const PlaneLine line = plane_line(g, planes, y, line_scratch);
    T* target[3];
    for (int c = 0; c < g.channels; ++c) target[c] = direct ? row_of<T>(output, n, c, y) : staged[c];
    for (int64_t x = 0; x < g.width; x += kLanes) {
      const int64_t count = g.width - x;
      if (g.channels == 1) {
        store_some<type>(target[0] + x, load_bytes(line.luma + x), count, store_byte);
        continue;
      }
      const RGB<Ints> pixel = pixels_before_clamp(line, x);
      store_some<type>(target[0] + x, clamp(pixel.r, 0, kMaxSample), count, store_byte);
      store_some<type>(target[1] + x, clamp(pixel.g, 0, kMaxSample), count, store_byte);
      store_some<type>(target[2] + x, clamp(pixel.b, 0, kMaxSample), count, store_byte);
    }
    if (!direct) {
      for (int c = 0; c < g.channels; ++c) scatter_row(staged[c], row_of<T>(output, n, c, y), output.stride[3], g.width);
    }
  }
}

void emit_row(const Geometry& g, const uint8_t* planes, const Image& output, int64_t n, int64_t mcu_row, void* memory) {
  planes += n * g.plane_bytes;
  switch (output.type) {
    case SampleType::uint8:
      return emit_row_as<SampleType::uint8>(g, planes, output, n, mcu_row, memory);
    case SampleType::float16:
      return emit_row_as<SampleType::float16>(g, planes, output, n, mcu_row, memory);
    case SampleType::bfloat16:
      return emit_row_as<SampleType::bfloat16>(g, planes, output, n, mcu_row, memory);
    case SampleType::float32:
      return emit_row_as<SampleType::float32>(g, planes, output, n, mcu_row, memory);
    case SampleType::float64:
      return emit_row_as<SampleType::float64>(g, planes, output, n, mcu_row, memory);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward, straight through every rounding: the adjoint of colour and resampling, behind the clamp's mask

// BT.601's colour difference signals, exactly: K_R = .299, K_B = .114, K_G the rest.
constexpr double kR = .299, kG = .587, kB = .114;
constexpr double kCbScale = 2 * (1 - kB), kCrScale = 2 * (1 - kR);  // B = Y + kCbScale Cb, R = Y + kCrScale Cr

template <class Reals>
FDJPEG_INLINE Reals splat(double x) {
  using R = decltype(Reals{}[0] + Reals{}[0]);
  return Reals{} + static_cast<R>(x);
}

// The incoming gradient where the clamp let the value pass, else 0.
template <class Reals>
FDJPEG_INLINE Reals masked(Reals gradient, Ints value) {
  const Ints inside = (value >= 0) & (value <= kMaxSample);
  if constexpr (sizeof(Reals) == sizeof(Doubles)) {
    return __builtin_convertvector(inside, Longs) != 0 ? gradient : Reals{};
  } else {
    return inside != 0 ? gradient : Reals{};
  }
}

// The gradients of a row of MCUs' components, at their coded size; 0 beyond the true size.
template <class R>
struct McuGradients {
  R* samples[3];
};

template <class R>
FDJPEG_INLINE int64_t gradient_scratch(const Geometry& g) {
  const int64_t width = padded_width(g), real = static_cast<int64_t>(sizeof(R));
  return Scratch::bytes(width * kBlock * g.vertical * real) + 2 * Scratch::bytes(g.chroma_columns * kBlockSize * real) +
      2 * Scratch::bytes((width + 32) * real) + Scratch::bytes(g.chroma_columns * kBlock * real) + 3 * Scratch::bytes(g.width * 8);
}

// The adjoint of upsampling along a row: `fine` (g.width samples, written beyond its ends) onto `coarse`.
template <class R>
FDJPEG_INLINE void gather_across(const Geometry& g, R* fine, R* coarse) {
  const int64_t width = g.chroma_width;
  for (int64_t x = g.width; x < width * g.horizontal; ++x) fine[x] = 0;  // cropped
  if (g.triangle_across()) {
    // At an edge a sample stands in for the neighbour that is missing.
    fine[-1] = fine[0];
    fine[2 * width] = fine[2 * width - 1];
    for (int64_t i = 0; i < width; ++i) {
      coarse[i] = R(.75) * (fine[2 * i] + fine[2 * i + 1]) + R(.25) * (fine[2 * i - 1] + fine[2 * i + 2]);
    }
  } else if (g.horizontal == 2) {
    for (int64_t i = 0; i < width; ++i) coarse[i] = fine[2 * i] + fine[2 * i + 1];
  } else if (g.horizontal == 4) {
    for (int64_t i = 0; i < width; ++i) coarse[i] = fine[4 * i] + fine[4 * i + 1] + fine[4 * i + 2] + fine[4 * i + 3];
  } else {
    for (int64_t i = 0; i < width; ++i) coarse[i] = fine[i];
  }
}

template <class R>
FDJPEG_INLINE void add_scaled(R* target, const R* source, R scale, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] += scale * source[i];
}

// The gradients of a row of MCUs' decoded samples.
template <SampleType type, class R>
FDJPEG_INLINE void gradients_of_samples(
    const RoundTripBackward& job, int64_t n, int64_t mcu_row, const McuGradients<R>& gradients, Scratch scratch) {
  using S = Sample<type>;
  using T = typename S::Stored;
  using Reals = typename S::Reals;
  const Geometry& g = job.geometry;
  const uint8_t* planes = job.planes + n * g.plane_bytes;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  const int64_t begin = mcu_row * rows, end = least(begin + rows, g.height);
  // The triangle makes the pixel rows just outside depend on chroma just inside.
  const int64_t halo = g.channels == 3 && g.triangle_down() ? 1 : 0;
  const int64_t chroma_begin = mcu_row * kBlock, chroma_end = least(chroma_begin + kBlock, g.chroma_height);

  R* fine[2];
  for (R*& line : fine) line = scratch.take<R>(width + 32) + 16;
  R* coarse = scratch.take<R>(chroma_width);
  T* gathered[3];
  for (T*& line : gathered) line = scratch.take<T>(g.width);
  std::memset(gradients.samples[0], 0, sizeof(R) * static_cast<size_t>(width * rows));
  for (int c = 1; c < g.channels; ++c) std::memset(gradients.samples[c], 0, sizeof(R) * static_cast<size_t>(chroma_width * kBlock));

  for (int64_t y = most(begin - halo, 0); y < least(end + halo, g.height); ++y) {
    const bool own = y >= begin && y < end;
    R* luma = own ? gradients.samples[0] + (y - begin) * width : nullptr;
    const T* grads[3];
    for (int c = 0; c < g.channels; ++c) grads[c] = contiguous_row(job.grad_output, n, c, y, g.width, gathered[c]);
    if (g.channels == 1) {
      const T* grey[1] = {grads[0]};
      // Grey samples are limited inside the inverse transform, which straight-through passes.
      for_each_eight<1>(grey, g.width, g.width, [&](const T* const at[1], int64_t x) {
        store(luma + x, S::load(at[0]));
      });
      for (int64_t x = g.width; x < width; ++x) luma[x] = 0;
      continue;
    }
    Scratch line_scratch = scratch;
    const PlaneLine line = plane_line(g, planes, y, line_scratch);
    for_each_eight<3>(grads, g.width, g.width, [&](const T* const at[3], int64_t x) {
      const RGB<Ints> pixel = pixels_before_clamp(line, x);
      const Reals r = masked<Reals>(S::load(at[0]), pixel.r);
      const Reals green = masked<Reals>(S::load(at[1]), pixel.g);
      const Reals b = masked<Reals>(S::load(at[2]), pixel.b);
      if (own) store(luma + x, r + green + b);
      store(fine[0] + x, splat<Reals>(kCbScale) * b - splat<Reals>(kB * kCbScale / kG) * green);
      store(fine[1] + x, splat<Reals>(kCrScale) * r - splat<Reals>(kR * kCrScale / kG) * green);
    });
    if (own) {
      for (int64_t x = g.width; x < width; ++x) luma[x] = 0;
    }
    const ChromaRows rows_of_y = chroma_rows(g, y);
    for (int c = 0; c < 2; ++c) {
      gather_across(g, fine[c], coarse);
      const auto add_to = [&](int64_t chroma_row, R weight) {
        if (chroma_row < chroma_begin || chroma_row >= chroma_end) return;
        add_scaled(gradients.samples[c + 1] + (chroma_row - chroma_begin) * chroma_width, coarse, weight, g.chroma_width);
      };
      add_to(rows_of_y.near, g.triangle_down() ? R(.75) : R(1));
      if (g.triangle_down()) add_to(rows_of_y.far, R(.25));
    }
  }
}

// The gradient of the pixels from that of the samples: the adjoint of subsampling, of the edges' replication, of colour.
template <SampleType type, class R>
FDJPEG_INLINE void gradients_of_pixels(
    const RoundTripBackward& job, int64_t n, int64_t mcu_row, const McuGradients<R>& gradients, Scratch scratch) {
  using S = Sample<type>;
  using T = typename S::Stored;
  using Reals = typename S::Reals;
  const Geometry& g = job.geometry;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  const int64_t begin = mcu_row * rows, end = least(begin + rows, g.height);
  const auto store_real = [](T* target, Reals x) FDJPEG_LAMBDA_INLINE { S::store(target, x); };
  const bool direct = job.grad_input.stride[3] == 1;
  const uint8_t* flags = job.planes + n * g.plane_bytes + g.flag_offset + mcu_row * g.mcu_columns;
  bool may_hold_nan = false;
  for (int64_t i = 0; i < g.mcu_columns; ++i) may_hold_nan |= flags[i] != 0;

  R* fine[2];
  for (R*& line : fine) line = scratch.take<R>(width + 32) + 16;
  scratch.take<R>(chroma_width);
  T* staged[3];
  for (T*& line : staged) line = scratch.take<T>(g.width + kLanes);

  for (int64_t y = begin; y < end; ++y) {
    const R* luma = gradients.samples[0] + (y - begin) * width;
    T* target[3];
    for (int c = 0; c < g.channels; ++c) target[c] = direct ? row_of<T>(job.grad_input, n, c, y) : staged[c];
    if (g.channels == 3) {
      // The last row and column also stand for the replicas that subsampling averaged.
      const int64_t chroma_row = y / g.vertical;
      const int64_t copies_down = y == g.height - 1 ? 1 + g.chroma_height * g.vertical - g.height : 1;
      const R weight = R(copies_down) / R(g.horizontal * g.vertical);
      const int64_t copies_across = 1 + g.chroma_width * g.horizontal - g.width;
      for (int c = 0; c < 2; ++c) {
        const R* coarse = gradients.samples[c + 1] + (chroma_row - mcu_row * kBlock) * chroma_width;
        if (g.horizontal == 1) {
          for (int64_t x = 0; x < g.width; ++x) fine[c][x] = weight * coarse[x];
        } else if (g.horizontal == 2) {
          for (int64_t i = 0; i < g.chroma_width; ++i) fine[c][2 * i] = fine[c][2 * i + 1] = weight * coarse[i];
        } else {
          for (int64_t x = 0; x < g.chroma_width * g.horizontal; ++x) fine[c][x] = weight * coarse[x / g.horizontal];
        }
        fine[c][g.width - 1] *= R(copies_across);
      }
    }
    for (int64_t x = 0; x < g.width; x += kLanes) {
      const int64_t count = g.width - x;
      const Reals dy = load<Reals>(luma + x);
      if (g.channels == 1) {
        store_some<type>(target[0] + x, dy, count, store_real);
        continue;
      }
      const Reals cb = load<Reals>(fine[0] + x), cr = load<Reals>(fine[1] + x);
      const Reals r = splat<Reals>(kR) * dy - splat<Reals>(kR / kCbScale) * cb + splat<Reals>(.5) * cr;
      const Reals green = splat<Reals>(kG) * dy - splat<Reals>(kG / kCbScale) * cb - splat<Reals>(kG / kCrScale) * cr;
      const Reals b = splat<Reals>(kB) * dy + splat<Reals>(.5) * cb - splat<Reals>(kB / kCrScale) * cr;
      store_some<type>(target[0] + x, r, count, store_real);
      store_some<type>(target[1] + x, green, count, store_real);
      store_some<type>(target[2] + x, b, count, store_real);
    }
    for (int c = 0; c < g.channels; ++c) {
      if (may_hold_nan) {
        const T* input = row_of<const T>(job.input, n, c, y);
        for (int64_t x = 0; x < g.width; ++x) {
          const T sample[kLanes] = {input[x * job.input.stride[3]]};
          const Reals value = S::load(sample);
          if (value[0] != value[0]) target[c][x] = T{};
        }
      }
      if (!direct) scatter_row(staged[c], row_of<T>(job.grad_input, n, c, y), job.grad_input.stride[3], g.width);
    }
  }
}

// Row v of the orthonormal DCT's matrix, repeated in lanes: kCosines[v][y] = c_v cos((2 y + 1) v π / 16) / 2.
struct Cosines {
  float value[kBlock][kBlock];
};

FDJPEG_INLINE Cosines orthonormal_cosines() {
  Cosines cosines;
  for (int v = 0; v < kBlock; ++v) {
    for (int y = 0; y < kBlock; ++y) {
      cosines.value[v][y] = static_cast<float>(std::cos((2 * y + 1) * v * M_PI / 16) * (v == 0 ? std::sqrt(.125) : .5));
    }
  }
  return cosines;
}

FDJPEG_INLINE void orthonormal_pass(const Cosines& cosines, Floats x[8]) {
  Floats sum[8];
  for (int v = 0; v < kBlock; ++v) {
    sum[v] = Floats{};
    for (int y = 0; y < kBlock; ++y) sum[v] += cosines.value[v][y] * x[y];
  }
  for (int v = 0; v < kBlock; ++v) x[v] = sum[v];
}

// Eight of a component's gradients as floats.
FDJPEG_INLINE Floats load_floats(const float* source) {
  return load<Floats>(source);
}
FDJPEG_INLINE Floats load_floats(const double* source) {
  return __builtin_convertvector(load<Doubles>(source), Floats);
}

// This row's share of the tables' gradient: Σ g (k - c) over its blocks, for an image in [0, 1].
template <class R>
FDJPEG_INLINE void gradients_of_tables(
    const RoundTripBackward& job, int64_t n, int64_t mcu_row, const McuGradients<R>& gradients, Scratch scratch) {
  const Geometry& g = job.geometry;
  McuRow row;
  read_mcu_row(g, job.input, n, mcu_row, row, scratch);
  const Cosines cosines = orthonormal_cosines();
  float* partial = job.table_partials + (n * g.mcu_rows + mcu_row) * 3 * kBlockSize;
  std::memset(partial, 0, sizeof(float) * 3 * kBlockSize);
  for_each_block(g, job.steps, n, mcu_row, row,
      [&](int c, const Component& component, const LaneTable& table, const uint8_t* samples, int64_t stride, int64_t,
          int64_t) FDJPEG_LAMBDA_INLINE {
        Ints x[8];
        load_block(samples, stride, x);
        fdct(x);
        const R* gradient = gradients.samples[c] + (samples - row.samples[c]);
        (void)component;
        Floats y[8];
        for (int i = 0; i < kBlock; ++i) y[i] = load_floats(gradient + i * stride);
        orthonormal_pass(cosines, y);
        transpose(y);
        orthonormal_pass(cosines, y);
        transpose(y);
        for (int i = 0; i < kBlock; ++i) {
          const Floats k = __builtin_convertvector(quantize(x[i], table.reciprocal[i]), Floats);
          const Floats position = __builtin_convertvector(x[i], Floats) * table.reciprocal[i];
          float* sum = partial + c * kBlockSize + i * kBlock;
          store(sum, load<Floats>(sum) + y[i] * (k - position) * (1.0f / kMaxSample));
        }
      });
}

template <SampleType type, class R>
FDJPEG_INLINE void backward_row_as(const RoundTripBackward& job, int64_t n, int64_t mcu_row, void* memory) {
  const Geometry& g = job.geometry;
  Scratch scratch(memory);
  McuGradients<R> gradients{};
  gradients.samples[0] = scratch.take<R>(padded_width(g) * kBlock * g.vertical);
  for (int c = 1; c < g.channels; ++c) gradients.samples[c] = scratch.take<R>(g.chroma_columns * kBlockSize);
  gradients_of_samples<type, R>(job, n, mcu_row, gradients, scratch);
  if (job.table_partials != nullptr) gradients_of_tables<R>(job, n, mcu_row, gradients, scratch);
  gradients_of_pixels<type, R>(job, n, mcu_row, gradients, scratch);
}

void backward_row(const RoundTripBackward& job, int64_t n, int64_t mcu_row, void* memory) {
  switch (job.grad_output.type) {
    case SampleType::uint8:
      return;  // bytes carry no gradient
    case SampleType::float16:
      return backward_row_as<SampleType::float16, float>(job, n, mcu_row, memory);
    case SampleType::bfloat16:
      return backward_row_as<SampleType::bfloat16, float>(job, n, mcu_row, memory);
    case SampleType::float32:
      return backward_row_as<SampleType::float32, float>(job, n, mcu_row, memory);
    case SampleType::float64:
      return backward_row_as<SampleType::float64, double>(job, n, mcu_row, memory);
  }
}

int64_t scratch_bytes(const Geometry& g) {
  return mcu_row_scratch(g) + chroma_line_scratch(g) + gradient_scratch<double>(g);
}

}  // namespace

#define FDJPEG_KERNELS(isa) {isa, scratch_bytes, code_row, emit_row, backward_row, encode_row, decode_row}

}  // namespace fdjpeg
