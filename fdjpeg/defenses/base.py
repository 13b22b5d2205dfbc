"""The interface of all trained and saved defences: a module before or around a classifier, with its gradients."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fdjpeg import surrogates
from fdjpeg._checks import check_no_gradient
from fdjpeg._table_checks import home
from fdjpeg._tracers import traced_layer
from fdjpeg.attacks.exposed import Exposed

from .gradients import GRADIENTS

Self = TypeVar("Self", bound="Defense")
Module = TypeVar("Module", bound=nn.Module)


class Defense(nn.Module):
    """A defence as a module that can be trained and saved.

    `Defended` is the same defence as an evaluation takes it; ``deployed``, ``attacked``, ``first``, ``entered`` and
    ``gradients`` mean the same in both. A subclass sets ``kind``, ``gradients`` and ``random``, and overrides what
    differs: ``forward`` where it changes the images, ``deployed`` where it changes the classifier.

    Attributes:
        kind: its name in checkpoints and on the command line.
        gradients: the names that an adaptive attacker must try with ``attacked``; the worst of them counts.
        random: whether each call draws again, so that an attacker must average over draws.
        gradient: the gradient of a copy made by ``attacked``; None for the defence as deployed.

    Example::

        defense = fdjpeg.defenses.JPEG(75)
        deployed = defense.deployed(classifier)  # verdicts come from it
        x = defense.entered(images)
        for gradient in defense.gradients:
            x_adv = attack(defense.attacked(classifier, gradient), x, labels)
            right = deployed(x_adv).argmax(dim=1) == labels
    """

    kind: ClassVar[str]
    gradients: ClassVar[tuple[str, ...]]
    random: ClassVar[bool] = False
    gradient: str | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Returns the images that reach the classifier; the given ones where the defence changes the classifier.

        Args:
            images: ``(N, C, H, W)``, floats in [0, 1].

        Returns:
            Images of the same shape, in [0, 1].
        """
        return images

    @property
    def first(self) -> Callable[[Tensor], Tensor] | None:
        """The pass that images take before an attacker sees them (the first of two), or None."""
        return None

    def entered(self, images: Tensor) -> Tensor:
        """Returns the images as an attacker meets them: behind ``first``, or as they are.

        An evaluation attacks ``entered(images)``, not ``images``.
        """
        return images if self.first is None else self.first(images)

    @property
    def exposes(self) -> Callable[[nn.Module], Exposed] | None:
        """Makes the defended classifier with its JPEG layers shown; None where the defence has no such layer."""
        return None

    def exposed(self, network: nn.Module) -> Exposed:
        """Returns the defended classifier with its JPEG layers shown, for attacks on their coefficients.

        Args:
            network: as for ``deployed``.

        Raises:
            ValueError: the defence has no such layer.
        """
        return shown(self.exposes, network, self.kind)

    def deployed(self, network: nn.Module) -> nn.Module:
        """Returns the defended classifier in evaluation mode: images ``(N, C, H, W)`` in [0, 1] to logits.

        Every verdict must come from its forward pass.

        Args:
            network: the bare classifier, such images to logits ``(N, classes)``. A defence that does not change it uses
                the given object, not a copy. Its weights never change.

        Raises:
            ValueError: the defence holds weights for a classifier of another architecture.
        """
        return nn.Sequential(self, network).eval()

    def attacked(self, network: nn.Module, gradient: str) -> nn.Module:
        """Returns the classifier that an attacker differentiates: the same weights, with one of the gradients.

        Its output may differ from that of ``deployed``, and then serves only to give a gradient; the class documents
        this.

        Args:
            network: as for ``deployed``.
            gradient: one of ``gradients``, or another name that the class allows.

        Raises:
            ValueError: the defence has no such gradient, or the network is of another architecture.
        """
        return self._through(gradient).deployed(network)

    def _through(self: Self, gradient: str) -> Self:
        """Returns the same defence, with the same weights, set to one of its gradients."""
        self.check_gradient(gradient)
        changed = copy.copy(self)
        # A shallow copy shares parameters and submodules, but not the dictionaries that name them.
        for table in ("_parameters", "_buffers", "_modules"):
            changed.__dict__[table] = self.__dict__[table].copy()
        changed.gradient = gradient
        return changed

    def check_gradient(self, name: str) -> None:
        """Refuses names that ``attacked`` does not take.

        Raises:
            ValueError: naming those that it does.
        """
        if name not in self.gradients:
            raise ValueError(f"gradient must be one of {', '.join(self.gradients)} for {self.kind}, got {name!r}")

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values, so that ``type(self)(**self.config())`` is alike."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that was learned or derived, by name."""
        return self.state_dict()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the tensors that ``tensors`` returned.

        Raises:
            ValueError: the names or shapes are not those of this defence.
        """
        load_state(self, tensors, f"a defence {self.kind} of these settings")

    def extra_repr(self) -> str:
        """Shows the constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config().items())


class JPEGDefense(Defense):
    """A defence made of JPEG: ``attacked`` takes every name of `fdjpeg.surrogates`."""

    gradients: ClassVar[tuple[str, ...]] = GRADIENTS

    @property
    def surrogate(self) -> str:
        """The gradient of the codec."""
        return self.gradient or "straight-through"

    def check_gradient(self, name: str) -> None:
        """Refuses names that `fdjpeg.surrogates` does not have.

        Raises:
            ValueError: naming those that it does.
        """
        surrogates.resolve(name)


def shown(exposes: Callable[[nn.Module], Exposed] | None, network: nn.Module, name: str) -> Exposed:
    """Returns the classifier that a defence makes with its layers shown, or refuses the defence by its name.

    Raises:
        ValueError: the defence has no layer of fdjpeg with coefficients, so ``exposes`` is None.
    """
    if exposes is None:
        raise ValueError(f"defense must hold a JPEG layer of fdjpeg with p=1 and without soft, got {name}")
    return exposes(network)


@traced_layer
class LayerDefense(JPEGDefense):
    """A defence that is one of fdjpeg's layers before an unchanged classifier."""

    @abstractmethod
    def codec(self) -> nn.Module:
        """Returns the layer, with the defence's gradient."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns images behind the layer, see `Defense.forward`."""
        compressed: Tensor = self.codec().to(images.device)(images)
        return compressed

    @property
    def exposes(self) -> Callable[[nn.Module], Exposed] | None:
        """See `Defense.exposes`."""
        return lambda network: Exposed([self.codec().to(device_of(network))], [network])


class Weights(nn.Module):
    """The weights of a network of any class: a state dict that moves and is saved with the module that holds it.

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


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], wanted: str) -> None:
    """Loads weights, all or none.

    Args:
        module: takes the weights.
        tensors: by the names of ``module.state_dict()``.
        wanted: describes the module in messages.

    Raises:
        ValueError: a name or a shape differs; the message names the first that does.
    """
    own = module.state_dict()
    for name in (*own, *tensors):
        if name not in tensors:
            raise ValueError(f"checkpoint must fit {wanted}, got one without {name!r}: it is of another architecture")
        if name not in own:
            raise ValueError(
                f"checkpoint must fit {wanted}, which has no {name!r}, got one that has: it is of another architecture"
            )
        if own[name].shape != tensors[name].shape:
            raise ValueError(
                f"checkpoint must fit {wanted}, where {name!r} has shape {tuple(own[name].shape)}, got "
                f"{tuple(tensors[name].shape)}: it is of another architecture"
            )
    module.load_state_dict(dict(tensors))


def copied(module: Module) -> Module:
    """Returns a deep copy, in which tensors that were computed from others are detached.

    torch copies no tensor with a history, such as a buffer that was made from a parameter.

    Raises:
        ValueError: the module holds something that cannot be copied.
    """
    held = (value for part in module.modules() for value in (*part._buffers.values(), *vars(part).values()))
    computed = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    try:
        return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"module must be one that can be copied, got {type(module).__name__}: {error}") from error


def set_gradient(layer: nn.Module, gradient: str) -> None:
    """Gives one of fdjpeg's layers another gradient; a user's surrogate may be a module, which is a child of the layer.

    Raises:
        ValueError: there is no such gradient.
    """
    surrogate = surrogates.resolve(gradient)
    layer._modules.pop("gradient", None)
    setattr(layer, "gradient", surrogate)  # noqa: B010 (nn.Module is typed otherwise)


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of a module's first tensor; the CPU where it has none."""
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


def table_of(name: str, table: Any) -> Tensor:
    """Returns a table ``(8, 8)`` of the argument ``name``; lists are made where they keep their numbers.

    Raises:
        ValueError: for another shape, or a tensor that requires a gradient.
    """
    check_no_gradient(name, table)
    made = table if isinstance(table, Tensor) else torch.tensor(table, device=home())
    if made.shape != (8, 8):
        raise ValueError(f"{name} must have shape (8, 8), got {tuple(made.shape)}")
    return made


def straight_through(images: Tensor, changed: Tensor) -> Tensor:
    """Returns ``changed`` in value with the gradient of ``images`` (BPDA: Athalye et al. 2018, arXiv 1802.00420)."""
    return images + (changed - images).detach()
