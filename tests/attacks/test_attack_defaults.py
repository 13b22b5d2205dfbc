"""Attacks and certificates do not depend on torch's defaults, modes or dtypes, nor on logits that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from support.evaluation_cases import Tiny
from torch import Tensor, nn

from fdjpeg import attacks
from fdjpeg.attacks import PGD, Attack, CarliniWagnerL0, Found, distances
from fdjpeg.attacks.losses import others_ranked
from fdjpeg.attacks.pgd import goals
from fdjpeg.attacks.transfer import zero_gradients
from fdjpeg.certificates import certify
from fdjpeg.defenses import parse_defense

#: One of each engine, with a radius.
EACH = {
    "pgd-1": 4 / 255,
    "apgd-ce-1": 4 / 255,
    "fab-1": 4 / 255,
    "square-2": 4 / 255,
    "ddn-1": 0.5,
    "cw-linf-1x1": 4 / 255,
    "jsma": 2,
    "noise": 4 / 255,
}


@contextmanager
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "another device": lambda: torch.device("meta"),
    "float64": _float64,
    "inference": lambda: torch.inference_mode(),
    "no gradient": lambda: torch.no_grad(),
}


def _images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _mode(name: str) -> AbstractContextManager[object]:
    return MODES[name]()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", list(EACH))
def test_an_attack_is_the_same_under_torchs_defaults_and_modes(name: str) -> None:
    network, x, attack = Tiny().eval(), _images(), attacks.from_name(name, norm=None)
    y = network(x).argmax(dim=1)
    wanted = attack(network, x, y, EACH[name])
    for mode in MODES:
        with _mode(mode):
            found = attack(network, x, y, EACH[name])
        assert torch.equal(found, wanted), mode


@pytest.mark.parametrize("name", list(EACH))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_attack_takes_a_network_of_any_dtype(name: str, dtype: torch.dtype) -> None:
    network, x, attack = Tiny().eval().to(dtype), _images().to(dtype), attacks.from_name(name, norm=None)
    result = attack.run(network, x, network(x).argmax(dim=1), EACH[name])
    assert result.x_adv.dtype == dtype
    room = max(torch.finfo(dtype).eps, 1e-6) * (28 if attack.norm == "l2" else 1)
    assert float(distances(result.x_adv.double(), x.double(), attack.norm).max()) <= EACH[name] + room


def test_gradients_are_measured_inside_inference_mode() -> None:
    network, x = Tiny().eval(), _images()
    y = network(x).argmax(dim=1)
    with torch.inference_mode():
        found = zero_gradients(network, x, y)
    assert torch.equal(found, zero_gradients(network, x, y))


@pytest.mark.parametrize("mode", list(MODES))
def test_a_certificate_is_the_same_under_torchs_defaults_and_modes(mode: str) -> None:
    network, x, defended = Tiny().eval(), _images()[:, :, :8, :8], parse_defense("jpeg:25,4:4:4")
    y = defended.deployed(network)(x).argmax(dim=1)
    wanted = certify(defended, network, x, y, 0.3 / 255, most_outcomes=64)
    with _mode(mode):
        found = certify(defended, network, x, y, 0.3 / 255, most_outcomes=64)
    assert found.statuses == wanted.statuses
    assert torch.equal(found.outcomes, wanted.outcomes)


def test_a_network_made_under_inference_mode_is_named() -> None:
    with torch.inference_mode():
        network = Tiny().eval()
    x, y = _images(), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"^model must be made outside of torch.inference_mode, got '"):
        PGD(1)(network, x, y, 0.01)
    with pytest.raises(ValueError, match=r"^network must be made outside of torch.inference_mode, got '"):
        certify(parse_defense("jpeg:25"), network, x, y, 0.01)


class _Infinite(nn.Module):
    """Logits of which one class is minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Tiny().eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, :2].masked_fill(torch.tensor([False, True]), -torch.inf)


def test_the_true_class_is_no_target_although_another_logit_is_minus_infinity() -> None:
    x, y = _images(), torch.tensor([0, 0])
    assert others_ranked(torch.tensor([[1.0, -torch.inf, -torch.inf]]), torch.tensor([2])).tolist() == [[0, 1]]
    assert [goal.tolist() for goal in goals(_Infinite(), x, y, "likeliest", 2)] == [[1, 1], [1, 1]]
    assert attacks.from_name("jsma", norm=None).run(_Infinite(), x, y, 2).distance.tolist() == [torch.inf] * 2  # type: ignore[union-attr]


class _Huge(nn.Module):
    """Logits whose differences exceed float32 on most images."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([1e38 * 20 * mean, -1e38 * 20 * mean], dim=1)


def test_infinite_logits_make_no_images_of_nan() -> None:
    x, y = _images(), torch.tensor([0, 0])
    found = CarliniWagnerL0(steps=2, rounds=2).run(_Huge(), x, y, 3)
    assert not bool(found.x_adv.isnan().any())
    assert not bool((found.margin > 0).any())


class _Nan(Attack):
    norm = "linf"
    seed = 0
    name = "nan"

    def search(self, model, x, y, eps, indices, judge):  # type: ignore[no-untyped-def]
        return Found(x.masked_fill(x > 0.5, torch.nan))


def test_a_sample_of_an_attack_that_is_not_a_number_is_put_back() -> None:
    x = _images()
    assert torch.equal(_Nan()(Tiny().eval(), x, torch.tensor([0, 1]), 0.1), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_beyond_float32_is_the_largest_ball(norm: str) -> None:
    network, x = Tiny().eval(), _images()
    y = network(x).argmax(dim=1)
    largest = 1 if norm == "linf" else x[0].numel() ** 0.5
    found = PGD(2, norm=norm).run(network, x, y, 1e308)  # type: ignore[arg-type]
    assert torch.equal(found.x_adv, PGD(2, norm=norm)(network, x, y, largest))  # type: ignore[arg-type]
    assert bool(found.margin.isfinite().all())


@pytest.mark.parametrize("text", ["2/255/3", "2/", "1e-400", "1" + "0" * 400, "/"])
def test_a_radius_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^eps must be "):
        attacks.parse_eps(text, "l2")


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    for name in EACH:
        with pytest.raises(ValueError, match=r"^seed must be in -2\^63…2\^64 - 1, got "):
            attacks.from_name(name, norm=None, seed=seed)


def test_a_certificate_names_classes_that_the_network_does_not_have() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    with pytest.raises(ValueError, match=r"^labels must be in 0…1 for a network of 2 classes, got 5"):
        certify(parse_defense("jpeg:25"), network, _images(), torch.tensor([0, 5]), 0.001)
