"""Losses, classifiers, images and curves that learning and measuring cannot use: each is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.learning import ClassifierLoss, bits_ratio, learn_tables, measure, ms_ssim, psnr

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BYTES = (255 * IMAGES).round().to(torch.uint8)
BUDGET = torch.tensor([2000, 2000])
LABELS = torch.tensor([0, 1])
TABLES = QuantTables.standard(50)


class _Net(nn.Module):
    def __init__(self, after: Callable[[Tensor], Any] = lambda logits: logits, classes: int = 2) -> None:
        super().__init__()
        self.linear, self.after = nn.Linear(768, classes), after

    def forward(self, images: Tensor) -> Any:
        return self.after(self.linear(images.flatten(1)))


def _learn(**changes: Any) -> QuantTables:
    return learn_tables(**{"images": BYTES, "budget": BUDGET, "iterations": 1, **changes})


def _error(decoded: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
    return (decoded - original).square().flatten(1).mean(dim=1)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no loss": ({"loss": lambda *_: None}, TypeError, r"loss must return a floating torch.Tensor \(2,\), got NoneType"),
    "a number": ({"loss": lambda *_: 0.5}, TypeError, "loss must return a floating torch.Tensor .* got float"),
    "a map": ({"loss": lambda d, o, _: d - o}, ValueError, r"loss must return one number for each image, \(2,\), got"),
    "detached": ({"loss": lambda *a: _error(*a).detach()}, ValueError, "loss must be differentiable by"),
    "NaN": ({"loss": lambda *a: _error(*a) * torch.nan}, ValueError, "loss must be finite, got NaN"),
    "a tuple": ({"loss": ClassifierLoss(_Net(lambda out: (out,))), "labels": LABELS}, ValueError, "model must return"),
    "one class": ({"loss": ClassifierLoss(_Net(classes=1)), "labels": LABELS * 0}, ValueError, "model must return"),
    "a raise": ({"loss": ClassifierLoss(nn.Conv2d(1, 1, 1))}, ValueError, "model must take float32 images"),
    "another class": (
        {"loss": ClassifierLoss(_Net()), "labels": LABELS + 1},
        ValueError,
        "labels must be in 0…1",
    ),
    "real labels": ({"loss": ClassifierLoss(_Net()), "labels": LABELS.float()}, TypeError, "labels must be int64, got"),
    "images of NaN": ({"images": IMAGES * torch.nan}, ValueError, r"images must be in \[0, 1\], got values from nan"),
    "images of 255": ({"images": IMAGES * 255}, ValueError, r"images must be in \[0, 1\], got values from"),
    "no end of bits": ({"budget": BUDGET * torch.inf}, ValueError, "budget must be above 0 and finite"),
    "flags of bits": ({"budget": BUDGET > 0}, TypeError, "budget must be numbers of bits, got torch.bool"),
    "complex bits": ({"budget": BUDGET + 0j}, TypeError, "budget must be numbers of bits, got torch.complex64"),
    "a large seed": ({"seed": 2**64}, ValueError, "seed must be in "),
}


@pytest.mark.parametrize("kind", list(MISTAKES))
def test_what_cannot_be_learned_is_named(kind: str) -> None:
    changes, error, message = MISTAKES[kind]
    with pytest.raises(error, match=f"^{message}"):
        _learn(**changes)


def test_tables_are_the_same_under_torchs_defaults_and_modes() -> None:
    wanted = _learn()
    with torch.device("meta"):
        assert torch.equal(_learn().luma, wanted.luma)
    with torch.inference_mode():
        assert torch.equal(_learn().luma, wanted.luma)
    with torch.no_grad():
        numbers = {"iterations": np.int64(1), "batch_size": np.int64(64), "seed": np.int64(0)}
        assert torch.equal(_learn(**numbers).luma, wanted.luma)


MEASURED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"images": BYTES[:0]}, ValueError, "images must be one or more of 1 or 3 channels"),
    "two channels": ({"images": BYTES[:, :2]}, ValueError, "images must be one or more of 1 or 3 channels"),
    "no rows": ({"images": BYTES[:, :, :0]}, ValueError, "images must be one or more of 1 or 3 channels and 1…65500"),
    "too wide": ({"images": torch.zeros(1, 1, 1, 65501, dtype=torch.uint8)}, ValueError, "images must be one or more"),
    "a tuple": ({"model": _Net(lambda out: (out,))}, ValueError, "model must return logits"),
    "one class": ({"model": _Net(classes=1)}, ValueError, "model must return logits"),
    "half": ({"model": _Net().half()}, ValueError, "model must take float32 images"),
    "another class": ({"model": _Net(), "labels": LABELS + 1}, ValueError, "labels must be in 0…1"),
    "real labels": ({"model": _Net(), "labels": LABELS.float()}, TypeError, "labels must be int64"),
}


@pytest.mark.parametrize("kind", list(MEASURED))
def test_what_cannot_be_measured_is_named(kind: str) -> None:
    changes, error, message = MEASURED[kind]
    with pytest.raises(error, match=f"^{message}"):
        measure(**{"images": BYTES, "tables": TABLES, "labels": LABELS, **changes})


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_metrics_of_bytes_are_refused(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(TypeError, match=r"^decoded and original must be floats in \[0, 1\], got torch.uint8"):
        metric(BYTES, BYTES)


CURVE = {
    "bits": torch.tensor([1000.0, 1200.0]),
    "kept": torch.tensor([30.0, 31.0]),
    "curve_bits": torch.tensor([[1000.0, 1200.0], [2000.0, 2400.0]]),
    "curve_kept": torch.tensor([[29.0, 30.0], [32.0, 33.0]]),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": -CURVE["bits"]}, "bits must be above 0 and finite"),
        ({"bits": CURVE["bits"] * torch.nan}, "bits must be above 0 and finite"),
        ({"curve_bits": CURVE["curve_bits"] * 0}, "curve_bits must be above 0 and finite"),
        ({"kept": CURVE["kept"] * torch.inf}, "kept must be finite"),
        ({"curve_bits": CURVE["curve_bits"].flip(0)}, "curve_bits must be in the order of their means, got 2200, 1100"),
        ({"seed": 2**64}, "seed must be in "),
    ],
)
def test_a_curve_that_is_none_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        bits_ratio(**{**CURVE, **changes})


def test_numbers_of_sources_may_have_gaps() -> None:
    wanted = bits_ratio(**CURVE, sources=torch.tensor([0, 1]))  # type: ignore[arg-type]
    assert bits_ratio(**CURVE, sources=torch.tensor([3, 10**12])) == wanted  # type: ignore[arg-type]


def test_a_budget_that_requires_a_gradient_is_a_number(recwarn: pytest.WarningsRecorder) -> None:
    assert torch.equal(_learn(budget=BUDGET.double().requires_grad_()).luma, _learn().luma)
    assert not recwarn.list
    assert fdjpeg.bits(fdjpeg.encode(BYTES, tables=_learn())).sum() < 4400
