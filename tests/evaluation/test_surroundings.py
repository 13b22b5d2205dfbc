"""The modes and defaults of the calling program change no figure: torch's default device and dtype, and grad modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdjpeg
from fdjpeg import attacks, augmentations, defenses, learning, sources
from fdjpeg.certificates import certify
from fdjpeg.evaluation import evaluate

IMAGES, LABELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
BYTES = (IMAGES * 255).byte()


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()


NETWORK = _network()


@contextmanager
def _default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


#: A device whose tensors hold nothing stands for any other than the images'.
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default device": lambda: torch.device("meta"),
    "default dtype": _default_dtype,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


def _attacked(name: str) -> Tensor:
    model: nn.Module = NETWORK
    if name.startswith("flip"):
        model = defenses.parse_defense("jpeg:50").exposed(NETWORK)
    attack = attacks.from_name(name, norm=None)
    return attack(model, IMAGES.clone(), LABELS.clone(), 4 / 255 if attack.norm != "l0" else 4)


def _report() -> list[Any]:
    report = evaluate(
        NETWORK,
        (IMAGES.clone(), LABELS.clone()),
        defenses=["random-jpeg:30-90"],
        attacks=["pgd-1"],
        eps=["4/255"],
        gradients=["cubic"],
        draws=2,
        checks=False,
    )
    return [(cell.threat, cell.predicted, cell.margin) for cell in report.cells]


def _draws(layer: nn.Module) -> Tensor:
    torch.manual_seed(0)
    made: Tensor = layer(IMAGES)
    return made


CALLS: dict[str, Callable[[], Any]] = {
    **{
        name: lambda name=name: _attacked(name)
        for name in ("pgd-2", "flip-1", "apgd-ce-2", "deepfool-2", "square-3", "cw-linf-1x1", "jsma", "noise")
    },
    "evaluate": _report,
    "certify": lambda: (
        certify(defenses.parse_defense("jpeg:50"), NETWORK, IMAGES.clone(), LABELS.clone(), 1e-4).changeable
    ),
    "learn tables": lambda: learning.learn_tables(
        BYTES, fdjpeg.bits(fdjpeg.encode(BYTES, 50)), iterations=1, batch_size=2
    ).stacked(),
    "measure": lambda: learning.measure(BYTES, fdjpeg.QuantTables.standard(50)).psnr,
    "subsamplings": lambda: _draws(augmentations.RandomJPEG(subsampling=("4:2:0", "4:4:4"))),
    "weights": lambda: _draws(augmentations.RandomJPEG(qualities=(30, 60), weights=(1, 3))),
    "shifts": lambda: _draws(augmentations.DoubleJPEG((30, 90))),
    "scales": lambda: _draws(augmentations.Recompress((30, 90), scale=(0.5, 1.0), restore=True)),
    "lattice": lambda: sources.image_set.lattice_quality(fdjpeg.jpeg(BYTES[0], 50)),
}
WANTED: dict[str, Any] = {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
def test_a_mode_of_the_caller_changes_nothing(call: str, mode: str) -> None:
    wanted = WANTED.setdefault(call, CALLS[call]())
    with MODES[mode]():
        found = CALLS[call]()
    if isinstance(wanted, Tensor):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    else:
        assert found == wanted


def test_tables_of_lists_keep_their_numbers_under_meta() -> None:
    standard = fdjpeg.QuantTables.standard(50)
    lists = [standard.luma.tolist(), standard.chroma.tolist()]
    made: list[Callable[[], nn.Module]] = [
        lambda: defenses.JPEGEnsemble(*lists, levels=(1.0,)),
        lambda: defenses.FineTuned(lists),
        lambda: defenses.FeatureDistillation("paper"),
    ]
    for make in made:
        with torch.device("meta"):
            layer = make()
        if isinstance(layer, defenses.JPEGEnsemble):
            assert torch.equal(layer.layer(1.0)(IMAGES), make().layer(1.0)(IMAGES))  # type: ignore[operator]
        else:
            assert torch.equal(layer(IMAGES), make()(IMAGES))
    with pytest.raises(ValueError, match=r"tables must hold values, .* got tensors without"):
        fdjpeg.RandomJPEG(tables=[standard.to("meta")])


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = _network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.detach())
        return logits


class Elsewhere(nn.Module):
    """Computes with parameters of which the attack does not know, so that its logits still require a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = NETWORK(x.detach())
        return logits


NEEDY = ("apgd-ce-2", "fab-2x1", "deepfool-2", "ddn-2", "jsma")
CASES = [*((name, Detached) for name in ("pgd-1", *NEEDY)), *((name, Elsewhere) for name in NEEDY)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_model_without_a_derivative_is_named_by_every_attack_that_needs_one(name: str, kind: type[nn.Module]) -> None:
    model = kind()
    attack = attacks.from_name(name, norm=None)
    with pytest.raises(ValueError, match=r"^model must be differentiable, but its logits do not depend on the images"):
        attack(model, IMAGES, model(IMAGES).argmax(1), 0.1 if attack.norm != "l0" else 4)
