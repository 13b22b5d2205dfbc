"""Sizes of an image's components: subsampling names, sampling factors, planes (ITU-T T.81, A.1.1 and A.2)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: Sampling factors of luma against chroma (horizontal, vertical), by the usual name.
SAMPLING_FACTORS: dict[str, tuple[int, int]] = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
    "4:4:0": (1, 2),
    "4:1:1": (4, 1),
}

#: The subsamplings that Pillow writes, with the numbers that its argument ``subsampling`` takes.
PILLOW_SUBSAMPLINGS: dict[str, int] = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}

#: The height and width of a block, in samples.
BLOCK = 8


class Sampling(NamedTuple):
    """The sampling factors of luma against chroma, and whether chroma is upsampled by libjpeg's triangle filter."""

    horizontal: int
    vertical: int
    fancy: bool


def ceil_div(a: int, b: int) -> int:
    """Returns the smallest integer that is at least ``a / b``."""
    return (a + b - 1) // b  # not -(-a // b): ONNX divides integers towards zero


class Plane(NamedTuple):
    """One component of an image, in samples and in 8×8 blocks."""

    height: int
    width: int

    @property
    def rows(self) -> int:
        """Rows of blocks."""
        return ceil_div(self.height, BLOCK)

    @property
    def columns(self) -> int:
        """Columns of blocks."""
        return ceil_div(self.width, BLOCK)

    @property
    def coded_samples(self) -> int:
        """Samples of all blocks, those beyond the component's true edge included."""
        return self.rows * self.columns * BLOCK * BLOCK


class Geometry(NamedTuple):
    """The sizes that follow from an image's height and width, its channels and its sampling factors.

    A grey image has one component, and its sampling factors do not matter: they count as (1, 1).
    """

    height: int
    width: int
    channels: int
    horizontal: int
    vertical: int

    @classmethod
    def of(cls, height: int, width: int, channels: int, horizontal: int, vertical: int) -> Geometry:
        """Returns the geometry of an image of ``channels`` (1 or 3) × ``height`` × ``width`` samples."""
        if channels == 1:
            horizontal = vertical = 1
        return cls(height, width, channels, horizontal, vertical)

    @property
    def luma(self) -> Plane:
        """The Y component."""
        return Plane(self.height, self.width)

    @property
    def chroma(self) -> Plane:
        """The Cb and the Cr component (without samples if the image is grey)."""
        if self.channels == 1:
            return Plane(0, 0)
        return Plane(ceil_div(self.height, self.vertical), ceil_div(self.width, self.horizontal))

    @property
    def mcu_rows(self) -> int:
        """Rows of minimum coded units."""
        return ceil_div(self.height, BLOCK * self.vertical)

    @property
    def mcu_columns(self) -> int:
        """Columns of minimum coded units."""
        return ceil_div(self.width, BLOCK * self.horizontal)

    @property
    def flag_offset(self) -> int:
        """The place in an image's planes where the flags begin."""
        return self.luma.coded_samples + 2 * self.chroma.coded_samples

    @property
    def plane_bytes(self) -> int:
        """The bytes of each image that forward leaves for backward.

        First come the decoded 8-bit components at their coded size, Y then Cb then Cr, row-major. Then comes one flag
        for each MCU, row-major: 0 if none of the MCU's input samples is NaN or above 1; if not 0, some may be. Zeros
        follow up to a multiple of 16, so that the planes of every image are aligned.
        """
        return ceil_div(self.flag_offset + self.mcu_rows * self.mcu_columns, 16) * 16


def geometry_of(image: Tensor, horizontal: int, vertical: int) -> Geometry:
    """Returns the geometry of an image ``(N, C, H, W)``."""
    return Geometry.of(image.size(2), image.size(3), image.size(1), horizontal, vertical)
