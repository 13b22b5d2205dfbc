// From pixels to the decoded samples of a row of MCUs, or to its coefficients, and from those to samples.
//
// Part of exact_table.h, which describes how it is compiled.
#pragma once

#include "cpu/exact_kernels.h"
#include "cpu/image_rows.h"
#include "cpu/resampling.h"
#include "cpu/sample_lanes.h"

namespace fdjpeg {
namespace {

struct Component {
  int64_t offset, rows, columns;  // in the planes; in blocks
  int vertical;                   // rows of its blocks in a row of MCUs
  int64_t stride() const {
    return columns * kBlock;
  }
};

FDJPEG_INLINE Component component_of(const Geometry& g, int index) {
  if (index == 0) return {0, g.luma_rows, g.luma_columns, g.vertical};
  return {index == 1 ? g.cb_offset : g.cr_offset, g.chroma_rows, g.chroma_columns, 1};
}

// ---------------------------------------------------------------------------------------------------------------------
// Blocks: x[i] is row i of kBlocks blocks side by side

// One table for all blocks.
struct SharedTable {
  Shorts steps[kBlock], halves[kBlock], reciprocals[kBlock], scales[kBlock];

  explicit SharedTable(const StepTables::Table& table) {
    for (int i = 0; i < kBlock; ++i) {
      steps[i] = repeat(load<EightShorts>(table.step + i * kBlock));
      halves[i] = repeat(load<EightShorts>(table.half + i * kBlock));
      reciprocals[i] = repeat(load<EightShorts>(table.reciprocal + i * kBlock));
      scales[i] = repeat(load<EightShorts>(table.scale + i * kBlock));
    }
  }
  FDJPEG_INLINE Shorts step(int i) const {
    return steps[i];
  }
  FDJPEG_INLINE Shorts half(int i) const {
    return halves[i];
  }
  FDJPEG_INLINE Shorts reciprocal(int i) const {
    return reciprocals[i];
  }
  FDJPEG_INLINE Shorts scale(int i) const {
    return scales[i];
  }
};

// An image's tables, one for each component.
struct SharedTables {
  SharedTable component[3];

  explicit SharedTables(const StepTables& tables)
      : component{
            SharedTable(tables.component[0]), SharedTable(tables.component[1]), SharedTable(tables.component[2])} {}
};

// A table for each of the blocks.
struct TableOfEachBlock {
  const StepTables::Table* tables[kBlocks];

  FDJPEG_INLINE Shorts step(int i) const {
    return row(&StepTables::Table::step, i);
  }
  FDJPEG_INLINE Shorts half(int i) const {
    return row(&StepTables::Table::half, i);
  }
  FDJPEG_INLINE Shorts reciprocal(int i) const {
    return row(&StepTables::Table::reciprocal, i);
  }
  FDJPEG_INLINE Shorts scale(int i) const {
    return row(&StepTables::Table::scale, i);
  }

 private:
  template <class T>
  FDJPEG_INLINE Shorts row(T StepTables::Table::* member, int i) const {
    EightShorts rows[kBlocks];
    for (int b = 0; b < kBlocks; ++b) rows[b] = load<EightShorts>(tables[b]->*member + i * kBlock);
    return load<Shorts>(rows);
  }
};

// The level of each coefficient of row i.
template <class Tables>
FDJPEG_INLINE Shorts quantize_row(Shorts c, const Tables& tables, int i) {
  const Shorts n = magnitude(c) + tables.half(i);
  return with_sign_of(multiply_high_unsigned(multiply_high_unsigned(n, tables.reciprocal(i)), tables.scale(i)), c);
}

FDJPEG_INLINE void load_blocks(const uint8_t* samples, int64_t stride, Shorts x[8]) {
  for (int i = 0; i < kBlock; ++i) x[i] = load_bytes(samples + i * stride) - kLevelShift;
}

FDJPEG_INLINE void store_blocks(uint8_t* samples, int64_t stride, int64_t count, const Shorts x[8]) {
  for (int i = 0; i < kBlock; ++i) {
    const Bytes bytes = pack_bytes_saturating(x[i] + kLevelShift);
    if (count >= kBlocks) {
      store(samples + i * stride, bytes);
    } else {
      std::memcpy(samples + i * stride, &bytes, static_cast<size_t>(count * kBlock));
    }
  }
}

template <class I>
FDJPEG_INLINE void fdct(I x[8]) {
  transpose(x);
  fdct_pass<true>(x);
  transpose(x);
  fdct_pass<false>(x);
}

template <class I>
FDJPEG_INLINE void idct(I x[8]) {
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
      4 * Scratch::bytes(width) + 3 * Scratch::bytes(g.width * 8);
}

// Reads the pixel rows of a row of MCUs into its components. Returns whether any sample is NaN or above 1.
template <SampleType type, int channels>
FDJPEG_INLINE bool read_mcu_row(
    const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, McuRow& row, Scratch scratch) {
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
  T* gathered[channels];
  for (T*& line : gathered) line = scratch.take<T>(g.width);

  OddSamples odd;
  const int64_t top = mcu_row * rows;
  for (int i = 0; i < rows; ++i) {
    uint8_t* const luma = row.samples[0] + i * width;
    const int64_t y = top + i;
    const int chroma_line = i / g.vertical, part = i % g.vertical;
    if (y < g.height) {
      const T* pixels[channels];
      gather_row<channels>(input, n, y, g.width, gathered, pixels);
      uint8_t* const cb = full[0][part];
      uint8_t* const cr = full[1][part];
      for_each_step<channels, kLanes>(pixels, g.width, width, [&](const T* const* at, int64_t x) FDJPEG_LAMBDA_INLINE {
        const Shorts first = S::load_bytes(at[0], odd);
        if constexpr (channels == 1) {
          store_bytes(luma + x, first);
        } else {
          const Shorts second = S::load_bytes(at[1], odd), third = S::load_bytes(at[2], odd);
          const YCbCr<Shorts> colour = rgb_to_ycbcr(first, second, third);
          store_bytes(luma + x, colour.y);
          store_bytes(cb + x, colour.cb);
          store_bytes(cr + x, colour.cr);
        }
      });
    } else {
      std::memcpy(luma, luma - width, static_cast<size_t>(width));
    }
    if (channels == 1 || part != g.vertical - 1) continue;
    // A row of chroma that exists averages replicated pixel rows; one beyond the edge repeats the row above it.
    for (int c = 0; c < 2; ++c) {
      uint8_t* line = row.samples[c + 1] + chroma_line * chroma_width;
      if (mcu_row * kBlock + chroma_line < g.chroma_height) {
        average_row(g, full[c][0], full[c][y < g.height ? part : 0], line);
      } else {
        std::memcpy(line, line - chroma_width, static_cast<size_t>(chroma_width));
      }
    }
  }
  return odd.any();
}

bool read_mcu_row(const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, McuRow& row, Scratch scratch) {
  bool odd = false;
  with_type_and_channels(input.type, g.channels, [&]<SampleType type, int channels>() {
    odd = read_mcu_row<type, channels>(g, input, n, mcu_row, row, scratch);
  });
  return odd;
}

// Some blocks side by side within a row of MCUs.
struct BlockGroup {
  int component;
  int64_t block_row, column, count;  // in the component; `count` is how many of them are inside it
  const uint8_t* samples;
  int64_t stride;  // of the samples
};

// Calls body(group, its component) for each group of `step` blocks of a row of MCUs.
template <int step, class Body>
FDJPEG_INLINE void for_each_group(const Geometry& g, int64_t mcu_row, const McuRow& row, Body body) {
  for (int c = 0; c < g.channels; ++c) {
    const Component component = component_of(g, c);
    const int64_t stride = c == 0 ? padded_width(g) : component.stride();
    for (int v = 0; v < component.vertical; ++v) {
      const int64_t block_row = mcu_row * component.vertical + v;
      if (block_row >= component.rows) break;
      const uint8_t* samples = row.samples[c] + v * kBlock * stride;
      for (int64_t column = 0; column < component.columns; column += step) {
        body(
            BlockGroup{c, block_row, column, component.columns - column, samples + column * kBlock, stride}, component);
      }
    }
  }
}

// Calls tables_of(group) for what quantizes a group's blocks.
template <class TablesOf>
FDJPEG_INLINE void code_row_with(
    const RoundTrip& job, int64_t n, int64_t mcu_row, void* memory, const TablesOf& tables_of) {
  const Geometry& g = job.geometry;
  McuRow row;
  const bool odd = read_mcu_row(g, job.input, n, mcu_row, row, Scratch(memory));
  uint8_t* planes = job.planes + n * g.plane_bytes;
  std::memset(planes + g.flag_offset + mcu_row * g.mcu_columns, odd, static_cast<size_t>(g.mcu_columns));
  if (mcu_row == g.mcu_rows - 1) {
    const int64_t end = g.flag_offset + g.mcu_rows * g.mcu_columns;
    std::memset(planes + end, 0, static_cast<size_t>(g.plane_bytes - end));
  }
  for_each_group<kBlocks>(
      g, mcu_row, row, [&](const BlockGroup& group, const Component& component) FDJPEG_LAMBDA_INLINE {
        const auto& tables = tables_of(group);
        Shorts x[8];
        load_blocks(group.samples, group.stride, x);
        fdct(x);
        for (int i = 0; i < kBlock; ++i) x[i] = quantize_row(x[i], tables, i) * tables.step(i);
        idct(x);
        uint8_t* target = planes + component.offset + (group.block_row * component.stride() + group.column) * kBlock;
        store_blocks(target, component.stride(), group.count, x);
      });
}

void code_row(const RoundTrip& job, const StepTables& tables, int64_t n, int64_t mcu_row, void* memory) {
  const SharedTables shared(tables);
  code_row_with(job, n, mcu_row, memory, [&](const BlockGroup& group) FDJPEG_LAMBDA_INLINE -> const SharedTable& {
    return shared.component[group.component];
  });
}

void code_row_by_block(const RoundTrip& job, const StepTables* palette, int64_t n, int64_t mcu_row, void* memory) {
  const Geometry& g = job.geometry;
  const uint8_t* qualities = job.steps.qualities + n * g.luma_rows * g.luma_columns;
  code_row_with(job, n, mcu_row, memory, [&](const BlockGroup& group) FDJPEG_LAMBDA_INLINE {
    const int across = group.component == 0 ? 1 : g.horizontal, down = group.component == 0 ? 1 : g.vertical;
    const uint8_t* row = qualities + group.block_row * down * g.luma_columns;
    TableOfEachBlock tables;
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t column = group.column + least(b, group.count - 1);
      const int quality = clamp(static_cast<int>(row[column * across]), 1, kMaxQuality);
      tables.tables[b] = &palette[quality].component[group.component];
    }
    return tables;
  });
}

void encode_row(const Encode& job, const StepTables& tables, int64_t n, int64_t mcu_row, void* memory) {
  const Geometry& g = job.geometry;
  McuRow row;
  read_mcu_row(g, job.input, n, mcu_row, row, Scratch(memory));
  const SharedTables shared(tables);
  for_each_group<kBlocks>(
      g, mcu_row, row, [&](const BlockGroup& group, const Component& component) FDJPEG_LAMBDA_INLINE {
        const SharedTable& table = shared.component[group.component];
        Shorts x[8];
        load_blocks(group.samples, group.stride, x);
        fdct(x);
        for (int i = 0; i < kBlock; ++i) x[i] = quantize_row(x[i], table, i);
        const int64_t first = (n * component.rows + group.block_row) * component.columns + group.column;
        int16_t* target = job.coefficients[group.component] + first * kBlockSize;
        for (int b = 0; b < least(group.count, kBlocks); ++b) {
          for (int i = 0; i < kBlock; ++i) {
            std::memcpy(target + b * kBlockSize + i * kBlock, reinterpret_cast<const char*>(&x[i]) + 16 * b, 16);
          }
        }
      });
}

void decode_row(const Decode& job, const StepTables& tables, int64_t n, int64_t mcu_row, void*) {
  const Geometry& g = job.geometry;
  uint8_t* planes = job.planes + n * g.plane_bytes;
  for (int c = 0; c < g.channels; ++c) {
    const Component component = component_of(g, c);
    for (int v = 0; v < component.vertical; ++v) {
      const int64_t block_row = mcu_row * component.vertical + v;
      if (block_row >= component.rows) break;
      const int16_t* source = job.coefficients[c] + (n * component.rows + block_row) * component.columns * kBlockSize;
      uint8_t* target = planes + component.offset + block_row * component.stride() * kBlock;
      for (int64_t column = 0; column < component.columns; ++column) {
        Eights x[8];
        for (int i = 0; i < kBlock; ++i) {
          const Eights k =
              __builtin_convertvector(load<EightShorts>(source + column * kBlockSize + i * kBlock), Eights);
          const EightShorts step = load<EightShorts>(tables.component[c].step + i * kBlock);
          x[i] = dequantize_saturating(k, __builtin_convertvector(step, Eights));
        }
        idct(x);
        for (int i = 0; i < kBlock; ++i) {
          const Eights samples = clamp(x[i] + kLevelShift, 0, kMaxSample);
          store(target + column * kBlock + i * component.stride(), __builtin_convertvector(samples, EightBytes));
        }
      }
    }
  }
}

}  // namespace
}  // namespace fdjpeg
