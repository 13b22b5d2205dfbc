// From pixels to the decoded samples of a row of MCUs, or to its coefficients, and from those to samples.
//
// Part of exact_table.h, which describes how it is compiled.
#pragma once

#include "cpu/block_lanes.h"
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
// From pixels to the samples of a row of MCUs

// The components of a row of MCUs before the transform, at their coded width: rows of tiles, one below the other.
struct McuRow {
  uint8_t* tiles[3];
  int64_t row_bytes[3];  // of a row of tiles
};

// Samples of a line of Cb or Cr at full resolution, as far as tiles reach.
FDJPEG_INLINE int64_t chroma_line_length(const Geometry& g) {
  return tiles_across(g.chroma_columns * kBlock) * kLanes * g.horizontal;
}

FDJPEG_INLINE int64_t mcu_row_scratch(const Geometry& g) {
  const int64_t luma = tiles_across(padded_width(g)), chroma = tiles_across(g.chroma_columns * kBlock);
  constexpr int64_t kShort = sizeof(int16_t), kLongest = sizeof(double);
  return Scratch::bytes(luma * kTileBytes * g.vertical) + 2 * Scratch::bytes(chroma * kTileBytes) +
      4 * Scratch::bytes(chroma_line_length(g) * kShort) + 2 * Scratch::bytes(chroma * kLanes * kShort) +
      3 * kTileRows * Scratch::bytes(g.width * kLongest);
}

// Cb or Cr of two pixel rows on their way to tiles: a line of each row, or of their sums if subsampling averages rows.
struct ChromaLines {
  int16_t *fine[2], *kept;  // `kept` is the last row of chroma, of which a tile wants two

  // Puts rows of chroma from pixel rows `row` and row + 1 of a row of MCUs into tiles. Below the last row that exists
  // it is repeated.
  FDJPEG_INLINE void to_tiles(const Geometry& g, int64_t mcu_row, int row, uint8_t* tiles) const {
    const int64_t width = g.chroma_columns * kBlock;
    if (g.vertical == 1) {
      for (int64_t x = 0; x < width; x += kLanes) {
        store(tile_rows(tiles, x, row), pack_rows(averaged(g, fine[0], x), averaged(g, fine[1], x)));
      }
      return;
    }
    const int line = row / 2;
    const bool exists = mcu_row * kBlock + line < g.chroma_height;
    for (int64_t x = 0; x < width; x += kLanes) {
      const Shorts last = load<Shorts>(kept + x), next = exists ? averaged(g, fine[0], x) : last;
      if (line % 2 != 0) store(tile_rows(tiles, x, line), pack_rows(last, next));
      store(kept + x, next);
    }
  }
};

constexpr int64_t kCacheLine = 64;  // bytes

// Reads the pixel rows of a row of MCUs into its components. Returns whether any sample is NaN or above 1.
template <SampleType type, int channels>
FDJPEG_INLINE bool read_mcu_row(
    const Geometry& g, const Image& input, int64_t n, int64_t mcu_row, McuRow& row, Scratch scratch) {
  using S = Sample<type>;
  using T = typename S::Stored;
  const int64_t width = padded_width(g), chroma_width = g.chroma_columns * kBlock;
  const int rows = kBlock * g.vertical;
  for (int c = 0; c < 3; ++c) row.row_bytes[c] = tiles_across(c == 0 ? width : chroma_width) * kTileBytes;
  row.tiles[0] = scratch.take<uint8_t>(row.row_bytes[0] * g.vertical);
  ChromaLines chroma[2];
  for (int c = 1; c < channels; ++c) {
    row.tiles[c] = scratch.take<uint8_t>(row.row_bytes[c]);
    for (int16_t*& line : chroma[c - 1].fine) line = scratch.take<int16_t>(chroma_line_length(g));
    chroma[c - 1].kept = scratch.take<int16_t>(tiles_across(chroma_width) * kLanes);
  }
  T* gathered[kTileRows][channels];
  for (auto& lines : gathered) {
    for (T*& line : lines) line = scratch.take<T>(g.width);
  }

  OddSamples odd;
  for (int i = 0; i < rows; i += kTileRows) {
    const T* pixels[kTileRows * channels];
    for (int j = 0; j < kTileRows; ++j) {
      const int64_t y = least(mcu_row * rows + i + j, g.height - 1);
      gather_row<channels>(input, n, y, g.width, gathered[j], pixels + j * channels);
    }
    uint8_t* const luma = row.tiles[0] + i / kBlock * row.row_bytes[0];
    for_each_step<kTileRows * channels, kLanes>(
        pixels, g.width, width, [&](const T* const* at, int64_t x) FDJPEG_LAMBDA_INLINE {
          // A row of bytes ends before the processor has seen where it leads, so the next ones are asked for.
          if (sizeof(T) == 1 && x % kCacheLine == 0) {
            const uintptr_t distance = static_cast<uintptr_t>(kTileRows * input.stride[2]);
            for (int j = 0; j < kTileRows * channels; ++j) {
              __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at[j]) + distance));
            }
          }
          uint8_t* const target = tile_rows(luma, x, i % kBlock);
          if constexpr (channels == 1) {
            const Shorts above = S::load_bytes(at[0], odd), below = S::load_bytes(at[1], odd);
            store(target, pack_rows(above, below));
          } else {
            const auto colour = [&](const T* const* sample) FDJPEG_LAMBDA_INLINE {
              const Shorts first = S::load_bytes(sample[0], odd), second = S::load_bytes(sample[1], odd);
              return rgb_to_ycbcr(first, second, S::load_bytes(sample[2], odd));
            };
            const YCbCr<Shorts> above = colour(at), below = colour(at + channels);
            store(target, pack_rows(above.y, below.y));
            if (g.vertical == 2) {
              store(chroma[0].fine[0] + x, above.cb + below.cb);
              store(chroma[1].fine[0] + x, above.cr + below.cr);
            } else {
              store(chroma[0].fine[0] + x, above.cb);
              store(chroma[0].fine[1] + x, below.cb);
              store(chroma[1].fine[0] + x, above.cr);
              store(chroma[1].fine[1] + x, below.cr);
            }
          }
        });
    for (int c = 1; c < channels; ++c) chroma[c - 1].to_tiles(g, mcu_row, i, row.tiles[c]);
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
  int row;                           // the row of blocks within the row of MCUs
  const uint8_t* tile;
};

// Calls body(group, its component) for each tile of a row of MCUs.
template <class Body>
FDJPEG_INLINE void for_each_group(const Geometry& g, int64_t mcu_row, const McuRow& row, Body body) {
  for (int c = 0; c < g.channels; ++c) {
    const Component component = component_of(g, c);
    for (int v = 0; v < component.vertical; ++v) {
      const int64_t block_row = mcu_row * component.vertical + v;
      if (block_row >= component.rows) break;
      const uint8_t* tile = row.tiles[c] + v * row.row_bytes[c];
      for (int64_t column = 0; column < component.columns; column += kBlocks, tile += kTileBytes) {
        body(BlockGroup{c, block_row, column, component.columns - column, v, tile}, component);
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
  for_each_group(g, mcu_row, row, [&](const BlockGroup& group, const Component& component) FDJPEG_LAMBDA_INLINE {
    const auto& tables = tables_of(group);
    Shorts x[8];
    fdct(group.tile, x);
    for (int i = 0; i < kBlock; ++i) x[i] = quantize_row(x[i], tables, i) * tables.scaled_step(i);
    uint8_t* target = planes + component.offset + (group.block_row * component.stride() + group.column) * kBlock;
    idct(x, target, component.stride(), group.count);
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
  for_each_group(g, mcu_row, row, [&](const BlockGroup& group, const Component& component) FDJPEG_LAMBDA_INLINE {
    const SharedTable& table = shared.component[group.component];
    Shorts x[8];
    fdct(group.tile, x);
    for (int i = 0; i < kBlock; ++i) x[i] = in_natural_order(quantize_row(x[i], table, i));
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
        idct_pass<true>(x);
        transpose(x);
        idct_pass<false>(x);
        transpose(x);
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
