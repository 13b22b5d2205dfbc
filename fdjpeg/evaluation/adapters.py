"""Layers of this package in other attack libraries.

foolbox, torchattacks, pyautoattack and SecML-Torch accept any module, so there the layer simply comes first:
``torchattacks.PGD(nn.Sequential(layer, network).eval(), eps=2 / 255)``. Do not use a library's own
``preprocessing`` arguments: one that is silently dropped makes a defence look robust. ART has its own place for layers,
which ``art_preprocessor`` fills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fdjpeg._packages import required

if TYPE_CHECKING:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch


def art_preprocessor(layer: nn.Module, *, apply_fit: bool = False, apply_predict: bool = True) -> PreprocessorPyTorch:
    """Returns a layer as ART (adversarial-robustness-toolbox) puts it before a ``PyTorchClassifier``.

    ::

        classifier = PyTorchClassifier(network, loss, shape, classes, clip_values=(0, 1), device_type="cpu",
                                       preprocessing_defences=art_preprocessor(fdjpeg.JPEG(75, gradient="cubic")))

    ART's attacks differentiate it by autograd, so the layer's ``gradient`` decides how strong they are.

    Args:
        layer: maps images ``(N, C, H, W)`` in [0, 1] to such images, on the device of its input.
        apply_fit: whether ART applies it in training.
        apply_predict: whether ART applies it in prediction, and so in attacks.

    Returns:
        An ``art.defences.preprocessor.preprocessor.PreprocessorPyTorch``.

    Raises:
        MissingPackage: if ART is not installed, or a package that it needs.
    """
    required("art.defences.preprocessor.preprocessor", "adversarial-robustness-toolbox")  # raises if it is missing
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

    class Layer(PreprocessorPyTorch):
        """The layer, with classes passed along."""

        def __init__(self) -> None:
            # Its device matters only if ART passes arrays.
            first = next(layer.parameters(), next(layer.buffers(), None))
            on_gpu = first is not None and first.is_cuda
            super().__init__(
                device_type="gpu" if on_gpu else "cpu", is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict
            )
            self.layer = layer

        def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
            """Returns the layer's output for images ``(N, C, H, W)`` in [0, 1], and ``y`` unchanged."""
            return self.layer(x), y

    return Layer()
