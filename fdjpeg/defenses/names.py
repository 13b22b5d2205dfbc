"""Defences by name, such as "jpeg:75": the one parser, for evaluations, certificates and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg._checks import check_list, check_module, check_tensor, check_text, check_whole
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg.sources.image_set import pillow_codec, to_pillow, to_tensor
from fdjpeg.sources.networks import imported, made_by

from .defended import UNDEFENDED, Defended, layer_defense, named_gradients, of_module
from .fine_tuning import FineTuned
from .gradients import GRADIENTS, OPAQUE, distinct
from .registry import load
from .squeezing import BitDepth, Median, TotalVariation


def parse_defense(
    text: str,
    gradients: Sequence[str] = GRADIENTS,
    network: nn.Module | None = None,
    image: Tensor | None = None,
) -> Defended:
    """Returns a defence by its name.

    Args:
        text: one of

            - "none": the bare network;
            - "jpeg:75", "jpeg:75,4:4:4";
            - "random-jpeg:30-95": a quality for each image, drawn in every call;
            - "stochastic-jpeg:20+40+60+80": a quality for each block, drawn in every call;
            - "feature-distillation:paper". With two passes, an attacker enters before both of
              "feature-distillation:paper,passes=2", or after the first of
              "feature-distillation:paper,passes=2,entry=after";
            - "bit-depth:5", "median:2", "total-variation:0.05", see `squeezing`; the last needs scikit-image;
            - "saved:PATH": a defence that ``fdjpeg.defenses.load`` reads; a fine-tuned network also behind a JPEG, such
              as "saved:PATH,behind=jpeg:75" or "saved:PATH,behind=jpeg:75,4:4:4";
            - "module:callable": returns a ``torch.nn.Module`` from images to images, or to logits. It is called without
              arguments, or with the network if it takes one, and is looked for in the current folder too. A module
              itself, or a function of images, is taken as it is, see ``sources.networks.made_by``. Its code is
              executed: name only what you trust.
        gradients: the names that an adaptive attacker tries on fdjpeg's layers; others are tried with ``OPAQUE``.
        network: the bare network, for a callable that takes it.
        image: ``(1, C, H, W)``, floats in [0, 1], see `of_module`; the defence is moved to its device.

    Raises:
        ValueError: for an unknown name, or a value out of its range.

    Example::

        defended = parse_defense("jpeg:75,4:4:4", gradients=("straight-through", "cubic"))
    """
    check_text("defense", text)
    check_list("gradients", gradients)
    if network is not None:
        check_module("network", network)
    if image is not None:
        check_tensor("image", image, "(1, C, H, W)")
    kind, _, rest = text.partition(":")
    if text == "none":
        return UNDEFENDED
    if not rest:
        raise ValueError(
            'defense must be "none", "jpeg:QUALITY", "random-jpeg:LOW-HIGH", "stochastic-jpeg:QUALITY+...", '
            '"feature-distillation:PRESET", "bit-depth:BITS", "median:SIZE", "total-variation:WEIGHT", "saved:PATH" or '
            f'"module:callable", got {text!r}'
        )
    if kind in _PARSERS:
        value, *options = rest.split(",")
        return _PARSERS[kind](text, value, options, gradients)
    made = _saved(text, rest) if kind == "saved" else _called(text, network)
    if isinstance(made, Defended):
        return made
    return of_module(made.eval() if image is None else made.to(image.device).eval(), text, gradients, image)


def _saved(text: str, rest: str) -> nn.Module:
    path, _, front = rest.partition(",behind=")
    if not Path(path).exists():
        raise ValueError(f"defense must name a saved defence that exists, got {text!r}")
    defense = load(path)
    if not front:
        return defense
    kind, _, value = front.partition(":")
    layer = _parse_jpeg(text, *_value_and_options(value), GRADIENTS).module if kind == "jpeg" else None
    if not isinstance(defense, FineTuned) or not isinstance(layer, fdjpeg.JPEG):
        raise ValueError(f'defense must be a fine-tuned network behind a JPEG such as "jpeg:75", got {text!r}')
    return defense.behind(layer)


def _value_and_options(text: str) -> tuple[str, list[str]]:
    value, *options = text.split(",")
    return value, options


def _called(text: str, network: nn.Module | None) -> Defended | nn.Module:
    make = imported(text, "defense")
    arguments = (network,) if network is not None and callable(make) and _takes_network(make) else ()
    made: Defended | nn.Module = made_by(make, text, "defense", (Defended, nn.Module), *arguments)
    return made


def _takes_network(make: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


def jpeg_defense(quality: int, subsampling: str = "4:2:0", gradients: Sequence[str] = GRADIENTS) -> Defended:
    """Returns JPEG compression by ``fdjpeg.JPEG``, with Pillow's as the oracle.

    Args:
        quality: 1…100.
        subsampling: "4:4:4", "4:2:2" or "4:2:0".
        gradients: the names that an adaptive attacker tries; at 4:4:4 without "identity", see `gradients.distinct`.

    Raises:
        ValueError: for a value out of its range.

    Example::

        jpeg_defense(75, "4:4:4").name  # "jpeg:75,4:4:4"
    """
    check_list("gradients", gradients)
    check_whole("quality", quality, 1)
    if not isinstance(subsampling, str) or subsampling not in PILLOW_SUBSAMPLINGS:
        known = ", ".join(map(repr, PILLOW_SUBSAMPLINGS))
        raise ValueError(f"subsampling must be one of {known}, got {subsampling!r}")
    return layer_defense(
        f"jpeg:{quality}" + ("" if subsampling == "4:2:0" else f",{subsampling}"),
        fdjpeg.JPEG(quality, subsampling=subsampling),
        distinct(gradients, subsampling),
        oracle=lambda images: _by_pillow(images, quality, subsampling),
    )


def feature_distillation_defense(
    preset: str, passes: int = 1, entry: str = "before", gradients: Sequence[str] = GRADIENTS
) -> Defended:
    """Returns the layer of feature distillation (Liu et al. 2019, arXiv 1803.05787), with one pass or two.

    Args:
        preset: as for ``fdjpeg.FeatureDistillation``.
        passes: 1 or 2.
        entry: where an attacker of two passes enters: "before" both, or "after" the first, as published.
        gradients: the names that an adaptive attacker tries, without "identity", see `gradients.distinct`.

    Raises:
        ValueError: for an unknown preset or other passes.

    Example::

        feature_distillation_defense("uniform(30)", passes=2, entry="after")
    """
    check_list("gradients", gradients)
    for name, value, allowed in (("passes", passes, (1, 2)), ("entry", entry, ("before", "after"))):
        if isinstance(value, bool) or value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    inside = 1 if entry == "after" else passes
    module = fdjpeg.FeatureDistillation(preset, passes=inside)
    tables = fdjpeg.QuantTables(module.steps, module.steps).to_pillow()

    def oracle(images: Tensor) -> Tensor:
        for _ in range(inside):
            images = _by_pillow(images, tables, "4:4:4")
        return images

    return layer_defense(
        f"feature-distillation:{preset}" + ("" if passes == 1 else f",passes=2,entry={entry}"),
        module,
        distinct(gradients, "4:4:4"),
        first=fdjpeg.FeatureDistillation(preset) if entry == "after" else None,
        oracle=None if preset == "code" else oracle,  # "code" is not JPEG: no YCbCr, no bytes
    )


def _by_pillow(images: Tensor, strength: int | list[list[int]], subsampling: str) -> Tensor:
    return torch.stack([to_tensor(pillow_codec(to_pillow(image), strength, subsampling)[0]) for image in images])


def _parse_jpeg(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    subsampling = options[0] if options else "4:2:0"
    if not value.isdecimal() or not 1 <= int(value) <= 100:
        raise ValueError(f'quality in a defense such as "jpeg:75" must be an integer 1…100, got {text!r}')
    if subsampling not in PILLOW_SUBSAMPLINGS or len(options) > 1:
        raise ValueError(f"subsampling in a defense must be one of {', '.join(PILLOW_SUBSAMPLINGS)}, got {text!r}")
    return jpeg_defense(int(value), subsampling, gradients)


def _parse_random(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    low, _, high = value.partition("-")
    if options or not (low.isdecimal() and high.isdecimal()):
        raise ValueError(f'defense must give qualities such as "random-jpeg:30-95", got {text!r}')
    return layer_defense(text, fdjpeg.RandomJPEG((int(low), int(high))), gradients)


def _parse_stochastic(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    qualities = value.split("+")
    if options or not all(quality.isdecimal() for quality in qualities):
        raise ValueError(f'defense must give qualities such as "stochastic-jpeg:20+40+60+80", got {text!r}')
    return layer_defense(text, fdjpeg.StochasticJPEG([int(quality) for quality in qualities]), gradients)


def _parse_feature_distillation(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    chosen = {"passes": "1", "entry": "before"}
    allowed = {"passes": ("1", "2"), "entry": ("before", "after")}
    for option in options:
        key, _, setting = option.partition("=")
        if key not in allowed or setting not in allowed[key]:
            raise ValueError(
                'options of a defense such as "feature-distillation:paper,passes=2,entry=after" must be passes=1 or 2, '
                f"entry=before or after, got {text!r}"
            )
        chosen[key] = setting
    if chosen["entry"] == "after" and chosen["passes"] == "1":
        raise ValueError(f"passes must be 2 in a defense with entry=after, got {text!r}")
    return feature_distillation_defense(value, int(chosen["passes"]), chosen["entry"], gradients)


def _parse_bit_depth(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    if options or not value.isdecimal() or not 1 <= int(value) <= 8:
        raise ValueError(f'bits in a defense such as "bit-depth:5" must be an integer 1…8, got {text!r}')
    return layer_defense(text, BitDepth(int(value)), ("identity",))


def _parse_median(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    if options or not value.isdecimal() or int(value) < 2:
        raise ValueError(f'size in a defense such as "median:2" must be an integer of at least 2, got {text!r}')
    return layer_defense(text, Median(int(value)), named_gradients(gradients, OPAQUE))


def _parse_total_variation(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if options or not 0 < weight < float("inf"):
        raise ValueError(f'weight in a defense such as "total-variation:0.05" must be a positive number, got {text!r}')
    return layer_defense(text, TotalVariation(weight), ("identity",))


_PARSERS = {
    "jpeg": _parse_jpeg,
    "random-jpeg": _parse_random,
    "stochastic-jpeg": _parse_stochastic,
    "feature-distillation": _parse_feature_distillation,
    "bit-depth": _parse_bit_depth,
    "median": _parse_median,
    "total-variation": _parse_total_variation,
}
