"""Settings that a plan cannot keep as they are written: each is named before any image is attacked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluation_cases import Tiny, outcomes, small, tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg.attacks import JSMA, PGD
from fdjpeg.evaluation import Plan, World
from fdjpeg.sources import ImageSet, load_network
from fdjpeg.sources.networks import evaluating

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no gradient": ({"gradients": []}, ValueError, "gradients must hold at least one gradient, got none"),
    "a gradient twice": ({"gradients": ["cubic", "cubic"]}, ValueError, "gradients must be different, got cubic"),
    "no gradient for one": ({"defenses": {"jpeg:50": []}}, ValueError, "gradients of jpeg:50 must hold at least one"),
    "a text of gradients": ({"defenses": {"jpeg:50": "cubic"}}, TypeError, "gradients of jpeg:50 must be a list"),
    "a class": ({"defenses": [fdjpeg.JPEG]}, TypeError, "defenses must be names, modules .* got the class JPEG"),
    "a function": ({"defenses": [len]}, TypeError, "defenses must be names, modules or Defended, got <built-in"),
    "nothing": ({"defenses": [None]}, TypeError, "defenses must be names, modules or Defended, got None"),
    "radii alike": ({"eps": [0.1, 0.10000001]}, ValueError, "eps must be radii that differ in six digits, got 0.1"),
    "two slashes": ({"eps": ["2/255/3"]}, ValueError, "eps must be a number such as 4/255 or 0.03, got '2/255/3'"),
    "too small": ({"eps": ["1e-400"]}, ValueError, "eps must be above 0 as a floating number, got '1e-400'"),
    "too large": ({"eps": [1e308], "norm": "l2"}, ValueError, "eps must be a number such as"),
    "a large seed": ({"seed": 2**64}, ValueError, "seed must be in "),
    "a large seed of attacks that have their own": (
        {"seed": 2**64, "attacks": [PGD(1)]},
        ValueError,
        f"seed must be in -2\\^63…2\\^64 - 1, got {2**64}",
    ),
    "an unknown norm of attacks that have their own": (
        {"norm": "l3", "attacks": [PGD(1)]},
        ValueError,
        "norm must be ",
    ),
    "two norms": (
        {"attacks": [PGD(1), PGD(1, norm="l2")]},
        ValueError,
        "attacks must share one norm, got PGD-1 in linf, PGD-1.* in l2$",
    ),
    "a count of samples": (
        {"attacks": [JSMA()], "eps": [3]},
        ValueError,
        "attacks must be in the norm linf or l2 in an evaluation, got JSMA.* in l0$",
    ),
    "an attack twice": ({"attacks": ["pgd-1", PGD(1)]}, ValueError, "attacks must be different, got PGD-1, PGD-1$"),
    "no attack": ({"attacks": []}, ValueError, "attacks must hold at least one attack, got none$"),
    "no radius": ({"eps": []}, ValueError, "eps must hold at least one radius, got none$"),
    "a text of radii": ({"eps": "1/255"}, TypeError, "eps must be a list, got '1/255'$"),
    "a text of attacks": ({"attacks": "pgd"}, TypeError, "attacks must be a list, got 'pgd'$"),
    "one transfer": ({"transfer": tiny()}, TypeError, "transfer must be a list, got "),
    "a text of defences": ({"defenses": "jpeg:75"}, TypeError, "defenses must be a list, got 'jpeg:75'$"),
    "certificates in l2": (
        {"certify": True, "norm": "l2"},
        ValueError,
        "certify must be False for attacks in a norm other than linf, got True for l2$",
    ),
    "a derived field": ({"chosen": ()}, TypeError, ".* unexpected keyword argument 'chosen'$"),
    "no image at once": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0$"),
    "no draw": ({"draws": 0}, ValueError, "draws must be at least 1, got 0$"),
    "fewer pictures than none": ({"pictures": -1}, ValueError, "pictures must be at least 0, got -1$"),
    "a large batch": ({"batch_size": 2**70}, ValueError, "batch_size must be an integer of 64 bits, got "),
    "no flag": ({"certify": 1}, TypeError, "certify must be True or False, got 1"),
    "another transfer": ({"transfer": [{}]}, TypeError, "transfer must be a torch.nn.Module, got dict"),
}


@pytest.mark.parametrize("kind", list(MISTAKES))
def test_a_setting_that_cannot_be_kept_is_named(kind: str) -> None:
    settings, error, message = MISTAKES[kind]
    with pytest.raises(error, match=f"^{message}"):
        Plan(**settings)


def test_the_least_numbers_make_a_plan_in_any_norm() -> None:
    plan = Plan(batch_size=1, draws=1, pictures=0, attacks=["pgd-1"], norm="l2", eps=["1"])
    assert (plan.batch_size, plan.draws, plan.pictures, plan.ball) == (1, 1, 0, "l2")
    assert Plan(attacks=[PGD(1, norm="l2")], eps=["1"]).ball == "l2"
    assert Plan(certify=True).certify


def test_radii_that_are_one_number_count_once() -> None:
    assert len(Plan(eps=[0.1, "1/10", np.float32(0.5), "0.5"]).radii) == 2


def test_numpys_integers_are_pythons(photographs: ImageSet) -> None:
    numbers = {"batch_size": np.int64(2), "draws": np.int32(1), "pictures": np.int64(0), "seed": np.int64(0)}
    plan = Plan(**numbers)  # type: ignore[arg-type]
    assert all(type(getattr(plan, name)) is int for name in numbers)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(4, 2, 1), "transfer network Conv2d must take float32 images"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), "labels must be in 0…1 for a transfer"),
    ],
)
def test_a_network_for_transfer_is_tried_before_anything_else(
    network: nn.Module, message: str, photographs: ImageSet
) -> None:
    called: list[str] = []
    images = replace(photographs, labels=torch.full((len(photographs),), 3))
    with pytest.raises(ValueError, match=f"^{message}"):
        small(tiny(), images, transfer=[network], progress=lambda done, all_, name: called.append(name))  # type: ignore[arg-type]
    assert not called


def test_a_network_that_is_not_there_is_named_by_its_argument() -> None:
    with pytest.raises(ValueError, match=r"^transfer must name something that can be imported, got 'nowhere:net'"):
        load_network("nowhere:net", "transfer")


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        (2, 2, "rank must be below size, 2, got 2"),
        (-1, 2, "rank must be at least 0, got -1"),
        (0, 0, "size must be at least 1, got 0"),
    ],
)
def test_a_process_outside_of_its_world_is_named(rank: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        World(rank, size)
    with pytest.raises(TypeError, match=r"^together must be True or False, got 1$"):
        World(0, 1, together=1)  # type: ignore[arg-type]


def test_a_shard_without_a_batch_is_named(photographs: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"^world must leave each shard a batch, got 9-of-9 of \d batches"):
        small(tiny(), photographs, world=World(8, 9))


class _Creating(nn.Module):
    """A network whose forward pass makes tensors of its own, on the device of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Tiny().eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + torch.zeros(len(images), 1, dtype=images.dtype, device=images.device)


def test_an_evaluation_is_the_same_under_torchs_defaults_and_modes(photographs: ImageSet) -> None:
    network = _Creating()

    def run() -> Any:
        return outcomes(small(network, photographs, checks=False, defenses=["random-jpeg:30-90"], draws=1))  # type: ignore[arg-type]

    wanted = run()
    with torch.device("meta"):
        assert run() == wanted
    with torch.inference_mode():
        assert run() == wanted
    torch.set_default_dtype(torch.float64)
    try:
        assert run() == wanted
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("place", ["model", "defense"])
def test_modules_made_under_inference_mode_are_named(place: str, photographs: ImageSet) -> None:
    with torch.inference_mode():
        made = Tiny().eval() if place == "model" else nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=f"^{place}.* must be made outside of torch.inference_mode"):
        small(made if place == "model" else tiny(), photographs, **({} if place == "model" else {"defenses": [made]}))  # type: ignore[arg-type]


def test_a_module_without_modes_is_taken_as_it_is() -> None:
    exported = torch.export.export(nn.Linear(2, 2), (torch.zeros(3, 2),)).module()
    with evaluating(exported):  # whose eval() raises NotImplementedError
        assert exported(torch.zeros(3, 2)).shape == (3, 2)
