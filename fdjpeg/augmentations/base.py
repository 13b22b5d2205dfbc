"""The parts that the augmentations share: where random numbers come from, and images that need different calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from fdjpeg._arguments import flattened
from fdjpeg._generators import check_generator, within_backward
from fdjpeg._numbers import is_real
from fdjpeg._tracers import traced_layer
from fdjpeg.surrogates import Surrogate
from fdjpeg.tables import QuantTables

Key = TypeVar("Key", bound=Hashable)
Parameters = TypeVar("Parameters", bound="tuple[Any, ...]")


class Compression(TypedDict, total=False):
    """The arguments of `RandomJPEG` that the other augmentations pass on to their compressions."""

    qualities: Sequence[int] | None
    weights: Sequence[float] | None
    tables: Sequence[QuantTables] | Any
    subsampling: str | Sequence[str]
    upsampling: str
    gradient: str | Surrogate


class Draws(Protocol):
    """Random numbers, one for each of N images. Each call returns new ones.

    Example::

        class First:
            # The least of everything.

            def integers(self, count):
                return torch.zeros(4, dtype=torch.int64)

            def uniform(self):
                return torch.zeros(4)

            def on_host(self):
                return torch.zeros(4, dtype=torch.float64)

        RandomJPEG((30, 95)).draw_from(First()).quality  # 30, 30, 30, 30
    """

    def integers(self, count: int) -> Tensor:
        """Returns ``(N,)`` int64 in 0…count − 1, uniform, on the images' device."""

    def uniform(self) -> Tensor:
        """Returns ``(N,)`` float32 in [0, 1), on the images' device."""

    def on_host(self) -> Tensor:
        """Returns ``(N,)`` float64 in [0, 1), on the CPU: for choices that decide which calls are made."""


class TorchDraws:
    """Random numbers from torch's generators.

    Args:
        count: the number of images.
        device: where the images are.
        generator: of that device; None takes torch's own.
        host: the generator of `on_host`; None takes torch's own of the CPU.

    Raises:
        RuntimeError: a private generator is asked within a backward pass, where activation checkpointing repeats a
            forward pass: it would give other numbers than before.
    """

    def __init__(
        self, count: int, device: torch.device, generator: torch.Generator | None, host: torch.Generator | None
    ) -> None:
        if generator is not None and within_backward():
            raise RuntimeError(
                "parameters must be given where activation checkpointing repeats an augmentation that has a generator "
                "(draw them outside: layer(image, layer.draw(image))), got None"
            )
        self.count = count
        self.device = device
        # The variants of torch's functions that take a generator know no sizes that change under torch.compile.
        self.source: dict[str, Any] = {} if generator is None else {"generator": generator}
        self.host: dict[str, Any] = {} if host is None else {"generator": host}

    def integers(self, count: int) -> Tensor:
        """See `Draws.integers`."""
        return torch.randint(count, (self.count,), device=self.device, **self.source)

    def uniform(self) -> Tensor:
        """See `Draws.uniform`."""
        return torch.rand((self.count,), dtype=torch.float32, device=self.device, **self.source)

    def on_host(self) -> Tensor:
        """See `Draws.on_host`."""
        return torch.rand((self.count,), dtype=torch.float64, device="cpu", **self.host)


@traced_layer
class Augmentation(nn.Module, ABC, Generic[Parameters]):
    """A random change of each image of a batch, drawn in every call, in training and in evaluation.

    A subclass draws its parameters in `draw_from` and applies them in `augmented`.

    Args:
        p: the probability that an image is changed at all.
        generator: of the images' device; None takes torch's own.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Example::

        augmentation = RandomJPEG((30, 95), p=0.5)  # one of them
        drawn = augmentation.draw(images)
        same = torch.equal(augmentation(images, drawn), augmentation(images, drawn))  # True
    """

    #: The class of the draws.
    parameters_type: ClassVar[type[tuple[Any, ...]]]

    def __init__(self, p: float, generator: torch.Generator | None) -> None:
        super().__init__()
        check_probability(p)
        check_generator(generator)
        self.p = float(p)
        self.generator = generator
        self.host_generator = generator
        if generator is not None and generator.device.type != "cpu":
            self.host_generator = torch.Generator().manual_seed(generator.initial_seed())

    @abstractmethod
    def draw_from(self, draws: Draws) -> Parameters:
        """Returns the parameters that these random numbers give."""

    @abstractmethod
    def augmented(self, batch: Tensor, parameters: Parameters) -> Tensor:
        """Returns all images of ``(N, C, H, W)``, changed, whether ``parameters.applied`` or not."""

    def draw(self, image: Tensor) -> Parameters:
        """Returns new parameters for the images of a batch, to be given to ``forward``."""
        batch = flattened(image)
        return self.draw_from(TorchDraws(batch.size(0), batch.device, self.generator, self.host_generator))

    def forward(
        self, image: Tensor, parameters: Parameters | None = None, *, return_parameters: bool = False
    ) -> Tensor | tuple[Tensor, Parameters]:
        """Changes images at random.

        Args:
            image: ``(..., 3, H, W)`` or ``(..., 1, H, W)``, uint8 in 0…255 or floating in [0, 1].
            parameters: as `draw` returned them for a batch of this size; drawn if None.
            return_parameters: return them as well.

        Returns:
            The images, or the images and the parameters.
        """
        if not isinstance(return_parameters, bool):
            raise TypeError(f"return_parameters must be True or False, got {return_parameters!r}")
        if parameters is not None and not isinstance(parameters, self.parameters_type):
            wanted = self.parameters_type.__name__
            raise TypeError(f"parameters must be {wanted}, as draw returns them, got {type(parameters).__name__}")
        drawn = self.draw(image) if parameters is None else parameters
        images = flattened(image).size(0)
        if parameters is not None and parameters[0].size(0) != images:
            raise ValueError(f"parameters must be for {images} images, got those of {parameters[0].size(0)}")
        out = self.augmented(flattened(image), drawn)
        if image.ndim != 4:
            out = out.reshape(*image.shape[:-3], *out.shape[-3:])
        if self.p < 1 or parameters is not None:
            out = self._where_applied(out, image, drawn)
        return (out, drawn) if return_parameters else out

    def _where_applied(self, out: Tensor, image: Tensor, parameters: Parameters) -> Tensor:
        applied: Tensor = parameters[0]
        return torch.where(applied.to(image.device).reshape(*image.shape[:-3], 1, 1, 1), out, image)

    def _applied(self, draws: Draws, drawn: Tensor) -> Tensor:
        """Which images are changed, ``(N,)`` bool, where ``drawn`` is, which holds a draw for each."""
        if self.p == 1:
            return torch.ones_like(drawn, dtype=torch.bool)
        return draws.uniform() < self.p


def check_probability(p: object) -> None:
    """Raises unless ``p`` is a number in 0…1."""
    if not (is_real(p) and 0 <= p <= 1):  # type: ignore[operator]
        raise ValueError(f"p must be a probability, 0…1, got {p!r}")


def scaled(uniform: Tensor, count: int) -> Tensor:
    """Returns integers 0…count − 1 from float64 numbers in [0, 1)."""
    return (uniform * count).long().clamp(max=count - 1)


def listed(draws: Tensor) -> list[Any]:
    """Returns draws that decide sizes as a list.

    Raises:
        NotImplementedError: inside of torch.func.vmap, where each call has draws of its own.
    """
    if torch._C._functorch.is_batchedtensor(draws):
        raise NotImplementedError(
            "torch.func.vmap cannot give each call draws that decide the sizes of images: "
            "give DoubleJPEG a fixed shift or Recompress one scale, pass all images in one call, or choose "
            "randomness='same'"
        )
    return draws.tolist()


@torch.compiler.disable
def in_groups(
    batch: Tensor,
    keys: Sequence[Key],
    parameters: Parameters,
    made: Callable[[Tensor, Key, Parameters], Tensor],
) -> Tensor:
    """Makes the images of each key in one call, and puts the results in the images' order.

    The keys are on the host, so that this is a graph break under torch.compile, but no synchronisation.

    Args:
        batch: ``(N, C, H, W)``.
        keys: one for each image; images of equal keys are made together.
        parameters: named tuples of tensors whose first dimension is N.
        made: returns the results of some images, their key and their parameters; all of one size.

    Raises:
        NotImplementedError: under torch.export, whose program cannot group images by what is drawn when it runs.
    """
    if torch.compiler.is_exporting():
        raise NotImplementedError(
            "torch.export cannot keep draws that decide the sizes of images: "
            "give DoubleJPEG a fixed shift, or Recompress one scale"
        )
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    if not places:
        return batch.clone()
    if len(places) == 1:
        return made(batch, keys[0], parameters)
    parts = []
    for key, chosen in places.items():
        here, there = torch.tensor(chosen, device="cpu"), _on(batch.device, chosen)
        some = _pytree.tree_map(lambda tensor, here=here, there=there: _picked(tensor, here, there), parameters)
        parts.append(made(batch.index_select(0, there), key, some))
    order = [place for chosen in places.values() for place in chosen]
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(parts).index_select(0, _on(batch.device, back))


def _picked(value: Any, here: Tensor, there: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.index_select(0, here if value.device.type == "cpu" else there)


def _on(device: torch.device, places: list[int]) -> Tensor:
    """Indices on a device. Pinned memory is copied without waiting for the GPU."""
    if device.type != "cuda":
        return torch.tensor(places, device=device)
    return torch.tensor(places, device="cpu", pin_memory=True).to(device, non_blocking=True)


def without_generator(arguments: dict[str, Any], package: str, source: str) -> dict[str, Any]:
    """Returns the keywords of an augmentation for a package that draws by itself.

    Raises:
        TypeError: a generator is among them, which would not be drawn from; the package draws from ``source``.
    """
    if "generator" in arguments:
        raise TypeError(
            f"generator must be left out for {package}, whose draws come from {source}, got {arguments['generator']!r}"
        )
    return arguments
