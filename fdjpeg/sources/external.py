"""Functions outside of torch as modules: black boxes, with their forward pass and the identity's gradient."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fdjpeg._tracers import traced_layer

from .files import picture_of
from .image_set import to_bytes, to_pillow, to_tensor

#: The forms in which a function takes images.
Takes = Literal["tensor", "array", "pillow"]
TAKES: tuple[Takes, ...] = ("tensor", "array", "pillow")

#: The last word of the first parameter's annotation, for each form.
_ANNOTATIONS: dict[str, Takes] = {"Tensor": "tensor", "ndarray": "array", "NDArray": "array", "Image": "pillow"}


def external(function: Callable[..., Any], batched: bool = False, takes: Takes | None = None) -> External:
    """Makes a module of a function that computes outside of torch, with Pillow, OpenCV or NumPy, say.

    The forward pass is the function's. Backward the gradient passes unchanged (BPDA: Athalye et al. 2018, arXiv
    1802.00420, with the identity). An evaluation attacks it by that gradient, and its report calls it a black box.

    Args:
        function: of one image, or of a batch if ``batched``. It returns images like its input, or logits, and gets

            - "tensor": float32 ``(C, H, W)`` in [0, 1] on the CPU, detached;
            - "array": uint8 ``(H, W, C)``, RGB, or ``(H, W)`` if grey, as NumPy and OpenCV hold images (OpenCV's own
              functions read files as BGR: convert inside the function);
            - "pillow": an image of mode "RGB" or "L".

            Images come back in the same form and size; tensors and arrays as uint8, or as floats in [0, 1]. Logits are
            a tensor, an array or a list of floats, ``(classes,)``; they have no gradient, so that only attacks by
            queries count.
        batched: whether the function takes ``(N, …)`` at once; not for "pillow".
        takes: the form; None takes it from the annotation of the function's first parameter (``torch.Tensor``,
            ``numpy.ndarray`` or ``PIL.Image.Image``), or "tensor" if that is another or missing.

    Raises:
        TypeError: if ``function`` cannot be called.
        ValueError: for another form, or a batch of Pillow images.

    Example::

        def webp(image: PIL.Image.Image) -> PIL.Image.Image:
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=50)
            return PIL.Image.open(stream)

        report = evaluate(network, (images, labels), defenses=[external(webp)])
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    if not isinstance(batched, bool):
        raise TypeError(f"batched must be True or False, got {batched!r}")
    form = (takes_images(function) or "tensor") if takes is None else takes
    if not isinstance(form, str) or form not in TAKES:
        raise ValueError(f"takes must be one of {', '.join(TAKES)}, got {takes!r}")
    if batched and form == "pillow":
        raise ValueError("batched must be False for a function of Pillow images, got True")
    return External(function, batched, form)


def takes_images(function: Callable[..., Any]) -> Takes | None:
    """Returns the form of images that a function's first parameter is annotated with, or None."""
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):  # functions in C, such as torch.neg, have no signature
        return None
    try:
        hints = typing.get_type_hints(function)
    except (TypeError, ValueError, NameError, AttributeError):  # names for a type checker only
        hints = {}
    if first is None or first.annotation is inspect.Parameter.empty:
        return None
    hint = hints.get(first.name, first.annotation)
    word = hint if isinstance(hint, str) else getattr(typing.get_origin(hint) or hint, "__name__", "")
    return _ANNOTATIONS.get(word.split("[")[0].strip().rpartition(".")[2])


@traced_layer
class External(nn.Module):
    """A function outside of torch as a module, see `external`.

    Example::

        layer = external(lambda image: image.flip(-1))  # an External
        layer(images)
    """

    def __init__(self, function: Callable[..., Any], batched: bool, takes: Takes) -> None:
        super().__init__()
        self.function = function
        self.batched = batched
        self.takes: Takes = takes
        self.title = getattr(function, "__qualname__", type(function).__name__)

    def extra_repr(self) -> str:
        """Shows the function's name and the form of its images."""
        place = getattr(self.function, "__module__", type(self.function).__module__)
        return f"{place}.{self.title}, takes={self.takes!r}, batched={self.batched}"

    def __deepcopy__(self, memo: dict[int, Any]) -> External:
        """Returns a module with the same function, which may hold things that cannot be copied."""
        return External(self.function, self.batched, self.takes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the function's output for images ``(N, C, H, W)`` in [0, 1], on their device and in their dtype.

        Raises:
            ValueError: the function returned another form, shape or range; the message names it.
        """
        with torch.no_grad():
            out = self._computed(images.detach().cpu().float())
        out = out.to(images)
        through: Tensor = _Across.apply(images, out) if out.shape == images.shape else out
        return through

    def _computed(self, images: Tensor) -> Tensor:
        if len(images) == 0:
            return images.clone()
        if self.batched:
            out = self._read(self.function(self._given(images)), images)
            if len(out) != len(images):
                raise ValueError(f"{self._named()} must return {len(images)} results, got {len(out)}")
            return out
        parts = [self._read(self.function(self._given(image)), image) for image in images]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{self._named()} must return results of one shape, got {parts[0].shape} and others")
        return torch.stack(parts)

    def _named(self) -> str:
        return f"function {self.title}"

    def _given(self, images: Tensor) -> Any:
        """Images ``(…, C, H, W)`` in the form that the function takes, its own to change."""
        if self.takes == "tensor":
            return images.clone()
        if self.takes == "pillow":
            return to_pillow(to_bytes(images))
        array = np.ascontiguousarray(to_bytes(images).movedim(-3, -1).numpy())
        return array[..., 0] if images.shape[-3] == 1 else array

    def _read(self, out: Any, images: Tensor) -> Tensor:
        """The function's output as floats: images ``(…, C, H, W)`` like its input, or logits."""
        rank = images.ndim - 2
        if self.takes == "pillow" and isinstance(out, Image.Image):
            mode = "RGB" if images.shape[-3] == 3 else "L"
            picture = picture_of(out, "an image in memory", f"result of {self._named()}")
            return self._images(to_tensor(picture.image.convert(mode)), images)
        if isinstance(out, (list, tuple)):
            out = np.asarray(out)
        if isinstance(out, np.ndarray):
            if out.dtype.kind not in "fiu":
                raise ValueError(f"{self._named()} must return numbers, got an array of {out.dtype}")
            out = torch.from_numpy(np.ascontiguousarray(out))
            if self.takes == "array" and out.ndim == images.ndim:
                out = out.movedim(-1, -3)
            elif self.takes == "array" and out.ndim == images.ndim - 1 and images.shape[-3] == 1:
                out = out[..., None, :, :]
        if not isinstance(out, Tensor):
            raise ValueError(f"{self._named()} must return images like its input, or logits, got {type(out).__name__}")
        return out.detach().cpu().float() if out.ndim == rank else self._images(out.detach().cpu(), images)

    def _images(self, out: Tensor, images: Tensor) -> Tensor:
        if out.shape != images.shape:
            raise ValueError(
                f"{self._named()} must return images of the shape {tuple(images.shape)} (C, H, W), got "
                f"{tuple(out.shape)}"
            )
        if out.dtype == torch.uint8:
            return out.float() / 255
        if not out.is_floating_point():
            raise ValueError(f"{self._named()} must return uint8, or floats in [0, 1], got {out.dtype}")
        out = out.float()
        low, high = float(out.min()), float(out.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(f"{self._named()} must return floats in [0, 1], got values from {low:.9g} to {high:.9g}")
        return out.clamp(0, 1)


class _Across(torch.autograd.Function):
    """Returns its second argument; the gradient is that of the first."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
