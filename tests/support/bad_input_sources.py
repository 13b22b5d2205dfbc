"""The rows of bad input of `fdjpeg.sources`."""

from __future__ import annotations

import math

from fdjpeg import sources
from support.bad_input import Row, rows
from support.bad_input_data import BYTES, IMAGES, LABELS, NETWORK
from support.bad_input_kinds import of_flag, of_module, of_tensor, of_text, of_whole

SET = sources.ImageSet(IMAGES, LABELS, ("a", "b"))

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD = {
    "sources.PACKAGED": "is a table",
    "sources.External": "is made by `external`, which has rows",
    "sources.resnet18_cifar10": "takes no argument",
}


def _of_image_sets() -> list[Row]:
    name = "sources.ImageSet"
    made = lambda **k: sources.ImageSet(**{"images": IMAGES, "labels": LABELS, "names": ("a", "b"), **k})  # noqa: E731
    shape = "images must be (N, 3, H, W) or (N, 1, H, W), got shape "
    return [
        *of_tensor(name, "images", made),
        *of_tensor(name, "labels", made),
        *of_whole(name, "count", SET.head, 1),
        *rows(
            name,
            (lambda: made(images=IMAGES[0]), ValueError, f"{shape}(3, 32, 32)"),
            (lambda: made(images=IMAGES[:, :2]), ValueError, f"{shape}(2, 2, 32, 32)"),
            (lambda: made(images=BYTES), TypeError, "images must be float32 in [0, 1], got torch.uint8"),
            (
                lambda: made(images=IMAGES * 3),
                ValueError,
                "images must be in [0, 1], or uint8, got values from 1.5 to 1.5",
            ),
            (
                lambda: made(images=IMAGES * math.nan),
                ValueError,
                "images must be in [0, 1], or uint8, got values from nan",
            ),
            (lambda: made(labels=LABELS[:1]), ValueError, "labels must be (2,), one for each image, got shape (1,)"),
            (lambda: made(labels=LABELS.float()), TypeError, "labels must be integers, got torch.float32"),
            (lambda: made(labels=LABELS > 0), TypeError, "labels must be integers, got torch.bool"),
            (lambda: made(names="ab"), TypeError, "names must be a list, got 'ab'"),
            (lambda: made(names=("a",)), ValueError, "names must be 2 names, one for each image, got 1"),
            (
                lambda: sources.ImageSet.of("folder"),
                TypeError,
                "data must be images with their classes, got the text 'fo",
            ),
            (
                lambda: sources.ImageSet.of(5),
                TypeError,
                "data must be images with their classes, or batches of them, got",
            ),
            (lambda: sources.ImageSet.of([]), ValueError, "data must hold at least one image, got none"),
            (
                lambda: sources.ImageSet.of([3]),
                TypeError,
                "data must be pairs of images and classes, got an item of type i",
            ),
            (
                lambda: sources.ImageSet.of([{"a": 1}]),
                TypeError,
                "data must name its images by one of images, image, pix",
            ),
        ),
    ]


def _of_names_of_images() -> list[Row]:
    name = "sources.load_images"
    load = lambda **k: sources.load_images(**{"name": "photographs", **k})  # noqa: E731
    kinds = 'data must be "photographs", a folder of class folders, an .npz file, '
    return [
        *of_whole(name, "size", load, 1),
        *of_whole(name, "count", load, 1),
        *of_whole(name, "seed", load),
        *rows(
            name,
            *((lambda v=v: load(name=v), ValueError, kinds) for v in ("photo", "", "missing/folder", "torchvision:")),
            *(
                (lambda v=v: load(name=v), TypeError, f"data must be the name of images, got {v!r}")
                for v in (None, 3, b"photographs")
            ),
            (lambda: load(name="missing.npz"), ValueError, "data must "),
            (
                lambda: load(name="mnist:missing"),
                ValueError,
                "data must name files that exist, as mnist:PLACE, got 'miss",
            ),
            (lambda: load(name="cifar10:"), ValueError, kinds),
        ),
        *of_whole("sources.photographs", "size", sources.photographs, 1),
    ]


def _of_networks() -> list[Row]:
    made = lambda **k: sources.Network(**{"module": NETWORK, "name": "n", **k})  # noqa: E731
    wrapped = lambda **k: sources.Normalized(**{"network": NETWORK, "mean": [0.5], "std": [0.2], **k})  # noqa: E731
    imported = "model must name something that can be imported, got "
    return [
        *of_module("sources.Network", "module", made),
        *of_text("sources.Network", "name", made),
        *of_whole("sources.Network", "size", made, 1),
        *of_module("sources.Network", "model", sources.Network.of),
        *of_module("sources.Normalized", "network", wrapped),
        *rows(
            "sources.Normalized",
            (lambda: wrapped(mean=0.5), ValueError, "mean must be one number for each channel, got 0.5"),
            (lambda: wrapped(mean=[0.5, 0.5]), ValueError, "mean must be one number for each channel, got [0.5, 0.5]"),
            (lambda: wrapped(std="no"), ValueError, "std must be one number for each channel, got 'no'"),
            (lambda: wrapped(std=[0.0]), ValueError, "std must be above 0, got [0.0]"),
        ),
        *rows(
            "sources.load_network",
            *((lambda v=v: sources.load_network(v), ValueError, "model must be one of ") for v in ("resnet", "", ":")),
            *(
                (lambda v=v: sources.load_network(v), TypeError, "model must be the name of a network")
                for v in (None, 3)
            ),
            (lambda: sources.load_network("no_such_module:net"), ValueError, f"{imported}'no_such_module:net'"),
            (
                lambda: sources.load_network("math:pi"),
                ValueError,
                "model must make a torch.nn.Module, got 'math:pi', whi",
            ),
            (
                lambda: sources.load_network("builtins:dict"),
                ValueError,
                "model must make a torch.nn.Module, got 'builti",
            ),
        ),
        *rows(
            "sources.efficientnet_lite",
            *(
                (lambda v=v: sources.efficientnet_lite(v), ValueError, f"number must be 0, 1 or 2, got {v!r}")
                for v in (3, -1, "0", None, True, 0.0)
            ),
        ),
    ]


def _of_external() -> list[Row]:
    name, made = "sources.external", sources.external
    returned = lambda value: sources.external(lambda image: value)(IMAGES)  # noqa: E731
    return [
        *of_flag(name, "batched", lambda **k: made(len, **k)),
        *rows(
            name,
            (lambda: made(5), TypeError, "function must be callable, got int"),  # type: ignore[arg-type]
            (lambda: made(len, takes="jpeg"), ValueError, "takes must be one of tensor, array, pillow, got 'jpeg'"),
            (lambda: made(len, takes=[]), ValueError, "takes must be one of tensor, array, pillow, got []"),
            (
                lambda: made(len, True, "pillow"),
                ValueError,
                "batched must be False for a function of Pillow images, got T",
            ),
            (lambda: returned("text"), ValueError, "function "),
            (lambda: returned(IMAGES[0, :, :8]), ValueError, "function "),
            (lambda: returned(3 * IMAGES[0]), ValueError, "function "),
        ),
    ]


ROWS: list[Row] = [*_of_image_sets(), *_of_names_of_images(), *_of_networks(), *_of_external()]
