"""The defended networks of an evaluation: defences by name, and one differentiable version for each gradient."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import surrogates
from fdjpeg._packages import optional
from fdjpeg.attacks.base import seeded
from fdjpeg.sources.image_set import SUBSAMPLINGS, pillow_codec, to_pillow, to_tensor
from fdjpeg.sources.networks import digest, evaluating, imported

#: What an adaptive attacker tries on layers that take a gradient by name.
GRADIENTS = ("identity", "straight-through", "cubic")

#: What an adaptive attacker tries on all other layers: their own derivative, and none but the identity (BPDA).
OPAQUE = ("own", "identity")

#: The control: plain rounding, whose gradient is zero.
ZERO = "zero"


@dataclass(frozen=True)
class Defended:
    """A layer before the network, or another network in place of it.

    Attributes:
        name: as reports print it.
        gradients: what an adaptive attacker tries, one after the other; empty for the bare network.
        deployed: makes the defended classifier, whose forward pass every verdict comes from, from the bare one.
        attacked: makes the classifier that an attacker differentiates, from the bare one and one of ``gradients``.
        layer: what reaches the bare network, images to images; None where there is no such thing.
        first: what images pass before an attacker sees them (the first of two passes), or None.
        oracle: the layer by other means, uint8 ``(N, C, H, W)`` to uint8, as a check; or None.
        module: what tells this defence from others by its weights and settings.
        exact: whether ``attacked`` has the forward pass of ``deployed``.
    """

    name: str
    gradients: tuple[str, ...]
    deployed: Callable[[nn.Module], nn.Module]
    attacked: Callable[[nn.Module, str], nn.Module]
    layer: Callable[[Tensor], Tensor] | None = None
    first: Callable[[Tensor], Tensor] | None = None
    oracle: Callable[[Tensor], Tensor] | None = None
    module: nn.Module | None = None
    exact: bool = True

    def entered(self, images: Tensor) -> Tensor:
        """The images as an attacker meets them."""
        return images if self.first is None else self.first(images)

    def digest(self) -> str:
        """A fingerprint of name, settings and weights."""
        return self.name if self.module is None else f"{self.name} {digest(self.module)}"


def _bare(network: nn.Module, gradient: str = "") -> nn.Module:
    return network


UNDEFENDED = Defended("none", (), _bare, _bare)


def _chain(layer: nn.Module, network: nn.Module) -> nn.Module:
    """One after the other, in evaluation mode as both of them are."""
    both = nn.Sequential(layer, network)
    both.training = False
    return both


def layer_defense(
    name: str,
    module: nn.Module,
    gradients: Sequence[str],
    *,
    first: nn.Module | None = None,
    oracle: Callable[[Tensor], Tensor] | None = None,
) -> Defended:
    """A defence that is a layer before the network, with a version for each of the gradients.

    Raises:
        ValueError: for a gradient that the layer does not have, see ``differentiable``.
    """
    for gradient in gradients:
        differentiable(module, gradient)  # raises before any work is done
    return Defended(
        name,
        tuple(gradients),
        deployed=lambda network: _chain(module, network),
        attacked=lambda network, gradient: _chain(differentiable(module, gradient), network),
        layer=module,
        first=first,
        oracle=oracle,
        module=module,
    )


def of_module(
    module: nn.Module, name: str, gradients: Sequence[str] = GRADIENTS, image: Tensor | None = None
) -> Defended:
    """A defence from any module.

    Args:
        module: one of

            - a layer, images to images of the same shape: fdjpeg's layers in it take ``gradients``, a layer without
              them ``OPAQUE``;
            - a whole classifier, images to logits;
            - a defence of ``fdjpeg.defenses``, or whatever has its ``wrap``, ``for_attack``, ``prepare`` and
              ``gradients``, which are what they are there.
        name: as reports print it.
        gradients: what an adaptive attacker tries on layers of fdjpeg's.
        image: ``(1, C, H, W)`` in [0, 1], by which a layer is told from a classifier, where the module is; a layer,
            if None.

    Raises:
        ValueError: if the output is neither an image of the same shape nor logits.
    """
    if hasattr(module, "wrap") and hasattr(module, "for_attack"):
        return _of_defense(module, name, image)
    named = any(_takes_gradient(part) for part in module.modules())
    if image is not None:
        with evaluating(module), torch.no_grad():
            out = module(image)
        if out.ndim == 2 and len(out) == len(image):
            return Defended(
                name,
                tuple(gradients) if named else ("own",),
                deployed=lambda network: module,
                attacked=lambda network, gradient: differentiable(module, gradient),
                module=module,
            )
        if out.shape != image.shape:
            raise ValueError(
                f"defense {name} should return images of the shape that it gets, or logits (N, classes), got "
                f"{tuple(out.shape)} for {tuple(image.shape)}"
            )
    return layer_defense(name, module, gradients if named else OPAQUE)


def _of_defense(defense: Any, name: str, image: Tensor | None) -> Defended:
    # By identity: an image that lies on the lattice already comes back equal from the first of two passes, too.
    entered = image is None or defense.prepare(image) is not image

    def attacked(network: nn.Module, gradient: str) -> nn.Module:
        return defense.for_attack(gradient).wrap(network)

    return Defended(
        name,
        tuple(defense.gradients),
        deployed=defense.wrap,
        attacked=attacked,
        layer=defense,
        first=defense.prepare if entered else None,
        module=defense,
        exact=False,
    )


def _takes_gradient(part: nn.Module) -> bool:
    return isinstance(getattr(part, "gradient", None), surrogates.Surrogate)


def differentiable(module: nn.Module, gradient: str) -> nn.Module:
    """A layer with the same forward pass and another derivative.

    Args:
        module: images to images. All layers of fdjpeg's in it get ``gradient``.
        gradient: a name that ``gradient=`` takes; for a module without such layers "own", the module itself,
            or "identity", the module with the identity's derivative.

    Raises:
        ValueError: for any other name.
    """
    if any(_takes_gradient(part) for part in module.modules()):
        module = copy.deepcopy(module)
        for part in module.modules():
            if _takes_gradient(part):
                setattr(part, "gradient", surrogates.resolve(gradient))  # noqa: B010 (nn.Module is typed otherwise)
        return module
    if gradient == "own":
        return module
    if gradient == "identity":
        return _StraightAcross(module)
    raise ValueError(f"gradient of a layer that is not fdjpeg's should be one of {', '.join(OPAQUE)}, got {gradient!r}")


class _Replace(torch.autograd.Function):
    """The second argument forward, the first one's gradient backward."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _StraightAcross(nn.Module):
    """A layer whose derivative is taken to be the identity (BPDA: Athalye et al. 2018, arXiv 1802.00420)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training

    def forward(self, image: Tensor) -> Tensor:
        """What the layer makes of images."""
        with torch.no_grad():
            out = self.layer(image)
        return _Replace.apply(image, out)


class SeedFixed(nn.Module):
    """A randomised module that draws the same numbers in every call: the control of a randomised defence."""

    def __init__(self, module: nn.Module, seed: int) -> None:
        super().__init__()
        self.module = module
        self.seed = seed
        self.training = module.training

    def forward(self, images: Tensor) -> Tensor:
        """What the module makes of images with these draws."""
        with seeded(self.seed, images.device):
            out: Tensor = self.module(images)
        return out


def jpeg_defense(quality: int, subsampling: str = "4:2:0", gradients: Sequence[str] = GRADIENTS) -> Defended:
    """JPEG compression by ``fdjpeg.JPEG``, checked against Pillow's."""
    return layer_defense(
        f"jpeg:{quality}" + ("" if subsampling == "4:2:0" else f",{subsampling}"),
        fdjpeg.JPEG(quality, subsampling=subsampling),
        _distinct(gradients, subsampling),
        oracle=lambda images: _by_pillow(images, quality, subsampling),
    )


def feature_distillation_defense(
    preset: str, passes: int = 1, entry: str = "before", gradients: Sequence[str] = GRADIENTS
) -> Defended:
    """The layer of feature distillation, with one pass or two.

    Args:
        preset: as for ``fdjpeg.FeatureDistillation``.
        passes: 1 or 2.
        entry: where an attacker of two passes enters: "before" both, or "after" the first, as published.
        gradients: what an adaptive attacker tries.
    """
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
        _distinct(gradients, "4:4:4"),
        first=fdjpeg.FeatureDistillation(preset) if entry == "after" else None,
        oracle=None if preset == "code" else oracle,  # which is not JPEG: no YCbCr, no bytes
    )


def _distinct(gradients: Sequence[str], subsampling: str) -> tuple[str, ...]:
    """Without "identity" where chroma is not subsampled: beside "straight-through" it would be the same attack twice.

    With fixed tables the transforms and colours cancel, and but for the last clamp the two are equal.
    """
    if subsampling == "4:4:4" and "straight-through" in gradients:
        return tuple(name for name in gradients if name != "identity")
    return tuple(gradients)


def _by_pillow(images: Tensor, strength: int | list[list[int]], subsampling: str) -> Tensor:
    return torch.stack([to_tensor(pillow_codec(to_pillow(image), strength, subsampling)[0]) for image in images])


def parse_defense(
    text: str,
    gradients: Sequence[str] = GRADIENTS,
    network: nn.Module | None = None,
    image: Tensor | None = None,
) -> Defended:
    """A defence by its name.

    Args:
        text: one of

            - "none": the bare network;
            - "jpeg:75", "jpeg:75,4:4:4";
            - "random-jpeg:30-95": a quality for each image, drawn in every call;
            - "stochastic-jpeg:20+40+60+80": a quality for each block, drawn in every call;
            - "feature-distillation:paper", and with two passes "feature-distillation:paper,passes=2", where an attacker
              enters before both, or "feature-distillation:paper,passes=2,entry=after" after the first;
            - "saved:PATH": what ``fdjpeg.defenses.load`` reads;
            - "module:callable": called without arguments, or with the network if it takes one, it returns a
              ``torch.nn.Module`` from images to images, or to logits. It is looked for in the current folder too.
        gradients: what an adaptive attacker tries on layers of fdjpeg's; others are tried with ``OPAQUE``.
        network: the bare network, for a callable that takes it.
        image: ``(1, C, H, W)`` in [0, 1], see ``of_module``; what is made goes to its device.

    Raises:
        ValueError: for an unknown name, or a value out of its range.
    """
    kind, _, rest = text.partition(":")
    if text == "none":
        return UNDEFENDED
    if not rest:
        raise ValueError(
            'defense should be "none", "jpeg:QUALITY", "random-jpeg:LOW-HIGH", "stochastic-jpeg:QUALITY+...", '
            f'"feature-distillation:PRESET", "saved:PATH" or "module:callable", got {text!r}'
        )
    if kind in _PARSERS:
        value, *options = rest.split(",")
        defense = _PARSERS[kind](text, value, options, gradients)
        for part in (defense.module, defense.first):
            if isinstance(part, nn.Module) and image is not None:
                part.to(image.device)
        return defense
    if kind == "saved":
        if not Path(rest).exists():
            raise ValueError(f"defense should name a saved defence that exists, got {text!r}")
        made = optional("fdjpeg.defenses", "fdjpeg").load(rest)
    else:
        make = imported(text, "defense")
        made = make(network) if network is not None and _takes_network(make) else make()
    if isinstance(made, Defended):
        return made
    if not isinstance(made, nn.Module):
        raise ValueError(f"defense {text!r} should make a torch.nn.Module, got {type(made).__name__}")
    return of_module(made.eval() if image is None else made.to(image.device).eval(), text, gradients, image)


def _takes_network(make: Callable[..., nn.Module]) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables tell nothing
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


def _parse_jpeg(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    subsampling = options[0] if options else "4:2:0"
    if not value.isdecimal() or not 1 <= int(value) <= 100:
        raise ValueError(f'quality in a defense such as "jpeg:75" should be an integer 1…100, got {text!r}')
    if subsampling not in SUBSAMPLINGS or len(options) > 1:
        raise ValueError(f"subsampling in a defense should be one of {', '.join(SUBSAMPLINGS)}, got {text!r}")
    return jpeg_defense(int(value), subsampling, gradients)


def _parse_random(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    low, _, high = value.partition("-")
    if options or not (low.isdecimal() and high.isdecimal()):
        raise ValueError(f'defense should give qualities such as "random-jpeg:30-95", got {text!r}')
    return layer_defense(text, fdjpeg.RandomJPEG((int(low), int(high))), gradients)


def _parse_stochastic(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    qualities = value.split("+")
    if options or not all(quality.isdecimal() for quality in qualities):
        raise ValueError(f'defense should give qualities such as "stochastic-jpeg:20+40+60+80", got {text!r}')
    return layer_defense(text, fdjpeg.StochasticJPEG([int(quality) for quality in qualities]), gradients)


def _parse_feature_distillation(text: str, value: str, options: list[str], gradients: Sequence[str]) -> Defended:
    chosen = {"passes": "1", "entry": "before"}
    allowed = {"passes": ("1", "2"), "entry": ("before", "after")}
    for option in options:
        key, _, setting = option.partition("=")
        if key not in allowed or setting not in allowed[key]:
            raise ValueError(
                f'options of a defense such as "feature-distillation:paper,passes=2,entry=after" are passes=1 or 2, '
                f"entry=before or after, got {text!r}"
            )
        chosen[key] = setting
    if chosen["entry"] == "after" and chosen["passes"] == "1":
        raise ValueError(f"entry=after in a defense needs passes=2, got {text!r}")
    return feature_distillation_defense(value, int(chosen["passes"]), chosen["entry"], gradients)


_PARSERS = {
    "jpeg": _parse_jpeg,
    "random-jpeg": _parse_random,
    "stochastic-jpeg": _parse_stochastic,
    "feature-distillation": _parse_feature_distillation,
}
