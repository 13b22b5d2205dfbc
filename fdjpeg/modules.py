"""JPEG as layers: thin `torch.nn.Module`s around `fdjpeg.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from fdjpeg import functional, surrogates
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables


class JPEG(nn.Module):
    """A layer that compresses its input by JPEG and decompresses it: `fdjpeg.jpeg` with its arguments fixed.

    It goes wherever images in [0, 1] (or bytes) pass, usually in front of a model's normalisation, and holds no
    parameters. A quality tensor and the tables are buffers: they move with the module and stand in its state dict.

    Args:
        quality, tables, subsampling, upsampling, gradient, arithmetic, soft: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same.
    """

    y: Tensor | None
    cb: Tensor | None
    cr: Tensor | None

    def __init__(
        self,
        quality: float | Tensor = 75,
        *,
        tables: QuantTables | None = None,
        subsampling: str = "4:2:0",
        upsampling: str = "fancy",
        gradient: str | Surrogate = "straight-through",
        arithmetic: str = "libjpeg",
        soft: bool = False,
    ) -> None:
        super().__init__()
        functional.check_arguments(quality, tables, subsampling, upsampling, gradient, arithmetic, soft)
        self.subsampling = subsampling
        self.upsampling = upsampling
        self.gradient = surrogates.resolve(gradient)
        self.arithmetic = arithmetic
        self.soft = soft
        self.quality: float | Tensor
        if isinstance(quality, Tensor):
            self.register_buffer("quality", quality)
        else:
            self.quality = quality
        for name in ("y", "cb", "cr"):
            self.register_buffer(name, None if tables is None else getattr(tables, name))

    @property
    def tables(self) -> QuantTables | None:
        """The tables that were given, where the layer now is."""
        if self.y is None or self.cb is None:
            return None
        return QuantTables(self.y, self.cb, self.cr)

    def forward(self, image: Tensor) -> Tensor:
        return functional.jpeg(
            image,
            self.quality,
            tables=self.tables,
            subsampling=self.subsampling,
            upsampling=self.upsampling,
            gradient=self.gradient,
            arithmetic=self.arithmetic,
            soft=self.soft,
        )

    def extra_repr(self) -> str:
        if self.y is not None:
            strength = "tables=..."
        elif isinstance(self.quality, Tensor):
            strength = f"quality=tensor of shape {tuple(self.quality.shape)}"
        else:
            strength = f"quality={self.quality:g}"
        text = f"{strength}, subsampling={self.subsampling!r}, gradient={self.gradient!r}"
        if self.upsampling != "fancy":
            text += f", upsampling={self.upsampling!r}"
        if self.arithmetic != "libjpeg":
            text += f", arithmetic={self.arithmetic!r}, soft={self.soft}"
        return text
