"""The exact arithmetic of fdjpeg's layers, taken apart: coefficients, decoded images, and sensitivities between them.

A layer becomes a list of `Codec`, one for each pass, with the steps of one draw. Their forward pass is the layer's own,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables, reference, stages
from fdjpeg._arguments import map_shape
from fdjpeg._geometry import BLOCK, SAMPLING_FACTORS, Geometry, Plane
from fdjpeg.functional import jpeg
from fdjpeg.reference.exact import decode_components, quantize, transform_components, unlimited_rgb
from fdjpeg.reference.geometry import far_samples, near_samples, uses_triangle
from fdjpeg.reference.tables import standard_tables_by_block

from .base import draw
from .transform import LEVEL_SHIFT, Stacks, Transform, to_planes

Arithmetic = Literal["libjpeg", "real", "channels"]


@dataclass(frozen=True)
class Codec:
    """One pass of a layer over a batch of images.

    Attributes:
        arithmetic: "libjpeg" (integers), "real" (real numbers with JPEG's geometry), or "channels" (real numbers, each
            channel separately, without level shift: the preset "code" of `fdjpeg.FeatureDistillation`).
        geometry: of the images.
        subsampling, upsampling: as for `fdjpeg.jpeg`.
        tables: ``(1 or N, 3, 8, 8)`` float32 steps for Y, Cb and Cr; or None where each block has its own.
        qualities: uint8 ``(N, rows, columns)``, one for each block of luma; or None.
    """

    arithmetic: Arithmetic
    geometry: Geometry
    subsampling: str
    upsampling: str
    tables: Tensor | None
    qualities: Tensor | None = None

    @cached_property
    def transform(self) -> Transform:
        """The linear part of the encoder."""
        device = (self.tables if self.tables is not None else self.qualities).device  # type: ignore[union-attr]
        return Transform.of(self.geometry, self.arithmetic == "channels", device)

    @property
    def shift(self) -> float:
        """The level shift of samples before `Transform.forward`."""
        return self.transform.shift

    def only(self, rows: Tensor) -> Codec:
        """The codec of some images of the batch, by their places."""
        tables, qualities = self.tables, self.qualities
        if tables is not None and len(tables) > 1:
            tables = tables[rows]
        return replace(self, tables=tables, qualities=None if qualities is None else qualities[rows])

    def __call__(self, images: Tensor) -> Tensor:
        """The layer's output, differentiable straight through the rounding."""
        if self.arithmetic == "channels":
            return stages.quantize_channels(images, self._one_table())
        options = {"subsampling": self.subsampling, "upsampling": self.upsampling, "arithmetic": self.arithmetic}
        if self.qualities is not None:
            return jpeg(images, self.qualities, **options)  # type: ignore[arg-type]
        y, cb, cr = self.tables.unbind(1)  # type: ignore[union-attr]
        if len(y) == 1:
            y, cb, cr = y[0], cb[0], cr[0]
        return jpeg(images, tables=QuantTables(y, cb, cr), **options)  # type: ignore[arg-type]

    def steps(self) -> Stacks:
        """The quantization step of each coefficient, ``(1 or N, components, height, width)`` float32."""
        geometry = self.geometry
        if self.arithmetic == "channels":
            plane = self._one_table().repeat(geometry.luma.rows, geometry.luma.columns)
            return [plane.expand(1, geometry.channels, -1, -1)]
        if self.qualities is not None:
            planes = [to_planes(table.float()) for table in self.tables_by_block()]
        else:
            assert self.tables is not None
            sizes = [geometry.luma, geometry.chroma, geometry.chroma][: geometry.channels]
            planes = [
                table.repeat(1, size.rows, size.columns)[:, None]
                for table, size in zip(self.tables.unbind(1), sizes, strict=False)
            ]
        return self.stacked(planes)

    def coefficients(self, images: Tensor) -> Stacks:
        """The quantized coefficients of images ``(N, C, H, W)``, whole numbers in float32, by the exact encoder."""
        return self.stacked([to_planes(k.float()) for k in self.blocks(images)])

    def blocks(self, images: Tensor) -> list[Tensor]:
        """The same as blocks: for each component ``(N, rows, columns, 8, 8)`` whole numbers."""
        if self.arithmetic == "channels":
            return self._channel_coefficients(images)
        if self.arithmetic == "real" or self.qualities is not None:
            return self._reference_coefficients(images)
        horizontal, vertical = SAMPLING_FACTORS[self.subsampling]
        found: list[Tensor] = torch.ops.fdjpeg.encode(images, self.tables, 1.0, horizontal, vertical)
        return list(found[: self.geometry.channels])

    def sensitivity(self, gradient: Tensor) -> Stacks:
        """The derivative of a loss by each coefficient in samples of 0…255, from that by the decoded image.

        Exact where the last limiting to [0, 1] passes the gradient; set it to 0 elsewhere, see `inward`.

        Args:
            gradient: ``(N, C, H, W)`` float32, by the decoded image in [0, 1].
        """
        geometry = self.geometry
        if self.arithmetic == "channels":
            return self.transform.dct_of([_zero_padded(gradient / 255, geometry.luma)])
        components = gradient / 255
        if geometry.channels == 3:
            to_rgb = reference.real_ycbcr_to_rgb(
                torch.eye(3, dtype=torch.float64, device="cpu").reshape(3, 3, 1)
            ).flatten(1)
            components = torch.matmul(to_rgb.to(gradient).T, components.flatten(2)).view(components.shape)
        if (geometry.horizontal, geometry.vertical) == (1, 1):
            return self.transform.dct_of([_zero_padded(components, geometry.luma)])
        rows, columns = self._upsampling(gradient)
        chroma = torch.matmul(torch.matmul(rows.T, components[:, 1:]), columns)
        luma = _zero_padded(components[:, :1], geometry.luma)
        return self.transform.dct_of([luma, _zero_padded(chroma, geometry.chroma)])

    def tables_by_block(self) -> list[Tensor]:
        """The steps of each block, where they have qualities of their own: ``(N, rows, columns, 8, 8)`` a component."""
        assert self.qualities is not None
        return standard_tables_by_block(self.qualities, self.geometry)

    def decode(self, blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """The layer's output for quantized coefficients, bit for bit.

        Args:
            blocks: of each component, integers ``(N, rows, columns, 8, 8)``.
            dtype: of the images.
        """
        geometry = self.geometry
        if self.arithmetic == "channels":
            real = torch.float64 if dtype == torch.float64 else torch.float32
            k = torch.stack(list(blocks), 1).flatten(0, 1).to(real)
            decoded = to_planes(reference.real_idct(k * self._one_table().to(real)))
            images = decoded.view(-1, geometry.channels, *decoded.shape[2:])[:, :, : geometry.height, : geometry.width]
            return (images / 255).clamp(0, 1).to(dtype)
        if self.arithmetic == "real":
            raise ValueError("arithmetic must be libjpeg or the preset code to decode coefficients, got real")
        steps = self.tables_by_block() if self.qualities is not None else self._tables_by_component()
        samples = decode_components([k.to(torch.int32) for k in blocks], [step.to(torch.int32) for step in steps])
        rgb = unlimited_rgb(samples, geometry, self.upsampling == "fancy")
        return reference.from_bytes(rgb.clamp(0, 255), dtype)

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _one_table(self) -> Tensor:
        assert self.tables is not None
        return self.tables[0, 0]

    def _channel_coefficients(self, images: Tensor) -> list[Tensor]:
        # The very operations of `fdjpeg.reference.quantize_channels`, so that ties fall as there.
        planes = images if images.dtype == torch.float64 else images.float()
        rows = torch.arange(self.geometry.luma.rows * BLOCK, device=images.device).clamp(max=self.geometry.height - 1)
        columns = torch.arange(self.geometry.luma.columns * BLOCK, device=images.device)
        padded = planes.index_select(2, rows).index_select(3, columns.clamp(max=self.geometry.width - 1))
        blocks = reference.real_dct(reference.to_blocks(255 * padded.flatten(0, 1)))
        k = (blocks / self._one_table().to(blocks)).round()
        return list(k.unflatten(0, padded.shape[:2]).unbind(1))

    def _tables_by_component(self) -> list[Tensor]:
        assert self.tables is not None
        return [table[:, None, None] for table in self.tables.unbind(1)]

    def _reference_coefficients(self, images: Tensor) -> list[Tensor]:
        steps = self.tables_by_block() if self.qualities is not None else self._tables_by_component()
        if self.arithmetic == "real":
            components = reference.components_of(255 * images.to(reference.real_dtype(images)), self.geometry)
            components[0] = components[0] - LEVEL_SHIFT
            blocks = [reference.real_dct(reference.to_blocks(component)) for component in components]
            return [(c / step.to(c)).round() for c, step in zip(blocks, steps, strict=False)]
        blocks = transform_components(images, self.geometry)
        return [quantize(c, step.to(torch.int32)) for c, step in zip(blocks, steps, strict=False)]

    def _upsampling(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Chroma's upsampling as matrices down columns, ``(H, rows)``, and along rows, ``(W, columns)``."""
        geometry, device = self.geometry, like.device
        triangle = uses_triangle(geometry, self.upsampling == "fancy")

        def matrix(size: int, true_size: int, factor: int) -> Tensor:
            eye = torch.eye(true_size, dtype=torch.float32, device=device)
            near = eye.index_select(0, near_samples(size, factor, device))
            if factor == 1 or not triangle:
                return near
            return 0.75 * near + 0.25 * eye.index_select(0, far_samples(size, true_size, device))

        chroma = geometry.chroma
        rows = matrix(geometry.height, chroma.height, geometry.vertical)
        return rows, matrix(geometry.width, chroma.width, geometry.horizontal)

    def stacked(self, planes: Sequence[Tensor]) -> Stacks:
        """Planes as stacks: all in one, or luma and chroma apart where chroma is subsampled."""
        if (self.geometry.horizontal, self.geometry.vertical) == (1, 1):
            return [torch.cat(list(planes), 1)]
        return [planes[0], torch.cat(list(planes[1:]), 1)]


def inward(gradient: Tensor, decoded: Tensor) -> Tensor:
    """The gradient without what would carry a sample of the decoded image out of [0, 1]."""
    outward = ((decoded <= 0) & (gradient < 0)) | ((decoded >= 1) & (gradient > 0))
    return torch.where(outward, 0, gradient)


def _zero_padded(planes: Tensor, size: Plane) -> Tensor:
    """Planes of a component's true size brought to its coded size."""
    beyond = (size.columns * BLOCK - planes.size(3), size.rows * BLOCK - planes.size(2))
    return F.pad(planes, (0, beyond[0], 0, beyond[1]))


# --- from layers -----------------------------------------------------------------------------------------------------


def codecs_of(layer: nn.Module, images: Tensor, indices: Tensor, seed: int, purpose: str) -> list[Codec]:
    """The passes of a layer over a batch, in order; a randomised layer's with one draw of its qualities.

    Args:
        layer: one of fdjpeg's layers, or a ``torch.nn.Sequential`` of them.
        images: ``(N, C, H, W)``.
        indices: ``(N,)``, each image's place in the whole set, from which its draws come.
        seed: of the draws.
        purpose: of the draws, see `draw`.

    Raises:
        ValueError: for a layer that has no quantized coefficients.
    """
    if not has_coefficients(layer):
        raise ValueError(
            "layer must be a JPEG, LearnableJPEG, StochasticJPEG, FeatureDistillation, or RandomJPEG with p=1, of "
            f"fdjpeg, or a Sequential of them, and not soft, got {layer}"
        )
    if isinstance(layer, nn.Sequential):
        parts = [codecs_of(part, images, indices, seed, f"{purpose} {place}") for place, part in enumerate(layer)]
        return [codec for part in parts for codec in part]
    if isinstance(layer, fdjpeg.FeatureDistillation):
        steps = layer.steps.to(images.device, torch.float32).expand(1, 3, 8, 8)
        return [_codec(images, steps, "channels" if layer.preset == "code" else "libjpeg")] * layer.passes
    if isinstance(layer, fdjpeg.JPEG):
        arithmetic: Arithmetic = "libjpeg" if layer.arithmetic == "libjpeg" else "real"
        if isinstance(layer.quality, Tensor) and layer.quality.ndim == 3 and layer.tables is None:
            qualities = layer.quality.detach().nan_to_num(nan=1.0).round().clamp(1, 100).to(images.device, torch.uint8)
            return [_codec(images, None, arithmetic, layer, qualities)]
        tables = QuantTables.standard(layer.quality) if layer.tables is None else layer.tables
        return [_codec(images, tables.stacked(), arithmetic, layer)]
    if isinstance(layer, fdjpeg.LearnableJPEG):
        return [_codec(images, layer.tables.stacked(), "libjpeg" if layer.arithmetic == "libjpeg" else "real", layer)]
    if isinstance(layer, fdjpeg.RandomJPEG):
        return [_drawn_codec(layer, images, DrawsByImage(indices, seed, purpose))]
    assert isinstance(layer, fdjpeg.StochasticJPEG)
    drawn = draw(torch.Size(map_shape(images)[1:]), indices, seed, purpose) * len(layer.qualities)
    qualities = torch.tensor(layer.qualities, dtype=torch.uint8, device="cpu")[drawn.floor().long()].to(images.device)
    return [_codec(images, None, "libjpeg", layer, qualities)]


def _drawn_codec(layer: fdjpeg.RandomJPEG, images: Tensor, draws: DrawsByImage) -> Codec:
    """One draw of a layer. Of several subsamplings, all images of a batch get the same."""
    drawn = layer.draw_from(draws)
    if drawn.table is not None:
        tables = torch.tensor(layer.steps, dtype=torch.float32, device="cpu")[drawn.table]
    else:
        assert drawn.quality is not None
        tables = QuantTables.standard(drawn.quality).stacked()
    place = 0 if drawn.subsampling is None or len(drawn.subsampling) == 0 else int(drawn.subsampling[0])
    return _codec(images, tables, "libjpeg", layer, drawn_subsampling=layer.subsamplings[place])


class DrawsByImage:
    """Random numbers for `fdjpeg.augmentations.base.Augmentation.draw_from`, on the CPU, each image's from its index.

    Those of `on_host`, which decide which calls are made, are the same for all images.

    Args:
        indices: ``(N,)``, each image's place in the whole set.
        seed, purpose: see `draw`. Each call adds its number to the purpose.
    """

    def __init__(self, indices: Tensor, seed: int, purpose: str) -> None:
        self.indices, self.seed, self.purpose = indices, seed, purpose
        self.calls = 0

    def integers(self, count: int) -> Tensor:
        """See `fdjpeg.augmentations.base.Draws.integers`."""
        return (self.uniform() * count).long().clamp(max=count - 1)

    def uniform(self) -> Tensor:
        """See `fdjpeg.augmentations.base.Draws.uniform`."""
        self.calls += 1
        return draw(torch.Size(), self.indices, self.seed, f"{self.purpose} {self.calls}")

    def on_host(self) -> Tensor:
        """See `fdjpeg.augmentations.base.Draws.on_host`."""
        self.calls += 1
        every = draw(
            torch.Size(), torch.zeros(1, dtype=torch.int64, device="cpu"), self.seed, f"{self.purpose} {self.calls}"
        )
        return every.double().expand(len(self.indices))


def has_coefficients(layer: object) -> bool:
    """Whether `codecs_of` takes a layer."""
    if isinstance(layer, nn.Sequential):
        return len(layer) > 0 and all(map(has_coefficients, layer))
    if isinstance(layer, (fdjpeg.JPEG, fdjpeg.LearnableJPEG)):
        return not layer.soft
    if isinstance(layer, fdjpeg.RandomJPEG):
        return layer.p == 1
    return isinstance(layer, (fdjpeg.StochasticJPEG, fdjpeg.FeatureDistillation))


def is_random(layer: nn.Module) -> bool:
    """Whether a layer draws in every call."""
    return any(isinstance(part, (fdjpeg.RandomJPEG, fdjpeg.StochasticJPEG)) for part in layer.modules())


def _codec(
    images: Tensor,
    tables: Tensor | None,
    arithmetic: Arithmetic,
    layer: fdjpeg.JPEG | fdjpeg.LearnableJPEG | fdjpeg.RandomJPEG | fdjpeg.StochasticJPEG | None = None,
    qualities: Tensor | None = None,
    drawn_subsampling: str | None = None,
) -> Codec:
    subsampling = drawn_subsampling or ("4:4:4" if layer is None else layer.subsampling)
    assert isinstance(subsampling, str)
    if tables is not None:
        tables = tables.detach().to(images.device, torch.float32)
        tables = tables.round().clamp(1, 255) if arithmetic == "libjpeg" else tables
    return Codec(
        arithmetic,
        Geometry.of(images.size(2), images.size(3), images.size(1), *SAMPLING_FACTORS[subsampling]),
        subsampling,
        "fancy" if layer is None else layer.upsampling,
        tables,
        qualities,
    )
