"""Bugs in the GPU's kernels, each of which the emulation's cases must notice: see ``test_emulation.py``."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A bug: `old`, which stands once in the kernels' sources, becomes `new`."""

    name: str
    old: str
    new: str
    subsampling: str = "4:2:0"


#: Found by the forward ops' cases.
FORWARD = (
    Mutant("no barrier before the columns", "  __syncthreads();\n  if (!busy) return;", "  if (!busy) return;"),
    Mutant("no barrier before the rows back", "  __syncwarp();\n\n  uint8_t* planes", "  uint8_t* planes"),
    Mutant("decode: no barrier before the columns", "  __syncwarp();\n  if (busy) {", "  if (busy) {"),
    Mutant("decode: no barrier before the rows", "  __syncwarp();\n  if (!busy) return;", "  if (!busy) return;"),
    Mutant("a tile's row of eight words", "kTileRow = 9", "kTileRow = 7"),
    Mutant("blocks of the tile overlap", "kTileBlock = kBlock * kTileRow", "kTileBlock = kBlock * kTileRow - 8"),
    Mutant(
        "another thread's row",
        "return L::kVertical == 2 ? 2 * row + v : row;",
        "return L::kVertical == 2 ? row + 8 * v : row;",
    ),
    Mutant("no level shift forward", "x[0] -= kBlock * kLevelShift << kPass1Bits;", ""),
    Mutant(
        "level shift off by one bit",
        "if (!may_wrap) x[0] += kBlock * kLevelShift << kPass1Bits;",
        "if (!may_wrap) x[0] += kBlock * kLevelShift << 1;",
    ),
    Mutant("scaled by too little", "processor::saturate(x), 255.0f)", "processor::saturate(x), 254.9f)"),
    Mutant(
        "no limit to [0, 1]", "processor::multiply(processor::saturate(x), 255.0f)", "processor::multiply(x, 255.0f)"
    ),
    Mutant("columns at the right edge", "row[smaller(i, last) * stride]", "row[smaller(i, last - 1) * stride]"),
    Mutant("rows at the bottom edge", "place.luma_row(v), sizes.height - 1)", "place.luma_row(v), sizes.height - 2)"),
    Mutant("chroma rows beyond the last", "(mcu_row + 1) * kBlock > sizes.chroma_height", "false"),
    Mutant("the bias of averages", "sums[k] + average_bias(L::kHorizontal, L::kVertical, k)", "sums[k] + 1"),
    Mutant("the shift of averages", "kSamples == 4 ? 2 :", "kSamples == 4 ? 1 :"),
    Mutant(
        "the partner's half of chroma", "const bool right = place.group != 0;", "const bool right = place.group == 0;"
    ),
    Mutant(
        "Cr by the table of luma",
        "return 1 + (L::kHorizontal == 1 ? pass - L::kLumaRows : lane / kBlock % 2);",
        "return lane / kBlock % 2;",
    ),
    Mutant(
        "a table transposed",
        "step[component][index % kBlock][index / kBlock] =",
        "step[component][index / kBlock][index % kBlock] =",
    ),
    Mutant("the first image's tables", "steps.tables[image * steps.image_stride +", "steps.tables["),
    Mutant(
        "Cr where Cb belongs",
        "component == 1 ? sizes.cb_offset : sizes.cr_offset;\n      const",
        "component == 2 ? sizes.cb_offset : sizes.cr_offset;\n      const",
    ),
    Mutant(
        "a stride in blocks",
        "((block_row * kBlock + y) * columns + block_column) * kBlock;\n      *",
        "((block_row * kBlock + y) * rows + block_column) * kBlock;\n      *",
    ),
    Mutant("flags of the wrong threads", "all >> lane & (", "all >> (lane ^ 16) & ("),
    Mutant("the padding is not written", "flags[used + lane] = 0;", "{}"),
    Mutant("left edge of chroma", "column == 0 ? sample[i][1] :", "column == 2 ? sample[i][1] :"),
    Mutant("right edge of chroma", "if (column + k > last_column)", "if (column + k > last_column + 1)"),
    Mutant("rows of chroma", "clamp(row + i - kHaloDown, 0, last_row)", "clamp(row + i, 0, last_row)"),
    Mutant(
        "the far row of chroma",
        "U::kDown ? kRow + (kLower ? 1 : -1) : kRow",
        "U::kDown ? kRow + (kLower ? -1 : 1) : kRow",
    ),
    Mutant("the triangle's side", "triangle_of_blend<late>", "triangle_of_blend<!late>"),
    Mutant(
        "the triangle across alone",
        "return triangle<late>(near, beside);",
        "return triangle<!late>(near, beside);",
        "4:2:2",
    ),
    Mutant(
        "the triangle down alone",
        "return triangle<lower>(near, vertical);",
        "return triangle<!lower>(near, vertical);",
        "4:4:0",
    ),
    Mutant("columns of 4:1:1", "return L::kHorizontal == 4 ? 2 * group + v : group;", "return group;", "4:1:1"),
    Mutant("columns beyond the image", "if (i <= last) row[i * stride]", "if (i < last) row[i * stride]"),
    Mutant("encode: a block's rows", "(block * kBlockSize + y * kBlock)", "(block * kBlockSize + y)"),
    Mutant(
        "decode: no saturation",
        "dequantize_saturating(x[i], step_of(job.steps, n, job.component, i * kBlock + column))",
        "x[i] * step_of(job.steps, n, 0, i * kBlock + column)",
    ),
    Mutant("by block: the neighbour's quality", "block % horizontal : 0;", "(block + 1) % horizontal : 0;"),
    Mutant("by block: the row of chroma", "block / horizontal % vertical : 0;", "block / horizontal % vertical : 1;"),
    Mutant("by block: another MCU's", "(first_mcu + L::mcu_of(block))", "first_mcu"),
    Mutant("by block: low qualities", "return q < 50 ? 5000 / q", "return q < 60 ? 5000 / q"),
    Mutant("by block: qualities above 100", "clamp(quality, 1, kMaxQuality)", "quality"),
)

#: Found by the backward ops' cases.
BACKWARD = (
    Mutant("no barrier", "    __syncthreads();\n    if (!inside) return;", "    if (!inside) return;"),
    Mutant("no mask", "static_cast<unsigned>(pixel.g) <= kMaxSample", "true"),
    Mutant("a patch beyond the edge", "      if (x0 + x > last_x) return;\n", ""),
    Mutant("the ring's left", "tile_x + ring_x - 1,", "tile_x + ring_x,"),
    Mutant("the ring's corner", "i < kRowOfRing ? i : i - kRowOfRing", "i < kRowOfRing ? i : i - kRowOfRing - 1"),
    Mutant(
        "the bottom edge", "sizes.chroma_height * U::kVertical - tile_y, tall + 1", "sizes.height - tile_y, tall + 1"
    ),
    Mutant("weights", "a == 0 || a == 3 ? Real(.25) : Real(.75)", "a == 0 || a == 3 ? Real(.75) : Real(.25)"),
    Mutant("copies of the last column", "? 1 + sizes.chroma_width * U::kHorizontal - sizes.width : 1", "? 1 : 1"),
    Mutant("NaN passes", "samples[c][x] = T{};", "{}"),
    Mutant(
        "tables: no barrier before the stencil's sums",
        "      __syncthreads();\n      if (inside) memory.fine.gather",
        "      if (inside) memory.fine.gather",
    ),
    Mutant(
        "tables: no barrier after the stencil",
        "cell[0][k] = {};\n      }\n      __syncthreads();",
        "cell[0][k] = {};\n      }",
    ),
    Mutant("tables: no barrier between tiles", "    __syncthreads();  // the steps", "    // the steps"),
    Mutant(
        "tables: no barrier before rows of chroma",
        "        __syncwarp();\n        FDJPEG_UNROLL\n        for (int v = 0; v < L::kChromaRows",
        "        FDJPEG_UNROLL\n        for (int v = 0; v < L::kChromaRows",
    ),
    Mutant(
        "tables: no barrier before the columns", "      __syncwarp();\n\n      FDJPEG_UNROLL\n", "      FDJPEG_UNROLL\n"
    ),
    Mutant("tables: no barrier before the sums", "  __syncthreads();\n  float* partial", "  float* partial"),
    Mutant(
        "tables: the ring by too few threads",
        "i < Fine::kRing; i += kThroughThreads",
        "i < Fine::kRing - 1; i += kThroughThreads",
    ),
    Mutant(
        "tables: chroma beyond the edge",
        "sizes.chroma_width) cell[0][k] = {};",
        "sizes.chroma_width + 8) cell[0][k] = {};",
    ),
    Mutant("tables: the steps' errors", "* step[i].step - c[i];", "* step[i].step + c[i];"),
    Mutant("tables: a part is lost", "p < job.parts", "p < job.parts - 1"),
    Mutant("tables: a slice is lost", "s < kAddSlices", "s < 1"),
    Mutant("tables: Cb's sum is Cr's", "both ? 1 + lane / kBlock % 2 : slot", "both ? 2 - lane / kBlock % 2 : slot"),
    Mutant("tables: Cb's samples are Cr's", "2 * mcu + component - 1)", "2 * mcu + 2 - component)"),
    Mutant("tables: half a row of chroma", "group * (kBlock / 2);", "(1 - group) * (kBlock / 2);"),
    Mutant(
        "surrogate: no barrier before the rows",
        "        __syncwarp();\n        FDJPEG_UNROLL\n        for (int v = 0; v < L::kLumaRows",
        "        FDJPEG_UNROLL\n        for (int v = 0; v < L::kLumaRows",
    ),
    Mutant(
        "surrogate: no barrier before the pixels",
        "          __syncwarp();\n          const float* cb",
        "          const float* cb",
    ),
    Mutant("surrogate: the wrong side of a level", "slope_at(job, -missing)", "slope_at(job, missing)"),
    Mutant("surrogate: the last slope", "0, job.slope_intervals - 1);", "0, job.slope_intervals - 2);"),
    Mutant("surrogate: no slope of the step", "(1.0f - slope) + missing * slope", "(1.0f - slope) + missing"),
    Mutant("surrogate: no slope of the coefficient", "            g[i] *= slope;\n", ""),
    Mutant("surrogate: rows beyond the edge", "if (rows < kBlock) add_at", "if (rows < 0) add_at"),
    Mutant("surrogate: rows of the other component", "(luma ? sizes.height : sizes.chroma_height)", "(sizes.height)"),
    Mutant(
        "surrogate: columns beyond the edge",
        "if (columns < kBlock) add_at(g, columns - 1,",
        "if (columns < kBlock) add_at(g, columns,",
    ),
    Mutant(
        "surrogate: replicas of chroma",
        "if (columns > 0 && columns < kBlock) row[columns]",
        "if (columns > 4 && columns < kBlock) row[columns]",
    ),
    Mutant("surrogate: replicas count once", "(copies_down * U::kHorizontal);", "(copies_down);"),
)
