"""What every defence is: a module before or around a classifier, with the gradients that an attacker may try on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from fdjpeg import surrogates

Self = TypeVar("Self", bound="Defense")

#: Gradients that an adaptive attacker tries on a JPEG layer; `for_attack` takes every other name of
#: `fdjpeg.surrogates` as well.
JPEG_GRADIENTS = ("identity", "straight-through", "cubic")

#: The same at 4:4:4, where the identity is straight-through but for the last clamp: it would be one attack twice.
FULL_CHROMA_GRADIENTS = ("straight-through", "cubic")

#: Gradients that an adaptive attacker tries on a network before the classifier: its own, and BPDA's identity
#: (Athalye et al. 2018, arXiv 1802.00420).
AUTOENCODER_GRADIENTS = ("end-to-end", "identity")


class Defense(nn.Module):
    """A defence. ``wrap(classifier)`` is the defended classifier; the rest says what it is made of.

    A subclass sets ``kind``, ``gradients`` and ``random``, and overrides what differs: ``forward`` where it changes the
    images, ``wrap`` where it changes the classifier.

    Attributes:
        kind: its name in checkpoints and on the command line.
        gradients: the names that ``for_attack`` takes and an adaptive attacker should try, the worst of which counts.
        random: whether each call draws anew, so that an attacker must average over draws.
        gradient: the one that ``for_attack`` was asked for; None for the defence as deployed.
    """

    kind: ClassVar[str]
    gradients: ClassVar[tuple[str, ...]]
    random: ClassVar[bool] = False
    gradient: str | None = None

    def forward(self, images: Tensor) -> Tensor:
        """What the defence makes of images ``(N, C, H, W)`` in [0, 1]: images of the same shape, in [0, 1].

        The images themselves, where the defence changes the classifier instead.
        """
        return images

    def prepare(self, images: Tensor) -> Tensor:
        """What the defence makes of images before an attacker sees them; the images themselves for most.

        An evaluation attacks ``prepare(images)``, not ``images``.
        """
        return images

    def wrap(self, classifier: nn.Module) -> nn.Module:
        """The defended classifier, in evaluation mode: images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``.

        Its forward pass is the one that is deployed and the one that a verdict must come from.

        Args:
            classifier: maps such images to logits. Where the defence leaves it as it is, it is used
                itself, not a copy; its weights are never changed.

        Raises:
            ValueError: the defence holds weights for a classifier of another architecture.
        """
        return nn.Sequential(self, classifier).eval()

    def for_attack(self: Self, gradient: str) -> Self:
        """The same defence, with the same weights, as an attacker may differentiate it.

        Its ``wrap(classifier)`` has another gradient, and, where the class says so, another output, which is then
        only climbed: success is counted on the ``wrap`` of the defence itself.

        Raises:
            ValueError: the defence has no such gradient.
        """
        self.check_gradient(gradient)
        attacked = copy.copy(self)
        # A shallow copy shares parameters and submodules, but not the dictionaries that name them.
        for table in ("_parameters", "_buffers", "_modules"):
            attacked.__dict__[table] = self.__dict__[table].copy()
        attacked.gradient = gradient
        return attacked

    def check_gradient(self, name: str) -> None:
        """Refuses names that ``for_attack`` does not take."""
        if name not in self.gradients:
            raise ValueError(f"gradient must be one of {', '.join(self.gradients)} for {self.kind}, got {name!r}")

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, so that ``type(self)(**self.config())`` is alike."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned or derived, by name."""
        return self.state_dict()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what ``tensors`` gave.

        Raises:
            ValueError: the names or shapes are not those of this defence.
        """
        load_state(self, tensors, f"a defence {self.kind} of these settings")

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config().items())


class JPEGDefense(Defense):
    """A defence made of JPEG: ``for_attack`` takes every name of `fdjpeg.surrogates`."""

    gradients: ClassVar[tuple[str, ...]] = JPEG_GRADIENTS

    @property
    def surrogate(self) -> str:
        """The gradient of the codec."""
        return self.gradient or "straight-through"

    def check_gradient(self, name: str) -> None:
        """Refuses names that `fdjpeg.surrogates` does not have."""
        surrogates.resolve(name)


class Weights(nn.Module):
    """The weights of a network whose class is not known here: a state dict that moves, and is saved, with a module.

    Args:
        state: its tensors by name.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_buffer(leaf, tensor)


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Loads weights, all or none.

    Args:
        module: takes the weights.
        tensors: by the names of ``module.state_dict()``.
        what: what the module is, for the message.

    Raises:
        ValueError: a name or a shape differs; the first that does is told.
    """
    own = module.state_dict()
    for name in (*own, *tensors):
        if name not in tensors:
            raise ValueError(f"checkpoint should fit {what}, but holds no {name!r}: it is of another architecture")
        if name not in own:
            raise ValueError(f"checkpoint should fit {what}, which has no {name!r}: it is of another architecture")
        if own[name].shape != tensors[name].shape:
            raise ValueError(
                f"checkpoint should fit {what}, where {name!r} has shape {tuple(own[name].shape)}, got "
                f"{tuple(tensors[name].shape)}: it is of another architecture"
            )
    module.load_state_dict(dict(tensors))


def straight_through(images: Tensor, changed: Tensor) -> Tensor:
    """``changed`` in value, ``images`` in gradient: BPDA with the identity (Athalye et al. 2018)."""
    return images + (changed - images).detach()
