"""Rows of the table of bad input, and the rows of arguments that several public names share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from fdjpeg import QuantTables, surrogates

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
BYTES = (255 * IMAGE).byte()
TABLES = QuantTables.flat(9)
BLOCKS = torch.zeros(2, 3, 8, 8)


class Row(NamedTuple):
    """A call that must fail, and how."""

    name: str
    call: Callable[[], object]
    error: type[Exception]
    message: str  #: how the message begins


def rows(name: str, *cases: tuple[Callable[[], object], type[Exception], str]) -> list[Row]:
    """Returns the rows of one public name."""
    return [Row(name, *case) for case in cases]


# ---------------------------------------------------------------------------------------------------------------------
# Arguments that several names share

NAMES_OF_SUBSAMPLING = "subsampling must be one of '4:4:4', '4:2:2', '4:2:0', '4:4:0', '4:1:1', got "
NAMES_OF_GRADIENT = "gradient must be one of 'straight-through', 'identity', 'cubic', "


def of_images(name: str, call: Callable[[Any], object], floats_only: bool = False) -> list[Row]:
    """Rows of an image ``(..., 3 or 1, H, W)``."""
    shape = "image must have shape (..., 3, H, W) or (..., 1, H, W) with H, W of at least 1, got "
    return rows(
        name,
        (lambda: call(None), TypeError, "image must be a torch.Tensor, got NoneType"),
        (lambda: call([[[0.5]]]), TypeError, "image must be a torch.Tensor, got list"),
        (lambda: call(np.zeros((3, 8, 8))), TypeError, "image must be a torch.Tensor, got ndarray"),
        (
            lambda: call(IMAGE.long()),
            TypeError,
            "image must be uint8, float16, bfloat16, float32 or float64, got torch.int",
        ),
        (lambda: call(IMAGE.to(torch.complex64)), TypeError, "image must be uint8, float16, bfloat16, float32 or"),
        (
            lambda: call(IMAGE > 0.5),
            TypeError,
            "image must be uint8, float16, bfloat16, float32 or float64, got torch.bool",
        ),
        (
            lambda: call(IMAGE.to_sparse()),
            TypeError,
            "image must be a dense tensor, got one of layout torch.sparse_coo",
        ),
        (lambda: call(IMAGE[:, :2]), ValueError, f"{shape}(2, 2, 16, 24)"),
        (lambda: call(IMAGE[0, 0]), ValueError, f"{shape}(16, 24)"),
        (lambda: call(IMAGE[..., :0]), ValueError, f"{shape}(2, 3, 16, 0)"),
        (lambda: call(IMAGE.permute(0, 2, 3, 1)), ValueError, f"{shape}(2, 16, 24, 3)"),
    )


def of_floats(name: str, argument: str, call: Callable[[Any], object]) -> list[Row]:
    """Rows of a dense floating tensor."""
    return rows(
        name,
        (lambda: call(None), TypeError, f"{argument} must be a torch.Tensor, got NoneType"),
        (lambda: call(BYTES), TypeError, f"{argument} must be float16, bfloat16, float32 or float64, got torch.uint8"),
        (lambda: call(BLOCKS.to_sparse()), TypeError, f"{argument} must be a dense tensor, got one of layout torch.sp"),
    )


def of_strengths(name: str, call: Callable[..., object], one_for_each: bool = True) -> list[Row]:
    """Rows of ``quality`` and ``tables``."""
    table = [
        (lambda: call(quality=0), ValueError, "quality must be in 1…100, got 0"),
        (lambda: call(quality=100.5), ValueError, "quality must be in 1…100, got 100.5"),
        (lambda: call(quality=math.nan), ValueError, "quality must be in 1…100, got nan"),
        (lambda: call(quality=-math.inf), ValueError, "quality must be in 1…100, got -inf"),
        (lambda: call(quality=10**400), ValueError, "quality must be in 1…100, got 1000"),
        (lambda: call(quality="75"), TypeError, "quality must be a number or a tensor, got '75' (str)"),
        (lambda: call(quality=None), TypeError, "quality must be a number or a tensor, got None (NoneType)"),
        (lambda: call(quality=True), TypeError, "quality must be a number or a tensor, got True (bool)"),
        (lambda: call(quality=[50, 60]), TypeError, "quality must be a number or a tensor, got [50, 60] (list)"),
        (lambda: call(quality=5j), TypeError, "quality must be a number or a tensor, got 5j (complex)"),
        (lambda: call(quality=torch.tensor(True)), TypeError, "quality must have an integer or floating dtype, got to"),
        (lambda: call(quality=torch.ones(2, 2)), ValueError, "quality must be a number, "),
        (lambda: call(tables=50), TypeError, "tables must be fdjpeg.QuantTables, got int"),
        (lambda: call(tables=torch.ones(8, 8)), TypeError, "tables must be fdjpeg.QuantTables, got Tensor"),
        (
            lambda: call(quality=50, tables=TABLES),
            ValueError,
            "tables take the place of quality: give one of them, got",
        ),
    ]
    if one_for_each:
        table += [
            (
                lambda: call(quality=torch.ones(3)),
                ValueError,
                "quality must be a number, a 0-dim tensor or one of shape ",
            ),
            (
                lambda: call(quality=torch.ones((), device="meta")),
                ValueError,
                "quality must hold values where the image does, got meta tensors",
            ),
            (
                lambda: call(tables=QuantTables.flat(torch.ones((), device="meta"))),
                ValueError,
                "tables must hold values where the image does, got meta tensors",
            ),
            (
                lambda: call(tables=QuantTables.flat(torch.ones(3))),
                ValueError,
                "tables must be (8, 8) or one for each of the 2 images, got 3",
            ),
        ]
    return rows(name, *table)


def of_names(name: str, call: Callable[..., object], *arguments: str) -> list[Row]:
    """Rows of ``subsampling``, ``upsampling``, ``gradient``, ``arithmetic`` and ``soft``."""
    cases = {
        "subsampling": [
            (lambda: call(subsampling="420"), ValueError, f"{NAMES_OF_SUBSAMPLING}'420'"),
            (lambda: call(subsampling=(2, 2)), ValueError, f"{NAMES_OF_SUBSAMPLING}(2, 2)"),
            (lambda: call(subsampling=None), ValueError, f"{NAMES_OF_SUBSAMPLING}None"),
        ],
        "upsampling": [
            (lambda: call(upsampling="cubic"), ValueError, "upsampling must be one of 'fancy', 'nearest', got 'cubic'"),
            (lambda: call(upsampling=True), ValueError, "upsampling must be one of 'fancy', 'nearest', got True"),
        ],
        "gradient": [
            (lambda: call(gradient="ste"), ValueError, NAMES_OF_GRADIENT),
            (lambda: call(gradient=None), TypeError, NAMES_OF_GRADIENT),
            (lambda: call(gradient=surrogates.Tanh), TypeError, NAMES_OF_GRADIENT),
            (lambda: call(gradient=torch.round), TypeError, NAMES_OF_GRADIENT),
        ],
        "arithmetic": [
            (lambda: call(arithmetic="exact"), ValueError, "arithmetic must be one of 'libjpeg', 'real', got 'exact'"),
            (
                lambda: call(arithmetic=["real"]),
                ValueError,
                "arithmetic must be one of 'libjpeg', 'real', got ['real']",
            ),
        ],
        "soft": [
            (lambda: call(soft=1), TypeError, "soft must be True or False, got 1"),
            (lambda: call(soft=np.bool_(True)), TypeError, "soft must be True or False, got np.True_"),
        ],
    }
    return rows(name, *(case for argument in arguments for case in cases[argument]))


def of_real_and_soft(name: str, call: Callable[..., object]) -> list[Row]:
    """Rows of settings that exclude each other."""
    return rows(
        name,
        (lambda: call(soft=True), ValueError, "soft=True needs arithmetic='real', got 'libjpeg'"),
        (
            lambda: call(soft=True, arithmetic="real"),
            ValueError,
            "soft=True needs a gradient with a smooth forward, got 'straight-through'",
        ),
        (
            lambda: call(gradient=surrogates.Noise()),
            ValueError,
            "gradient=Noise(generator=None) needs arithmetic='real' and soft=True, got arithmetic='libjpeg', ",
        ),
    )
