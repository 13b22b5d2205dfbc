"""The rows of bad input of `fdjpeg.compat`, for the packages that are importable here."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

from fdjpeg import compat
from fdjpeg.compat import basicsr, diff_jpeg, diffjpeg, kornia
from support.bad_input import IMAGE, Row, of_images, rows
from support.bad_input_kinds import of_flag

FLOATS = 255 * IMAGE
QUALITY = torch.tensor([50.0])
TABLE = torch.full((8, 8), 9.0)

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD: dict[str, str] = {}

#: Packages that a name needs. torchvision raises RuntimeError with a torch that it was not built for.
NEEDS = {"kornia": "kornia", "torchvision": "torchvision.transforms.v2"}


def importable(package: str) -> bool:
    """Returns whether a package imports here."""
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError):
        return False
    return True


#: The modules of `fdjpeg.compat` whose names can be imported here.
MODULES = [
    f"fdjpeg.compat.{module.name}"
    for module in pkgutil.iter_modules(compat.__path__)
    if not module.name.startswith("_") and importable(NEEDS.get(module.name, "torch"))
]


def _named(table: list[Row], argument: str) -> list[Row]:
    """Rows of an argument ``image`` under its name in the original."""
    return [row._replace(message=row.message.replace("image must", f"{argument} must", 1)) for row in table]


def _of_base_tables(name: str, call: Callable[..., object]) -> list[Row]:
    found: list[Row] = []
    for argument in ("quantization_table_y", "quantization_table_c"):
        wanted, shape = f"{argument} must be a torch.Tensor or None, got ", f"{argument} must have shape (8, 8) or (N,"
        found += rows(
            name,
            (lambda a=argument: call(**{a: TABLE.tolist()}), TypeError, f"{wanted}list"),
            (lambda a=argument: call(**{a: TABLE.numpy()}), TypeError, f"{wanted}ndarray"),
            (lambda a=argument: call(**{a: 9}), TypeError, f"{wanted}int"),
            (lambda a=argument: call(**{a: TABLE > 1}), TypeError, f"{argument} must have an integer or floating dtyp"),
            (lambda a=argument: call(**{a: TABLE.to_sparse()}), TypeError, f"{argument} must be a dense tensor, got "),
            (lambda a=argument: call(**{a: TABLE[:7]}), ValueError, shape),
            (lambda a=argument: call(**{a: TABLE.flatten()}), ValueError, shape),
        )
    return found


def _of_scaled(name: str, call: Callable[..., object]) -> list[Row]:
    """Rows of a quality for each image, and of base tables in a call."""
    wanted = "jpeg_quality must be a tensor of shape (1,) or (2,), got "
    each = "must be (8, 8) or one for each of the 2 images, got 3"
    return rows(
        name,
        (lambda: call(jpeg_quality=None), TypeError, f"{wanted}None"),
        (lambda: call(jpeg_quality=50.0), TypeError, f"{wanted}50.0"),
        (lambda: call(jpeg_quality=[50.0, 60.0]), TypeError, f"{wanted}[50.0, 60.0]"),
        (lambda: call(jpeg_quality=QUALITY[0]), ValueError, f"{wanted}one of shape ()"),
        (lambda: call(jpeg_quality=QUALITY[:, None]), ValueError, f"{wanted}one of shape (1, 1)"),
        (lambda: call(jpeg_quality=QUALITY[:0]), ValueError, f"{wanted}one of shape (0,)"),
        (lambda: call(jpeg_quality=torch.ones(3)), ValueError, f"{wanted}one of shape (3,)"),
        (
            lambda: call(jpeg_quality=QUALITY > 1),
            TypeError,
            "jpeg_quality must have an integer or floating dtype, got ",
        ),
        (lambda: call(jpeg_quality=QUALITY.to_sparse()), TypeError, "jpeg_quality must be a dense tensor, got "),
        (lambda: call(quantization_table_y=TABLE.expand(3, 8, 8)), ValueError, f"quantization_table_y {each}"),
        (lambda: call(quantization_table_c=TABLE.expand(3, 8, 8)), ValueError, f"quantization_table_c {each}"),
    )


def _of_kornia() -> list[Row]:
    function, layer = kornia.jpeg_codec_differentiable, kornia.JPEGCodecDifferentiable()

    def called(**changed: Any) -> object:
        return function(**{"input": IMAGE, "jpeg_quality": QUALITY, **changed})

    def of_the_layer(**changed: Any) -> object:
        tables = {name: changed.pop(name) for name in list(changed) if name.startswith("quantization")}
        made = kornia.JPEGCodecDifferentiable(**tables)
        return made(**{"image_rgb": IMAGE, "jpeg_quality": QUALITY, **changed})

    name, kind = "compat.kornia.jpeg_codec_differentiable", "compat.kornia.JPEGCodecDifferentiable"
    return [
        *_named(of_images(name, lambda image: function(image, QUALITY)), "input"),
        *_of_base_tables(name, called),
        *_of_scaled(name, called),
        *_named(of_images(kind, lambda image: layer(image, QUALITY)), "image_rgb"),
        *_of_base_tables(kind, kornia.JPEGCodecDifferentiable),
        *_of_scaled(kind, of_the_layer),
    ]


def _of_kornia_layer() -> list[Row]:
    name, layer = "compat.kornia.RandomJPEG", kornia.RandomJPEG
    number = "jpeg_quality must be a range, or a number x of 0…50 for 50 ± x, got "
    two = "jpeg_quality must be two numbers, 1 ≤ least ≤ greatest ≤ 100, got "
    return [
        *of_flag(name, "same_on_batch", layer),
        *of_flag(name, "keepdim", layer),
        *rows(
            name,
            *(
                (lambda v=v: layer(p=v), ValueError, f"p must be a probability, 0…1, got {v!r}")
                for v in (-0.1, 1.1, math.nan, "1", None, True)
            ),
            *((lambda v=v: layer(v), ValueError, f"{number}{v!r}") for v in (-1, 51, math.nan)),
            *(
                (lambda v=v: layer(v), ValueError, f"{two}{v!r}")
                for v in ((0, 50), (60, 50), (50, 101), (math.nan, 50), (50,), (1, 2, 3), "50", None, True, ("1", "2"))
            ),
        ),
    ]


def _of_diff_jpeg() -> list[Row]:
    function, layer = diff_jpeg.diff_jpeg_coding, diff_jpeg.DiffJPEGCoding()
    found: list[Row] = []
    for name, call in (("compat.diff_jpeg.diff_jpeg_coding", function), ("compat.diff_jpeg.DiffJPEGCoding", layer)):
        shape = "image_rgb must have shape (..., 3, H, W) or (..., 1, H, W) with H, W of at least 1, got "

        def called(call: Callable[..., object] = call, **changed: Any) -> object:
            return call(**{"image_rgb": FLOATS, "jpeg_quality": QUALITY, **changed})

        found += [
            *_of_base_tables(name, called),
            *_of_scaled(name, called),
            *rows(
                name,
                (lambda c=called: c(image_rgb=None), TypeError, "image_rgb must be a torch.Tensor, got NoneType"),
                (lambda c=called: c(image_rgb=FLOATS.numpy()), TypeError, "image_rgb must be a torch.Tensor, got ndar"),
                (
                    lambda c=called: c(image_rgb=FLOATS.byte()),
                    TypeError,
                    "image_rgb must be floating, in [0, 255], got",
                ),
                (lambda c=called: c(image_rgb=FLOATS.to_sparse()), TypeError, "image_rgb must be a dense tensor, got "),
                (lambda c=called: c(image_rgb=FLOATS[:, :2]), ValueError, f"{shape}(2, 2, 16, 24)"),
                (lambda c=called: c(image_rgb=FLOATS[..., :0]), ValueError, f"{shape}(2, 3, 16, 0)"),
            ),
        ]
    return [
        *found,
        *of_flag("compat.diff_jpeg.DiffJPEGCoding", "ste", diff_jpeg.DiffJPEGCoding),
        *of_flag("compat.diff_jpeg.diff_jpeg_coding", "ste", lambda ste: function(FLOATS, QUALITY, ste=ste)),
    ]


def _of_layers() -> list[Row]:
    lomnitz, of_basicsr = "compat.diffjpeg.DiffJPEG", "compat.basicsr.DiffJPEG"
    fixed, layer = diffjpeg.DiffJPEG(16, 24), basicsr.DiffJPEG()
    found = [
        *of_images(lomnitz, fixed),
        *of_flag(lomnitz, "differentiable", lambda differentiable: diffjpeg.DiffJPEG(16, 24, differentiable)),
        *_named(of_images(of_basicsr, lambda image: layer(image, 50)), "x"),
        *of_flag(of_basicsr, "differentiable", basicsr.DiffJPEG),
        *rows(
            of_basicsr,
            (
                lambda: layer(IMAGE, torch.ones(3)),
                ValueError,
                "quality must be a number, a 0-dim tensor or one of shape (1,) or (2,), got shape (3,)",
            ),
        ),
    ]
    of_a_quality: list[tuple[str, Callable[[Any], object]]] = [
        (lomnitz, lambda quality: diffjpeg.DiffJPEG(16, 24, quality=quality)),
        (of_basicsr, lambda quality: layer(IMAGE, quality)),
    ]
    for name, call in of_a_quality:
        found += rows(
            name,
            (lambda c=call: c("80"), TypeError, "quality must be a number or a tensor, got '80' (str)"),
            (lambda c=call: c(None), TypeError, "quality must be a number or a tensor, got None (NoneType)"),
            (lambda c=call: c(True), TypeError, "quality must be a number or a tensor, got True (bool)"),
            (lambda c=call: c(0), ValueError, "quality must be in 1…100, got 0"),
            (lambda c=call: c(101), ValueError, "quality must be in 1…100, got 101"),
            (lambda c=call: c(math.nan), ValueError, "quality must be in 1…100, got nan"),
        )
    return found


def _of_torchvision() -> list[Row]:
    from fdjpeg.compat import torchvision

    wanted, held = "quality must be an integer or two of them, got ", "quality must hold integers, 1 ≤ least ≤ greatest"
    return rows(
        "compat.torchvision.JPEG",
        *((lambda v=v: torchvision.JPEG(v), TypeError, f"{wanted}{v!r}") for v in (None, True, 50.0, {50, 60})),
        *(
            (lambda v=v: torchvision.JPEG(v), ValueError, held)
            for v in (0, 101, (60, 50), (0, 50), (50, 101), (50,), (1, 2, 3), (1.5, 2.5), "50", (True, True))
        ),
    )


ROWS = [*_of_kornia(), *_of_diff_jpeg(), *_of_layers()]
if importable(NEEDS["kornia"]):
    ROWS += _of_kornia_layer()
else:
    NOTHING_BAD["compat.kornia.RandomJPEG"] = "needs kornia, which is not installed"
if "fdjpeg.compat.torchvision" in MODULES:
    ROWS += _of_torchvision()
