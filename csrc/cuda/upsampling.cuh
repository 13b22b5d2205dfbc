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

// Calls body.template operator()<Upsampling<…>>() for the one that an image has.
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

// One value of full resolution from the four samples around it, by its place in a pixel pair: `late` columns look to
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
      // A row of blocks continues to a multiple of eight, so that all of these are there.
      read_bytes(cb + at, near[0]);
      read_bytes(cr + at, near[1]);
      FDJPEG_UNROLL
      for (int k = 0; k < kColumns; ++k) sample[i][kHaloAcross + k] = Twin::of(near[0][k], near[1][k]);
      if constexpr (U::kAcross) {
        // At an edge the bytes next to these belong to another row or plane, and must not count.
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

// The chroma of any one pixel.
template <class U>
FDJPEG_DEVICE Twin chroma_at(const Sizes& sizes, const uint8_t* planes, int y, int x) {
  const unsigned stride = sizes.chroma_columns * kBlock;
  const bool late = x % U::kHorizontal != 0, lower = y % U::kVertical != 0;
  const int column = x / U::kHorizontal, row = y / U::kVertical;
  const int beside = U::kAcross ? clamp(column + (late ? 1 : -1), 0, sizes.chroma_width - 1) : column;
  const int far = U::kDown ? clamp(row + (lower ? 1 : -1), 0, sizes.chroma_height - 1) : row;
  const auto twin = [&](int i, int k) {
    const unsigned at = i * stride + k;
    return Twin::of(planes[sizes.cb_offset + at], planes[sizes.cr_offset + at]);
  };
  const Twin a = twin(row, column), b = twin(row, beside), c = twin(far, column), d = twin(far, beside);
  if (late) return lower ? upsampled<U, true, true>(a, b, c, d) : upsampled<U, true, false>(a, b, c, d);
  return lower ? upsampled<U, false, true>(a, b, c, d) : upsampled<U, false, false>(a, b, c, d);
}

// body.operator()<0>() … body.operator()<count - 1>().
template <int count, int from = 0, class Body>
FDJPEG_DEVICE void unrolled(Body&& body) {
  if constexpr (from < count) {
    body.template operator()<from>();
    unrolled<count, from + 1>(body);
  }
}

// Chroma of those pixels from the nearest and the next rows of a plane.
template <class U, class Real>
FDJPEG_DEVICE void real_upsample(
    const Sizes& sizes, const Real* near, const Real* far, int first_column, Real (&chroma)[kBlock]) {
  constexpr int kBeside = U::kAcross ? 1 : 0, kColumns = kBlock / U::kHorizontal + 2 * kBeside;
  Real column[kColumns];
  FDJPEG_UNROLL
  for (int k = 0; k < kColumns; ++k) {
    const int i = clamp(first_column + k - kBeside, 0, sizes.chroma_width - 1);
    column[k] = U::kDown ? Real(.75) * near[i] + Real(.25) * far[i] : near[i];
  }
  FDJPEG_UNROLL
  for (int x = 0; x < kBlock; ++x) {
    const int k = x / U::kHorizontal + kBeside, beside = x % 2 == 0 ? k - 1 : k + 1;
    chroma[x] = U::kAcross ? Real(.75) * column[k] + Real(.25) * column[beside] : column[k];
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The adjoint

// Read and written as one word.
template <class Real>
struct alignas(2 * sizeof(Real)) ChromaGradient {
  Real cb, cr;
};

template <class Real>
struct PixelGradient {
  Real y;
  ChromaGradient<Real> chroma;
};

// A sample of chroma's weights on the pixels that it reaches in a direction: by the triangle to the one before its own
// two, these, and the one after; else to its own. At an edge of the component its last sample stands in for the
// neighbour that is missing.
template <bool triangle, class Real>
struct Reach {
  static constexpr int kPixels = triangle ? 4 : 1;
  static constexpr int kBefore = triangle ? 1 : 0;  // the first of them is so many before the sample's own
  Real weight[kPixels];

  FDJPEG_DEVICE Reach(int sample, int samples) {
    if constexpr (triangle) {
      weight[0] = sample == 0 ? Real(0) : Real(.25);
      weight[1] = Real(1) - weight[0];
      weight[3] = sample == samples - 1 ? Real(0) : Real(.25);
      weight[2] = Real(1) - weight[3];
    } else {
      weight[0] = Real(1);
    }
  }
};

// The gradients of upsampled chroma in a tile of pixels and the ring around it, which the triangle reaches, in shared
// memory: those beyond the image are 0. Threads side by side have patches of `patch` columns, each of which is kept
// apart: so they are side by side in memory as well, and the threads of a warp out of each other's banks. `row` is the
// length of a row, for those below each other.
template <class U, class Real, int wide, int tall, int patch, int row>
struct FineChroma {
  static constexpr int kColumn = (wide + 2 + patch - 1) / patch;  // entries
  static_assert(wide % patch == 0 && row >= (patch - 1) * kColumn + wide / patch);
  static constexpr int kRowOfRing = wide + 2, kRing = 2 * kRowOfRing + 2 * tall;
  ChromaGradient<Real> sample[(tall + 2) * row];

  // Of row y and column x of the tile's patch number `across`, counted from the ring.
  static constexpr FDJPEG_INLINE int place(int y, int across, int x) {
    return y * row + x % patch * kColumn + across + x / patch;
  }

  // Writes a patch of the tile.
  template <int patch_tall>
  FDJPEG_DEVICE void store(int local_y, int local_x, const PixelGradient<Real> (&pixel)[patch_tall][patch]) {
    FDJPEG_UNROLL
    for (int y = 0; y < patch_tall; ++y) {
      FDJPEG_UNROLL
      for (int x = 0; x < patch; ++x) sample[place(local_y + y + 1, local_x / patch, x + 1)] = pixel[y][x].chroma;
    }
  }

  // Makes pixel i of the ring, the row above, the row below, then left and right of each row: chroma_of(y, x) is the
  // gradient of a pixel's chroma.
  template <class ChromaOf>
  FDJPEG_DEVICE void make_ring(const Sizes& sizes, int tile_y, int tile_x, int i, ChromaOf&& chroma_of) {
    const bool level = i < 2 * kRowOfRing;
    const int beyond = i - 2 * kRowOfRing;
    const int ring_y = level ? (i < kRowOfRing ? 0 : tall + 1) : beyond % tall + 1;
    const int ring_x = level ? (i < kRowOfRing ? i : i - kRowOfRing) : beyond / tall * (wide + 1);
    const int x = tile_x + ring_x - 1, y = tile_y + ring_y - 1;
    ChromaGradient<Real> ring{};
    if (x >= 0 && x < sizes.width && y >= 0 && y < sizes.height) ring = chroma_of(y, x);
    sample[place(ring_y, 0, ring_x)] = ring;
  }

  // The adjoint of upsampling: the gradients of a patch's samples of chroma.
  template <int down, int across>
  FDJPEG_DEVICE void gather(
      const Sizes& sizes, int tile_y, int tile_x, int local_y, int local_x,
      ChromaGradient<Real> (&cell)[down][across]) const {
    using Down = Reach<U::kDown, Real>;
    using Across = Reach<U::kAcross, Real>;
    constexpr int kColumns = patch + 2 * Across::kBefore;
    FDJPEG_UNROLL
    for (int i = 0; i < down; ++i) {
      const Down rows((tile_y + local_y) / U::kVertical + i, sizes.chroma_height);
      ChromaGradient<Real> column[kColumns] = {};
      FDJPEG_UNROLL
      for (int x = 0; x < kColumns; ++x) {
        FDJPEG_UNROLL
        for (int y = 0; y < Down::kPixels; ++y) {
          const int ring_y = local_y + U::kVertical * i + y + 1 - Down::kBefore;
          const ChromaGradient<Real> g = sample[place(ring_y, local_x / patch, x + 1 - Across::kBefore)];
          column[x].cb += rows.weight[y] * g.cb;
          column[x].cr += rows.weight[y] * g.cr;
        }
      }
      FDJPEG_UNROLL
      for (int k = 0; k < across; ++k) {
        const Across columns((tile_x + local_x) / U::kHorizontal + k, sizes.chroma_width);
        FDJPEG_UNROLL
        for (int x = 0; x < Across::kPixels; ++x) {
          cell[i][k].cb += columns.weight[x] * column[U::kHorizontal * k + x].cb;
          cell[i][k].cr += columns.weight[x] * column[U::kHorizontal * k + x].cr;
        }
      }
    }
  }
};

// The same where samples were repeated: each is made of pixels of the patch alone.
template <class U, int wide, int tall, int down, int across, class Real>
FDJPEG_DEVICE void gather_repeated(
    const PixelGradient<Real> (&pixel)[tall][wide], ChromaGradient<Real> (&cell)[down][across]) {
  FDJPEG_UNROLL
  for (int y = 0; y < tall; ++y) {
    FDJPEG_UNROLL
    for (int x = 0; x < wide; ++x) {
      cell[y / U::kVertical][x / U::kHorizontal].cb += pixel[y][x].chroma.cb;
      cell[y / U::kVertical][x / U::kHorizontal].cr += pixel[y][x].chroma.cr;
    }
  }
}

}  // namespace fdjpeg
