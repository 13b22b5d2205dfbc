"""JPEG as layers: thin `torch.nn.Module`s around `fdjpeg.functional`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fdjpeg import functional, stages, surrogates
from fdjpeg._arguments import check_arguments, flattened, map_shape
from fdjpeg._constants import constant
from fdjpeg._generators import check_generator, check_not_repeated
from fdjpeg._held import hold, restore, values_of
from fdjpeg._numbers import is_whole, plain, whole_numbers
from fdjpeg._tangents import TwoWayFunction, apply_function
from fdjpeg._tracers import traced_layer
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables, check_tables


@traced_layer
class JPEG(nn.Module):
    """A layer that compresses its input by JPEG and decompresses it: `fdjpeg.jpeg` with its arguments fixed.

    It goes wherever images in [0, 1] (or bytes) pass, usually in front of a model's normalisation. A quality tensor and
    the tables are buffers, copies of those given: they move with the module and are in its state dict. A
    `torch.nn.Parameter` stays a parameter, so that an optimizer trains it.

    Args:
        quality, tables, subsampling, upsampling, gradient, arithmetic, soft: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same.

    Raises:
        TypeError, ValueError: as for `fdjpeg.jpeg`; or a tensor is computed from others that require grad.

    Example::

        model = torch.nn.Sequential(fdjpeg.JPEG(75), normalise, network)
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
        check_arguments(quality, tables, subsampling, upsampling, gradient, arithmetic, soft)
        self.subsampling = subsampling
        self.upsampling = upsampling
        self.gradient = surrogates.resolve(gradient)
        self.arithmetic = arithmetic
        self.soft = soft
        self.quality: float | Tensor
        if isinstance(quality, Tensor):
            hold(self, "quality", quality, "quality")
        else:
            self.quality = plain(quality)
        for name in ("y", "cb", "cr"):
            if tables is None:
                self.register_buffer(name, None)
            else:
                hold(self, name, getattr(tables, name), f"tables.{name}")
        self._given = values_of(self)

    def reset_parameters(self) -> None:
        """Gives the tensors their first values again, as after ``to_empty``.

        Raises:
            RuntimeError: the layer was made of meta tensors, which have no values.
        """
        restore(self, self._given)

    @property
    def tables(self) -> QuantTables | None:
        """The given tables, on the layer's device."""
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
        text = f"{strength}, {_said(self)}"
        if self.upsampling != "fancy":
            text += f", upsampling={self.upsampling!r}"
        if self.arithmetic != "libjpeg":
            text += f", arithmetic={self.arithmetic!r}, soft={self.soft}"
        return text


@traced_layer
class StochasticJPEG(nn.Module):
    """Compresses each 8×8 block at its own quality, drawn again in every call, in training and in evaluation.

    Source: stochastic local quantization, Das et al., "SHIELD", KDD 2018, arXiv 1802.06816. There each block of pixels
    is copied from one of several compressed images; here the codec itself quantizes block by block, which differs
    where chroma is subsampled: a block of chroma takes the quality of the top-left block of luma that it covers, and
    upsampling blends across blocks. At 4:4:4 and in grey the two agree.

    Args:
        qualities: the integer qualities to draw from, 1…100, with equal chances; SHIELD's are the default. One that
            is listed twice is drawn twice as often.
        generator: of the images' device; None takes torch's own. Activation checkpointing repeats the draws of None
            only; with a generator its repeated forward pass raises a ``RuntimeError``.
        subsampling, upsampling, gradient: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same. The draws are made on the images' device; only the first
        call on a device waits for it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or name, or a quality is not an integer in 1…100.

    Example::

        defended = torch.nn.Sequential(fdjpeg.StochasticJPEG((20, 40, 60, 80)), network)
    """

    def __init__(
        self,
        qualities: Sequence[int] = (20, 40, 60, 80),
        generator: torch.Generator | None = None,
        *,
        subsampling: str = "4:2:0",
        upsampling: str = "fancy",
        gradient: str | Surrogate = "straight-through",
    ) -> None:
        super().__init__()
        whole = whole_numbers(qualities)
        if not whole or not all(1 <= quality <= 100 for quality in whole):
            raise ValueError(f"qualities must be one or more integers in 1…100, got {qualities!r}")
        check_generator(generator)
        check_arguments(75, None, subsampling, upsampling, gradient, "libjpeg", False)
        self.qualities = whole
        self.generator = generator
        self.subsampling = subsampling
        self.upsampling = upsampling
        self.gradient = surrogates.resolve(gradient)

    def forward(self, image: Tensor) -> Tensor:
        check_not_repeated(self.generator, "StochasticJPEG")
        blocks = map_shape(image)
        drawn = torch.randint(len(self.qualities), blocks, device=image.device, **_from(self.generator))
        return functional.jpeg(
            image,
            constant(self.qualities, torch.uint8, drawn)[drawn],
            subsampling=self.subsampling,
            upsampling=self.upsampling,
            gradient=self.gradient,
        )

    def extra_repr(self) -> str:
        return f"qualities={self.qualities}, {_said(self)}"


def _said(layer: JPEG | StochasticJPEG | LearnableJPEG) -> str:
    """Returns the part that the ``extra_repr`` of these layers have in common."""
    return f"subsampling={layer.subsampling!r}, gradient={surrogates.written(layer.gradient)}"


def _from(generator: torch.Generator | None) -> dict[str, Any]:
    """The argument that names a generator; none for torch's own.

    The variants of torch's functions that take one know no sizes that change under torch.compile and torch.export.
    """
    return {} if generator is None else {"generator": generator}


@traced_layer
class LearnableJPEG(nn.Module):
    """JPEG whose quantization tables are learned. Forward uses the integer tables exactly, as a file would.

    The parameters are the logarithms of the steps, so that an optimizer changes small and large steps in proportion.
    They are limited to ln 1 … ln 255. At a bound a gradient that points back inside passes, and one that points outside
    does not, so no step gets stuck. (The parametrisation is ours.) Keep the layer in float32, as autocast does: in half
    types a logarithm is so coarse that large steps change.

    Args:
        tables: where to start; steps within 1…255. Batched tables learn a set for each image of a batch.
        share: which components share one table: "chroma" (Cb and Cr, as in most files), "all" or "none".
        subsampling, upsampling, gradient, arithmetic, soft: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` to the same.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or name, or a step is outside 1…255.

    Example::

        layer = fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(50))
        optimizer = torch.optim.Adam(layer.parameter_groups(), lr=0.05)
        loss = criterion(network(layer(image)), label)
        layer.tables.save("learned.txt")  # for any encoder, after training
    """

    _SHARES: ClassVar = {"all": (0, 0, 0), "chroma": (0, 1, 1), "none": (0, 1, 2)}

    def __init__(
        self,
        tables: QuantTables,
        *,
        share: str = "chroma",
        subsampling: str = "4:2:0",
        upsampling: str = "fancy",
        gradient: str | Surrogate = "straight-through",
        arithmetic: str = "libjpeg",
        soft: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(75, tables, subsampling, upsampling, gradient, arithmetic, soft)
        if not isinstance(share, str) or share not in self._SHARES:
            raise ValueError(f"share must be one of {', '.join(map(repr, self._SHARES))}, got {share!r}")
        check_tables(tables)
        self.share = share
        self.subsampling = subsampling
        self.upsampling = upsampling
        self.gradient = surrogates.resolve(gradient)
        self.arithmetic = arithmetic
        self.soft = soft
        starts = (tables.y, tables.cb, tables.cr)[: 1 + max(self._SHARES[share])]
        self.log_steps = nn.ParameterList(nn.Parameter(start.detach().float().log()) for start in starts)
        self._given = values_of(self)

    def reset_parameters(self) -> None:
        """Gives the tables their first steps again, as after ``to_empty``.

        Raises:
            RuntimeError: the layer was made of meta tensors, which have no values.
        """
        restore(self, self._given)

    def steps(self) -> QuantTables:
        """Returns the real-valued steps, differentiable in the parameters."""
        learned = [apply_function(_Bounded, logs.float(), 0.0, math.log(255)).exp() for logs in self.log_steps]
        y, cb, cr = (learned[i] for i in self._SHARES[self.share])
        return QuantTables(y, cb, cr)

    @property
    def tables(self) -> QuantTables:
        """The integer tables that forward uses, for any encoder."""
        with torch.no_grad():
            return self.steps().integer()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the tables for an optimizer, without weight decay, which would only pull every step towards 1."""
        return [{"params": list(self.parameters()), "weight_decay": 0.0}]

    def forward(self, image: Tensor) -> Tensor:
        return functional.jpeg(
            image,
            tables=self.steps(),
            subsampling=self.subsampling,
            upsampling=self.upsampling,
            gradient=self.gradient,
            arithmetic=self.arithmetic,
            soft=self.soft,
        )

    def extra_repr(self) -> str:
        return f"share={self.share!r}, {_said(self)}"


class _Bounded(TwoWayFunction):
    """A clamp whose gradient vanishes only where a step of descent would lead further outside."""

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grads
        outward = ((x <= ctx.low) & (grad > 0)) | ((x >= ctx.high) & (grad < 0))
        return torch.where(outward, 0, grad), None, None


class _BoundedInBothModes(_Bounded):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise RuntimeError(
            "steps of LearnableJPEG have no forward-mode derivative, because at a bound it depends on the gradient: "
            "use reverse mode, or fdjpeg.jpeg with the steps as tables"
        )


_Bounded.in_both_modes = _BoundedInBothModes


@traced_layer
class FeatureDistillation(nn.Module):
    """The JPEG-like layer of feature distillation, after which fdjpeg is named.

    Source: Liu et al., CVPR 2019, arXiv 1803.05787.

    Three tables carry that name, so each is a separate preset:

    - "paper": step 1 in the 15 low bands (i + j ≤ 4), 40 in the others (version 1, eq. 11);
    - "uniform(s)", such as "uniform(30)": step s in every band, 1…255 (version 1's sweep);
    - "code": step 25 in the top-left 4×4 bands, 30 elsewhere (the authors' release).

    "code" is as released: each of R, G and B separately, an orthonormal DCT of 0…255 without level shift, rounding half
    to even, no bytes after it, a clip to [0, 1]. Edges are replicated to whole blocks, which is our choice. The others
    run in libjpeg's arithmetic, YCbCr at 4:4:4, one table for all components: our choice too, because the paper leaves
    it open.

    Args:
        preset: one of the above.
        passes: how often the image goes through, at least once. The defence with two passes puts images on the lattice
            before an attacker sees them, and again before the network; as a layer it is both in one.
        gradient: as for `fdjpeg.jpeg`.

    Shape:
        ``(..., 3, H, W)`` or ``(..., 1, H, W)`` in [0, 1] to the same; bytes too, except for "code".

    Raises:
        TypeError, ValueError: an argument is of the wrong type or name, or a number is out of range.

    Example::

        defended = torch.nn.Sequential(fdjpeg.FeatureDistillation("paper", passes=2), network)
    """

    def __init__(
        self, preset: str = "paper", passes: int = 1, *, gradient: str | Surrogate = "straight-through"
    ) -> None:
        super().__init__()
        if not is_whole(passes) or passes < 1:
            raise ValueError(f"passes must be an integer of at least 1, got {passes!r}")
        self.preset = preset
        self.passes = int(passes)
        self.gradient = surrogates.resolve(gradient)
        self._steps = _feature_distillation_steps(preset)

    @property
    def steps(self) -> Tensor:
        """The preset's table, float32 ``(8, 8)``."""
        return QuantTables(self._steps, self._steps).y.float()

    def forward(self, image: Tensor) -> Tensor:
        steps = constant(self._steps, torch.float32, flattened(image))
        for _ in range(self.passes):
            if self.preset == "code":
                image = stages.quantize_channels(image, steps, self.gradient)
            else:
                tables = QuantTables(steps, steps)
                image = functional.jpeg(image, tables=tables, subsampling="4:4:4", gradient=self.gradient)
        return image

    def extra_repr(self) -> str:
        return f"{self.preset!r}, passes={self.passes}, gradient={surrogates.written(self.gradient)}"


def _feature_distillation_steps(preset: str) -> tuple[tuple[int, ...], ...]:
    """Returns the rows of a preset's table."""
    if preset == "paper":
        return tuple(tuple(1 if i + j <= 4 else 40 for j in range(8)) for i in range(8))
    if preset == "code":
        return tuple(tuple(25 if max(i, j) < 4 else 30 for j in range(8)) for i in range(8))
    if isinstance(preset, str) and (match := re.fullmatch(r"uniform\((\d+)\)", preset)):
        step = int(match[1])
        if not 1 <= step <= 255:
            raise ValueError(f"preset's step must be in 1…255, got {preset!r}")
        return ((step,) * 8,) * 8
    raise ValueError(f"preset must be 'paper', 'code' or 'uniform(step)' such as 'uniform(30)', got {preset!r}")
