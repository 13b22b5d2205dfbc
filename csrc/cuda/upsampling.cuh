// How chroma comes back to full resolution, in registers.
#pragma once

#include "cuda/samples.cuh"

namespace fdjpeg {

// How chroma comes back to full resolution. The triangle blends along the directions that were subsampled by 2.
template <int horizontal, int vertical, bool triangle, bool grey>
struct Upsampling {
  static constexpr int kHorizontal = horizontal, kVertical = vertical;
  static constexpr bool kGrey = grey;
  static constexpr bool kAcross = triangle && horizontal == 2, kDown = triangle && vertical == 2;
};

// One value of full resolution from the four samples around it, as Place in a pixel pair tells: `late` columns look to
// the right, `lower` rows below.
template <class U, bool late, bool lower>
FDJPEG_INLINE Twin upsampled(Twin near, Twin beside, Twin vertical, Twin diagonal) {
  if constexpr (U::kAcross && U::kDown) {
    return triangle_of_blend<late>(blend_rows(near, vertical), blend_rows(beside, diagonal));
  } else if constexpr (U::kAcross) {
    return triangle<late>(near, beside);
  } else if constexpr (U::kDown) {
    return triangle<lower>(near, vertical);
  } else {
    return near;
  }
}

// Neighbouring bytes whose address is a multiple of their number.
template <int count>
FDJPEG_DEVICE void read_bytes(const uint8_t* address, uint8_t (&bytes)[count]) {
  __builtin_memcpy(bytes, __builtin_assume_aligned(address, count), count);
}

// The chroma of a patch of kWide × kTall pixels, kept in registers.
template <class U, int wide, int tall>
struct ChromaPatch {
  static constexpr int kColumns = wide / U::kHorizontal, kRows = tall / U::kVertical;
  static_assert(kColumns >= 1 && kRows >= 1 && wide % U::kHorizontal == 0 && tall % U::kVertical == 0);
  static constexpr int kHaloAcross = U::kAcross ? 1 : 0, kHaloDown = U::kDown ? 1 : 0;
  Twin sample[kRows + 2 * kHaloDown][kColumns + 2 * kHaloAcross];

  // `column` and `row` are of chroma. Beyond an edge the edge's sample stands in.
  FDJPEG_DEVICE void load(const Sizes& sizes, const uint8_t* planes, int row, int column) {
    const unsigned stride = sizes.chroma_columns * kBlock;
    const int last_column = sizes.chroma_width - 1, last_row = sizes.chroma_height - 1;
    const uint8_t* cb = planes + sizes.cb_offset;
    const uint8_t* cr = planes + sizes.cr_offset;
    FDJPEG_UNROLL
    for (int i = 0; i < kRows + 2 * kHaloDown; ++i) {
      const unsigned at = static_cast<unsigned>(clamp(row + i - kHaloDown, 0, last_row)) * stride + column;
      uint8_t near[2][kColumns];
      // A row of blocks goes on to a multiple of eight, so that all of these are there.
      read_bytes(cb + at, near[0]);
      read_bytes(cr + at, near[1]);
      FDJPEG_UNROLL
      for (int k = 0; k < kColumns; ++k) sample[i][kHaloAcross + k] = Twin::of(near[0][k], near[1][k]);
      if constexpr (U::kAcross) {
        // The bytes beside these are those of another row or plane at an edge, and not meant.
        sample[i][0] = column == 0 ? sample[i][1] : Twin::of(cb[at - 1], cr[at - 1]);
        sample[i][kColumns + 1] = Twin::of(cb[at + kColumns], cr[at + kColumns]);
        if (column + kColumns > last_column) {
          FDJPEG_UNROLL
          for (int k = 1; k <= kColumns; ++k) {
            if (column + k > last_column) sample[i][1 + k] = sample[i][k];
          }
        }
      }
    }
  }

  // The chroma of the pixel in row y and column x of the patch; both must be compile-time constants.
  template <int y, int x>
  FDJPEG_DEVICE Twin at() const {
    constexpr bool kLate = x % U::kHorizontal != 0, kLower = y % U::kVertical != 0;
    constexpr int kColumn = x / U::kHorizontal + kHaloAcross, kRow = y / U::kVertical + kHaloDown;
    constexpr int kBeside = U::kAcross ? kColumn + (kLate ? 1 : -1) : kColumn;
    constexpr int kFar = U::kDown ? kRow + (kLower ? 1 : -1) : kRow;
    return upsampled<U, kLate, kLower>(
        sample[kRow][kColumn], sample[kRow][kBeside], sample[kFar][kColumn], sample[kFar][kBeside]);
  }
};

// body.operator()<0>() … body.operator()<count - 1>().
template <int count, int from = 0, class Body>
FDJPEG_DEVICE void unrolled(Body&& body) {
  if constexpr (from < count) {
    body.template operator()<from>();
    unrolled<count, from + 1>(body);
  }
}

}  // namespace fdjpeg
