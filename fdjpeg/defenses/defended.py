"""Defended networks as an evaluation takes them, and layers with one differentiable version for each gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg import surrogates
from fdjpeg._calls import call
from fdjpeg._checks import check_callable, check_list, check_module, check_seed, check_tensor, check_text
from fdjpeg._fingerprint import digest
from fdjpeg.attacks.base import seeded
from fdjpeg.attacks.codec import has_coefficients
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.sources import External
from fdjpeg.sources.networks import evaluating
from fdjpeg.surrogates import BY_NAME

from .base import JPEGDefense, copied, set_gradient, shown
from .gradients import GRADIENTS, OPAQUE


@dataclass(frozen=True)
class Defended:
    """A layer before the network, or another network in place of it.

    `Defense` is a defence as a module that can be trained and saved; ``deployed``, ``attacked``, ``first``, ``entered``
    and ``gradients`` mean the same in both.

    Attributes:
        name: as reports print it.
        gradients: the names that an adaptive attacker tries, one after the other; empty for the bare network.
        deployed: makes the defended classifier from the bare one. Every verdict comes from its forward pass.
        attacked: makes the classifier that an attacker differentiates, from the bare one and one of ``gradients``.
        layer: makes the images that reach the bare network, ``(N, C, H, W)`` to the same shape; None if there is no
            such layer.
        first: the pass that images take before an attacker sees them (the first of two), or None.
        oracle: another implementation of the layer, uint8 ``(N, C, H, W)`` to uint8, to check it; or None.
        module: its settings and weights distinguish this defence from others of the same name; or None.
        exact: whether ``attacked`` has the forward pass of ``deployed``.
        exposes: makes the defended classifier with its JPEG layers shown, for attacks on their coefficients and for
            certificates; None where the defence has no such layer.

    Example::

        defended = fdjpeg.defenses.parse_defense("jpeg:75")
        deployed = defended.deployed(classifier)  # verdicts come from it
        for gradient in defended.gradients:
            x_adv = attack(defended.attacked(classifier, gradient), defended.entered(images), labels)
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
    exposes: Callable[[nn.Module], Exposed] | None = None

    def exposed(self, network: nn.Module) -> Exposed:
        """Returns the defended classifier with its JPEG layers shown, for attacks on their coefficients.

        Args:
            network: the bare classifier, in evaluation mode.

        Raises:
            ValueError: the defence has no such layer.
        """
        return shown(self.exposes, network, self.name)

    def entered(self, images: Tensor) -> Tensor:
        """Returns the images as an attacker meets them: behind ``first``, or as they are."""
        return images if self.first is None else self.first(images)

    def digest(self) -> str:
        """Returns a fingerprint of name, settings and weights."""
        return self.name if self.module is None else f"{self.name} {digest(self.module)}"


def _bare(network: nn.Module, gradient: str = "") -> nn.Module:
    return network


#: The bare network.
UNDEFENDED = Defended("none", (), _bare, _bare)


def _chain(layer: nn.Module, network: nn.Module) -> nn.Module:
    """Returns one after the other, in evaluation mode as both of them are."""
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
    """Returns a defence that is a layer before the network, with a version for each of the gradients.

    Args:
        name, first, oracle: as for `Defended`.
        module: the layer, images to images of the same shape, in evaluation mode.
        gradients: names that ``differentiable`` takes for this layer.

    Raises:
        ValueError: for a gradient that the layer does not have.

    Example::

        layer_defense("jpeg:75", fdjpeg.JPEG(75), ("straight-through", "cubic"))
    """
    check_text("name", name)
    check_list("gradients", gradients)
    if not (first is None or isinstance(first, nn.Module)):
        raise TypeError(f"first must be a torch.nn.Module or None, got {type(first).__name__}")
    check_callable("oracle", oracle)
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
        exposes=(lambda network: Exposed([module], [network])) if has_coefficients(module) else None,
    )


def of_module(
    module: nn.Module, name: str, gradients: Sequence[str] = GRADIENTS, image: Tensor | None = None
) -> Defended:
    """Returns a defence from any module.

    Args:
        module: in evaluation mode, one of

            - a layer, images to images of the same shape: fdjpeg's layers in it take ``gradients``, a layer without
              them those of ``OPAQUE``, or of these the ones that ``gradients`` names if it names no others; a black box
              (`fdjpeg.evaluation.external`) takes "identity", its only one;
            - a whole classifier, images to logits;
            - a `Defense`, or any module with its ``deployed``, ``attacked``, ``first`` and ``gradients``, which mean
              the same here.
        name: as reports print it.
        gradients: the names that an adaptive attacker tries on fdjpeg's layers.
        image: ``(1, C, H, W)``, floats in [0, 1], on the module's device. Its output distinguishes a layer from a
            classifier; without it the module counts as a layer.

    Raises:
        ValueError: the module does not take images of this shape, its output is neither an image of the same shape nor
            logits, or the layer has no such gradient.

    Example::

        of_module(fdjpeg.defenses.load("runs/purifier"), "purifier")
    """
    check_module("module", module)
    check_text("name", name)
    check_list("gradients", gradients)
    if image is not None:
        check_tensor("image", image, "(1, C, H, W)")
    if hasattr(module, "deployed") and hasattr(module, "attacked"):
        return _of_defense(module, name, gradients)
    named = any(_takes_gradient(part) for part in module.modules())
    tried = tuple(gradients) if named else _of_opaque(module, gradients)
    if image is not None:
        out = _tried(module, name, image)
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
                f"defense {name} must return images of the shape that it gets, or logits (N, classes), got "
                f"{tuple(out.shape)} for {tuple(image.shape)}"
            )
    return layer_defense(name, module, tried)


def _of_opaque(module: nn.Module, gradients: Sequence[str]) -> tuple[str, ...]:
    """Returns the gradients of a layer without fdjpeg's layers."""
    if isinstance(module, External):
        return ("identity",)
    return named_gradients(gradients, OPAQUE)


def _tried(module: nn.Module, name: str, image: Tensor) -> Tensor:
    """Returns the module's output for an image.

    Raises:
        ValueError: naming the defence, which fails, changes the image, or returns no tensor or logits of one class.
    """
    with evaluating(module), torch.no_grad():
        out = call(module, image, f"defense {name}")
    if not isinstance(out, Tensor) or not out.is_floating_point():
        kind = out.dtype if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"defense {name} must return a tensor of floats, images or logits, got {kind}")
    if out.ndim == 2 and out.shape[1] < 2:
        raise ValueError(f"defense {name} must return logits (N, classes) of at least two classes, got {out.shape[1]}")
    return out


def named_gradients(asked: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Returns the gradients asked for, where all of them are a module's own; else all that it has."""
    return tuple(asked) if asked and set(asked) <= set(own) else tuple(own)


def _of_defense(defense: Any, name: str, gradients: Sequence[str]) -> Defended:
    own = tuple(defense.gradients)
    if isinstance(defense, JPEGDefense) and tuple(gradients) != GRADIENTS:
        # Every surrogate is one of JPEG's. Where the identity is left out, it is the attack of straight-through.
        named = tuple(name for name in gradients if name in BY_NAME)
        named = tuple(name for name in named if name in own or name != "identity" or "straight-through" not in named)
        own = named or own
    return Defended(
        name,
        named_gradients(gradients, own),
        deployed=defense.deployed,
        attacked=defense.attacked,
        layer=defense,
        first=defense.first,
        module=defense,
        exact=False,
        exposes=getattr(defense, "exposes", None),
    )


def _takes_gradient(part: nn.Module) -> bool:
    return isinstance(getattr(part, "gradient", None), surrogates.Surrogate)


def differentiable(module: nn.Module, gradient: str) -> nn.Module:
    """Returns a layer with the same forward pass and another derivative; the given one does not change.

    Args:
        module: images to images. All layers of fdjpeg's in it get ``gradient``.
        gradient: a name that ``gradient=`` takes; for a module without such layers "own", the module itself,
            or "identity", the module with the identity's derivative.

    Raises:
        ValueError: for any other name.

    Example::

        differentiable(fdjpeg.JPEG(75), "cubic")
        differentiable(torch.nn.AvgPool2d(3, 1, 1), "identity")
    """
    check_module("module", module)
    if any(_takes_gradient(part) for part in module.modules()):
        module = copied(module)
        for part in module.modules():
            if _takes_gradient(part):
                set_gradient(part, gradient)
        return module
    if gradient == "own":
        return module
    if gradient == "identity":
        return _StraightAcross(module)
    raise ValueError(f"gradient of a layer that is not fdjpeg's must be one of {', '.join(OPAQUE)}, got {gradient!r}")


class _Replace(torch.autograd.Function):
    """Returns its second argument; the gradient is that of the first."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _StraightAcross(nn.Module):
    """A layer with the identity in place of its derivative (BPDA: Athalye et al. 2018, arXiv 1802.00420)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training

    def forward(self, image: Tensor) -> Tensor:
        """Returns the layer's output."""
        with torch.no_grad():
            out = self.layer(image)
        return _Replace.apply(image, out)


class SeedFixed(nn.Module):
    """A randomised module that draws the same numbers in every call: the control of a randomised defence.

    Args:
        module: takes images; draws from torch's global generators.
        seed: of every call.

    Example::

        layer = SeedFixed(fdjpeg.RandomJPEG((30, 95)), seed=0)
        assert torch.equal(layer(images), layer(images))
    """

    def __init__(self, module: nn.Module, seed: int) -> None:
        super().__init__()
        check_module("module", module)
        check_seed("seed", seed)
        self.module = module
        self.seed = seed
        self.training = module.training

    def forward(self, images: Tensor) -> Tensor:
        """Returns the module's output with these draws."""
        with seeded(self.seed):
            out: Tensor = self.module(images)
        return out
