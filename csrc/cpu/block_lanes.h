// Blocks in lanes of 16 bits: from tiles of bytes to coefficients, their levels, and back to samples.
//
// Bytes are transposed rather than lanes twice as wide, and between two passes pairs of lanes are: a pass wants its
// operands in pairs anyway.
//
// Part of exact_table.h, which describes how it is compiled.
#pragma once

#include "cpu/exact_kernels.h"
#include "cpu/image_rows.h"
#include "cpu/lanes.h"

namespace fdjpeg {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Tiles: kBlocks blocks of samples side by side, a register for each two rows, with both rows of a block in 128 bits

constexpr int kTileRows = 2;  // of samples in a register
constexpr int kTileBytes = kBlocks * kBlockSize;

// Tiles that cover a row of `width` samples of blocks.
FDJPEG_INLINE int64_t tiles_across(int64_t width) {
  return (width + kLanes - 1) / kLanes;
}

// Two rows of samples from column x on, in a row of tiles.
template <class Byte>
FDJPEG_INLINE Byte* tile_rows(Byte* tiles, int64_t x, int64_t row) {
  return tiles + x / kLanes * kTileBytes + row / kTileRows * kLanes * kTileRows;
}

// ---------------------------------------------------------------------------------------------------------------------
// The order of columns: x[i] is row i of the coefficients of kBlocks blocks, and this is the place of each lane's
// column within its block, chosen so that the inverse transform finds its pairs side by side

#if FDJPEG_VECTOR_BYTES > 16

constexpr int kColumnAt[kBlock] = {0, 2, 7, 1, 4, 6, 5, 3};
constexpr int kPlaceOf[kBlock] = {0, 3, 1, 7, 4, 6, 5, 2};

FDJPEG_INLINE Shorts shuffle_lanes(Shorts x, const int (&from)[kBlock]) {
  int8_t bytes[2 * kBlock] = {};
  for (int i = 0; i < 2 * kBlock; ++i) bytes[i] = static_cast<int8_t>(2 * from[i / 2] + i % 2);
  return shuffle_bytes(x, sixteen_bytes(bytes));
}
FDJPEG_INLINE Shorts in_lane_order(Shorts row) {
  return shuffle_lanes(row, kColumnAt);
}
FDJPEG_INLINE Shorts in_natural_order(Shorts row) {
  return shuffle_lanes(row, kPlaceOf);
}

#else

FDJPEG_INLINE Shorts in_lane_order(Shorts row) {
  return row;
}
FDJPEG_INLINE Shorts in_natural_order(Shorts row) {
  return row;
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Quantization

// One table for all blocks.
struct SharedTable {
  Shorts scaled_steps[kBlock], halves[kBlock], reciprocals[kBlock], scales[kBlock];

  explicit SharedTable(const StepTables::Table& table) {
    const auto row = [](const auto* values)
                         FDJPEG_LAMBDA_INLINE { return in_lane_order(repeat(load<EightShorts>(values))); };
    for (int i = 0; i < kBlock; ++i) {
      scaled_steps[i] = row(table.step + i * kBlock) << Lane<Shorts>::kInputBits;
      halves[i] = row(table.half + i * kBlock);
      reciprocals[i] = row(table.reciprocal + i * kBlock);
      scales[i] = row(table.scale + i * kBlock);
    }
  }
  FDJPEG_INLINE Shorts scaled_step(int i) const {
    return scaled_steps[i];
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

  FDJPEG_INLINE Shorts scaled_step(int i) const {
    return row(&StepTables::Table::step, i) << Lane<Shorts>::kInputBits;
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
    return in_lane_order(load<Shorts>(rows));
  }
};

// The level of each coefficient of row i.
template <class Tables>
FDJPEG_INLINE Shorts quantize_row(Shorts c, const Tables& tables, int i) {
  const Shorts n = magnitude(c) + tables.half(i);
  return with_sign_of(multiply_high_unsigned(multiply_high_unsigned(n, tables.reciprocal(i)), tables.scale(i)), c);
}

// ---------------------------------------------------------------------------------------------------------------------
// What a pass works on, from what the one before it made

#if FDJPEG_VECTOR_BYTES > 16

// The sums and differences across the rows of a tile. Where the result of a pass is narrowed, its lanes are rows in the
// order 0 1, 7 6, 3 2, 4 5.
FDJPEG_INLINE Butterflies<Shorts> across_rows(const uint8_t* tile) {
  // Of each row the samples 0 7 1 6, and 3 4 2 5.
  constexpr int8_t kFirstRowFirst[16] = {0, 7, 1, 6, 8, 15, 9, 14, 3, 4, 2, 5, 11, 12, 10, 13};
  constexpr int8_t kSecondRowFirst[16] = {8, 15, 9, 14, 0, 7, 1, 6, 11, 12, 10, 13, 3, 4, 2, 5};
  const auto rows = [&](int i, const int8_t (&places)[16]) FDJPEG_LAMBDA_INLINE {
    return shuffle_bytes(load<Shorts>(tile_rows(tile, 0, i)), sixteen_bytes(places));
  };
  const Shorts r01 = rows(0, kFirstRowFirst), r32 = rows(2, kSecondRowFirst);
  const Shorts r45 = rows(4, kFirstRowFirst), r76 = rows(6, kSecondRowFirst);
  const Shorts outer_a = interleave_low32(r01, r76), outer_b = interleave_low32(r32, r45);
  const Shorts inner_a = interleave_high32(r01, r76), inner_b = interleave_high32(r32, r45);
  const Pair<Shorts> outer{interleave_low64(outer_a, outer_b), interleave_high64(outer_a, outer_b)};
  const Pair<Shorts> inner{interleave_low64(inner_a, inner_b), interleave_high64(inner_a, inner_b)};
  constexpr int kOne = 1 << Lane<Shorts>::kInputBits;
  const auto weighed = [](const Pair<Shorts>& samples, int sign) FDJPEG_LAMBDA_INLINE {
    const Shorts weights = Lane<Shorts>::all(kOne | (sign * kOne) << 8);
    return Pair<Shorts>{weigh_bytes(samples.first, weights), weigh_bytes(samples.second, weights)};
  };
  return {weighed(outer, 1), weighed(outer, -1), weighed(inner, 1), weighed(inner, -1)};
}

// The pairs of lanes of four registers, transposed: pair j of each is in result j.
struct FourRegisters {
  Shorts of_pair[4];
};

FDJPEG_INLINE FourRegisters transpose_pairs(Shorts a, Shorts b, Shorts c, Shorts d) {
  const Shorts low_ab = interleave_low32(a, b), high_ab = interleave_high32(a, b);
  const Shorts low_cd = interleave_low32(c, d), high_cd = interleave_high32(c, d);
  return {
      {interleave_low64(low_ab, low_cd), interleave_high64(low_ab, low_cd), interleave_low64(high_ab, high_cd),
       interleave_high64(high_ab, high_cd)}};
}

// The sums and differences down the columns, from what across_rows() became; they are in the order kColumnAt.
FDJPEG_INLINE Butterflies<Shorts> down_columns(const Shorts x[8]) {
  const auto even = transpose_pairs(x[kColumnAt[0]], x[kColumnAt[2]], x[kColumnAt[4]], x[kColumnAt[6]]).of_pair;
  const auto odd = transpose_pairs(x[kColumnAt[1]], x[kColumnAt[3]], x[kColumnAt[5]], x[kColumnAt[7]]).of_pair;
  return butterflies<Shorts>({even[0], odd[0]}, {even[1], odd[1]}, {even[2], odd[2]}, {even[3], odd[3]});
}

// The pairs of coefficients of each column.
FDJPEG_INLINE CoefficientPairs<Shorts> pairs_of_columns(const Shorts x[8]) {
  const auto pair = [&](int i, int j) FDJPEG_LAMBDA_INLINE {
    return Pair<Shorts>{interleave_low16(x[i], x[j]), interleave_high16(x[i], x[j])};
  };
  return {pair(0, 4), pair(2, 6), pair(7, 5), pair(1, 3)};
}

// The pairs of each row, from what pairs_of_columns() became: narrowed, its lanes are the columns 0 4, 2 6, 7 5, 1 3.
FDJPEG_INLINE CoefficientPairs<Shorts> pairs_of_rows(const Shorts x[8]) {
  const auto even = transpose_pairs(x[0], x[2], x[4], x[6]).of_pair;
  const auto odd = transpose_pairs(x[1], x[3], x[5], x[7]).of_pair;
  return {{even[0], odd[0]}, {even[1], odd[1]}, {even[2], odd[2]}, {even[3], odd[3]}};
}

// Columns of samples without the level shift, as rows of bytes: calls keep(row, both rows of a block in 128 bits).
template <class Keep>
FDJPEG_INLINE void bytes_of_columns(const Shorts x[8], Keep keep) {
  const auto bytes = [&](int i) FDJPEG_LAMBDA_INLINE {
    return pack_rows_signed(x[i], x[i + 4]) ^ Lane<Shorts>::all(kLevelShift | kLevelShift << 8);
  };
  const Shorts c04 = bytes(0), c15 = bytes(1), c26 = bytes(2), c37 = bytes(3);
  const Shorts c01 = interleave_low8(c04, c15), c45 = interleave_high8(c04, c15);
  const Shorts c23 = interleave_low8(c26, c37), c67 = interleave_high8(c26, c37);
  for (int i = 0; i < 2; ++i) {
    const Shorts left = i == 0 ? interleave_low16(c01, c23) : interleave_high16(c01, c23);
    const Shorts right = i == 0 ? interleave_low16(c45, c67) : interleave_high16(c45, c67);
    keep(4 * i, interleave_low32(left, right));
    keep(4 * i + 2, interleave_high32(left, right));
  }
}

// Two rows of blocks as they lie in 128 bits, each row's blocks side by side.
FDJPEG_INLINE Shorts rows_apart(Shorts x) {
#if FDJPEG_VECTOR_BYTES == 64
  return reinterpret_cast<Shorts>(
      _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), FDJPEG_X86_INT(x)));
#else
  return reinterpret_cast<Shorts>(_mm256_permute4x64_epi64(FDJPEG_X86_INT(x), 0xd8));
#endif
}

#else

FDJPEG_INLINE Butterflies<Shorts> across_rows(const uint8_t* tile) {
  Shorts x[8];
  for (int i = 0; i < kBlock; ++i) x[i] = load_bytes(tile + i * kBlock);
  transpose(x);
  return butterflies<Shorts>({x[0], x[1]}, {x[7], x[6]}, {x[3], x[2]}, {x[4], x[5]});
}

FDJPEG_INLINE Butterflies<Shorts> down_columns(Shorts x[8]) {
  transpose(x);
  return butterflies<Shorts>({x[0], x[1]}, {x[7], x[6]}, {x[3], x[2]}, {x[4], x[5]});
}

FDJPEG_INLINE CoefficientPairs<Shorts> pairs_of_columns(const Shorts x[8]) {
  return {{x[0], x[4]}, {x[2], x[6]}, {x[7], x[5]}, {x[1], x[3]}};
}

FDJPEG_INLINE CoefficientPairs<Shorts> pairs_of_rows(Shorts x[8]) {
  transpose(x);
  return pairs_of_columns(x);
}

template <class Keep>
FDJPEG_INLINE void bytes_of_columns(Shorts x[8], Keep keep) {
  transpose(x);
  const auto samples = [&](int i) FDJPEG_LAMBDA_INLINE { return clamp(x[i] + kLevelShift, 0, kMaxSample); };
  for (int i = 0; i < kBlock; i += kTileRows) keep(i, pack_rows(samples(i), samples(i + 1)));
}

FDJPEG_INLINE Shorts rows_apart(Shorts x) {
  return x;
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// The transforms

// The coefficients of a tile, their columns in the order kColumnAt.
FDJPEG_INLINE void fdct(const uint8_t* tile, Shorts x[8]) {
  fdct_pass<true>(across_rows(tile), x);
  x[0] -= kLevelShift * kBlock << kPass1Bits;  // all that the level shift changes
  fdct_pass<false>(down_columns(x), x);
}

// Blocks of samples from dequantized coefficients scaled up by kInputBits, to `count` of kBlocks blocks.
FDJPEG_INLINE void idct(Shorts x[8], uint8_t* samples, int64_t stride, int64_t count) {
  idct_pass<true>(pairs_of_columns(x), x);
  idct_pass<false>(pairs_of_rows(x), x);
  bytes_of_columns(x, [&](int row, Shorts two_rows) FDJPEG_LAMBDA_INLINE {
    const Shorts apart = rows_apart(two_rows);
    for (int i = 0; i < kTileRows; ++i) {
      const Bytes bytes = load<Bytes>(reinterpret_cast<const char*>(&apart) + i * static_cast<int>(sizeof(Bytes)));
      if (count >= kBlocks) {
        store(samples + (row + i) * stride, bytes);
      } else {
        std::memcpy(samples + (row + i) * stride, &bytes, static_cast<size_t>(count * kBlock));
      }
    }
  });
}

}  // namespace
}  // namespace fdjpeg
