"""Layers of this package in other people's attack libraries.

foolbox, torchattacks, pyautoattack and SecML-Torch take any module, so there the layer simply comes first:
``torchattacks.PGD(nn.Sequential(layer, network).eval(), eps=2 / 255)``. Leave a library's own ``preprocessing``
arguments alone: one that is dropped in silence makes a defence look robust. ART has a place of its own for layers, for
which ``art_preprocessor`` is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fdjpeg._packages import MissingPackage

if TYPE_CHECKING:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch


def art_preprocessor(layer: nn.Module, *, apply_fit: bool = False, apply_predict: bool = True) -> PreprocessorPyTorch:
    """A layer as ART (adversarial-robustness-toolbox) puts it before a ``PyTorchClassifier``.

    ::

        classifier = PyTorchClassifier(network, loss, shape, classes, clip_values=(0, 1), device_type="cpu",
                                       preprocessing_defences=art_preprocessor(fdjpeg.JPEG(75, gradient="cubic")))

    ART's attacks differentiate it as torch does, so the layer's ``gradient`` decides how strong they are.

    Args:
        layer: maps images ``(N, C, H, W)`` in [0, 1] to such images. It works where its input is.
        apply_fit: whether ART applies it in training.
        apply_predict: whether ART applies it in prediction, and so in attacks.

    Returns:
        An ``art.defences.preprocessor.preprocessor.PreprocessorPyTorch``.

    Raises:
        MissingPackage: if ART is not installed.
    """
    try:
        from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
    except ImportError as error:
        raise MissingPackage(
            "The package adversarial-robustness-toolbox is not installed, or lacks a package that it needs "
            f"({error}); pip install adversarial-robustness-toolbox does it."
        ) from error

    class Layer(PreprocessorPyTorch):
        """The layer, with classes passed along."""

        def __init__(self) -> None:
            # Its device matters only where ART hands over arrays.
            first = next(layer.parameters(), next(layer.buffers(), None))
            on_gpu = first is not None and first.is_cuda
            super().__init__(
                device_type="gpu" if on_gpu else "cpu", is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict
            )
            self.layer = layer

        def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
            """The layer's output for images ``(N, C, H, W)`` in [0, 1], and ``y`` as it came."""
            return self.layer(x), y

    return Layer()
