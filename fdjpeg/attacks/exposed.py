"""The protocol between attacks on coefficients and whoever knows the defence: a classifier that shows its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fdjpeg._calls import logits_of
from fdjpeg._checks import check_list, check_module


class Exposed(nn.Module):
    """A classifier that shows the JPEG layers in it, for an attack on their coefficients, such as ``Flip``.

    This is the protocol between such attacks and whoever knows the defence: a defence hands one over, made of its
    layers and the classifiers behind them (``Defended.exposed``). Its forward pass is that of the deployed classifier.

    Attributes:
        layers: one for each branch: layers of fdjpeg, or a ``torch.nn.Sequential`` of them, images to images.
        classifiers: the classifier behind each, images to logits.
        verdict: makes the logits of the deployed classifier from those of the branches.

    Example:
        >>> exposed = Exposed([fdjpeg.JPEG(75)], [network])
        >>> x_adv = Flip(steps=20)(exposed, x, y, 1 / 255)
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        classifiers: Sequence[nn.Module],
        verdict: Callable[[Sequence[Tensor]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for name, modules in (("layers", layers), ("classifiers", classifiers)):
            given: object = modules
            check_list(name, [*given] if isinstance(given, nn.ModuleList) else given)
            for module in modules:
                check_module(name, module)
        if not (verdict is None or callable(verdict)):
            raise TypeError(f"verdict must be a function of logits or None, got {verdict!r}")
        if len(layers) != len(classifiers) or not layers:
            raise ValueError(f"layers must be as many as classifiers, got {len(layers)} and {len(classifiers)}")
        self.layers = nn.ModuleList(layers)
        self.classifiers = nn.ModuleList(classifiers)
        self.verdict = _only if verdict is None else verdict
        self.training = False  # `eval()` would reach into the caller's modules

    def forward(self, images: Tensor) -> Tensor:
        """The deployed classifier's logits ``(N, classes)``."""
        branches = zip(self.layers, self.classifiers, strict=True)
        return self.verdict([logits_of(classifier, layer(images)) for layer, classifier in branches])


def _only(logits: Sequence[Tensor]) -> Tensor:
    (of_one,) = logits
    return of_one
