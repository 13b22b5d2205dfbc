"""Images, classes, radii and settings that attacks refuse, each by name; the example of docs/attacks.md."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.classifiers import Tiny
from torch import Tensor, nn

from fdjpeg.attacks import NAMES, PGD, Noise, from_name, margin, parse_eps, registry
from fdjpeg.attacks.autoattack import APGD
from fdjpeg.attacks.calls import usual_defaults
from fdjpeg.attacks.exposed import Exposed
from fdjpeg.attacks.losses import AWAY

EPS = 8 / 255


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eps": -1 / 255}, ValueError, r"^eps must be 0 or more.* got -0.0039"),
        ({"eps": float("nan")}, ValueError, r"^eps must be 0 or more.* got nan"),
        ({"eps": float("inf")}, ValueError, r"^eps must be 0 or more.* got inf"),
        ({"x": torch.full((2, 3, 8, 8), 1.5)}, ValueError, r"^x must be in \[0, 1\], got values from 1.5 to 1.5"),
        ({"x": torch.full((2, 3, 8, 8), -0.1)}, ValueError, r"^x must be in \[0, 1\]"),
        ({"x": torch.full((2, 3, 8, 8), float("nan"))}, ValueError, r"^x must be in \[0, 1\]"),
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, r"^x must be floats.* got torch.uint8"),
        ({"x": torch.zeros(3, 8, 8)}, ValueError, r"^x must be images \(N, C, H, W\), got shape \(3, 8, 8\)"),
        ({"y": torch.tensor([0])}, ValueError, r"^y must be \(2,\), a class for each image, got shape \(1,\)"),
        ({"y": torch.tensor([0, 4])}, ValueError, r"^y must be in 0…3 for a model of 4 classes, got 4"),
        ({"y": torch.tensor([0, -1])}, ValueError, r"^y must be classes 0, 1, …, got -1"),
        ({"y": torch.tensor([0.0, 1.0])}, TypeError, r"^y must be int64, got torch.float32"),
        ({"indices": torch.arange(3)}, ValueError, r"^indices must be \(2,\), one for each image, got shape \(3,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"x": torch.full((2, 3, 8, 8), 0.5), "y": torch.tensor([0, 1]), "eps": 0.1, "indices": None}
    arguments = good | change
    for attack in (PGD(2), Noise(), PGD(2, norm="l2", draws=2)):
        with pytest.raises(error, match=message):
            attack(Tiny(), arguments["x"], arguments["y"], arguments["eps"], indices=arguments["indices"])


@pytest.mark.parametrize(("end", "beyond"), [(0.0, -0.5 / 255), (1.0, 1 + 0.5 / 255)])
def test_an_excess_of_less_than_half_a_byte_is_cut_off(end: float, beyond: float) -> None:
    x, y = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    x[0, 0, 0, 0] = end + 0.999 * (beyond - end)
    assert float(Noise()(nn.Flatten(), x, y, 0.0)[0, 0, 0, 0]) == end
    x[0, 0, 0, 0] = beyond
    with pytest.raises(ValueError, match=r"^x must be in \[0, 1\]"):
        Noise()(nn.Flatten(), x, y, 0.0)


def test_radii_go_up_to_the_whole_range_in_linf_and_further_in_l2() -> None:
    for whole in ("1", 1, 1.0, "255/255"):
        assert parse_eps(whole) == 1
    assert parse_eps("1.001", "l2") == Fraction(1001, 1000)
    for wrong in ("1.001", 2, "256/255", 0, "0/255", -1):
        with pytest.raises(ValueError, match=r"^eps must be in \(0, 1\], in units of the images' range"):
            parse_eps(wrong)


def test_a_model_that_returns_no_logits_is_named(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^model must return logits \(6, classes\), got shape \(6, 3, 24, 24\)"):
        PGD(2)(nn.Identity(), x, y, EPS)


def test_no_images_and_no_radius_are_fine(model: nn.Module, x: Tensor, y: Tensor) -> None:
    for attack in (PGD(2), PGD(2, norm="l2", draws=3), Noise(norm="l2")):
        assert attack(model, x[:0], y[:0], EPS).shape == (0, 3, 24, 24)
        assert torch.equal(attack(model, x, y, 0.0), x)


#: Everything that decides an attack's result, where only its name is given; but for the seed, which is 0.
PGD_20: dict[str, Any] = {
    "attack": "PGD", "steps": 20, "restarts": 1, "loss": "cross-entropy", "step": 2.0, "until_fooled": True,
    "norm": "linf", "schedule": "cosine", "momentum": 0.25, "random_start": True, "aim": "away", "draws": 1,
    "whole_bytes": False, "label": None,
}  # fmt: skip
PLAIN = PGD_20 | {"schedule": "constant", "momentum": 0.0, "random_start": False}
OF_CLIMBS = ("steps", "restarts", "loss", "until_fooled", "norm", "aim", "draws", "whole_bytes", "label")
FLIP_20 = {name: PGD_20[name] for name in OF_CLIMBS} | {"attack": "Flip"}
LIKELIEST = {"loss": "margin", "aim": "likeliest", "restarts": 9}
APGD_100: dict[str, Any] = {"attack": "APGD", "loss": "ce", "steps": 100, "restarts": 1, "draws": 1, "norm": "linf"}
SALIENCY: dict[str, Any] = {
    "attack": "JSMA", "theta": 1.0, "pairs": True, "surface": "probabilities", "temperature": 1.0, "target": "every",
    "norm": "l0",
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "fgsm": PLAIN | {"steps": 1, "step": 1.0, "label": "FGSM"},
    "bim": PLAIN | {"steps": 10, "step": 0.25, "label": "BIM-10"},
    "pgd": PGD_20,
    "pgd-margin": PGD_20 | {"loss": "margin"},
    "pgd-dlr": PGD_20 | {"loss": "dlr"},
    "pgd-targeted": PGD_20 | LIKELIEST,
    "flip": FLIP_20,
    "flip-margin": FLIP_20 | {"loss": "margin"},
    "flip-targeted": FLIP_20 | LIKELIEST,
    "apgd-ce": APGD_100,
    "apgd-dlr": APGD_100 | {"loss": "dlr"},
    "apgd-t": APGD_100 | {"loss": "dlr-targeted", "restarts": 9},
    "fab": {"attack": "FAB", "steps": 100, "targets": 9, "norm": "linf"},
    "square": {"attack": "Square", "queries": 5000, "norm": "linf"},
    "deepfool": {"attack": "DeepFool", "steps": 50, "candidates": 10, "norm": "linf"},
    "cw": {"attack": "CarliniWagner", "steps": 200, "searches": 6, "step": 0.01, "norm": "l2"},
    "cw-l0": {"attack": "CarliniWagnerL0", "steps": 40, "rounds": 30, "step": 0.05, "share": 0.2, "norm": "l0"},
    "cw-linf": {"attack": "CarliniWagnerLinf", "steps": 40, "rounds": 30, "step": 0.02, "norm": "linf"},
    "jsma": SALIENCY,
    "jsma-logits": SALIENCY | {"surface": "logits"},
    "ddn": {"attack": "DDN", "steps": 100, "norm": "l2"},
    "boundary": {"attack": "Boundary", "steps": 5000, "norm": "l2"},
    "hopskipjump": {"attack": "HopSkipJump", "steps": 10, "norm": "linf"},
    "noise": {"attack": "Noise", "norm": "linf"},
}


def test_a_name_alone_means_the_same_attack_in_every_version() -> None:
    """Kept results and reports have these settings: who changes one makes other results by the same name."""
    for package in ("foolbox", "pyautoattack"):
        if find_spec(package) is None:
            pytest.skip(f'needs {package}: pip install "fdjpeg[eval]"')
    assert {name: from_name(name).settings() for name in NAMES} == {
        name: settings | {"seed": 0} for name, settings in SETTINGS.items()
    }


def test_attacks_of_other_packages_are_those_of_the_page() -> None:
    """They search under torch's own defaults, and in float32 where images are of a half type."""
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    foreign = set()
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[3] in ("foolbox", "pyautoattack"):
            foreign |= {re.sub(r"-\d.*", "", name) for name in re.findall("`(.*?)`", cells[0])}
    assert len(foreign) == 10
    assert {name for name in NAMES if from_name(name).foreign} == foreign


def test_the_meaning_of_a_name_or_a_loss_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        registry._KINDS["pgd"].budget = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        AWAY["margin"].climb = margin  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "l1"}, "^norm must be 'linf' or 'l2' for this attack, got 'l1'"),
        ({"schedule": "linear"}, "^schedule must be one of constant, cosine, halving, got 'linear'"),
        ({"aim": "far"}, "^aim must be one of away, likeliest, given, got 'far'"),
        ({"momentum": 1.0}, "^momentum must be 0 or more and less than 1, got 1"),
        ({"draws": 0}, "^draws must be at least 1, got 0"),
    ],
)
def test_pgd_refuses_more_senseless_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**setting)


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"steps": 0}, "steps"), ({"restarts": 0}, "restarts"), ({"loss": "mse"}, "loss"), ({"step": 0}, "step")],
)
def test_pgd_refuses_senseless_settings(setting: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=f"^{word} must be .* got"):
        PGD(**setting)  # type: ignore[arg-type]


def test_the_pages_own_attack_runs(model: nn.Module, x: Tensor, y: Tensor) -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Darken" in block)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "attacks.md", "exec", dont_inherit=True), names)
    result = names["Darken"]().run(model, x, y, EPS)
    torch.testing.assert_close(result.x_adv, (x - EPS).clamp_min(0))
    torch.testing.assert_close(result.margin, margin(model(result.x_adv), y))
    assert names["Darken"]().settings() == {"attack": "Darken", "seed": 0, "norm": "linf"}


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_default_dtype_comes_back(fails: bool) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        try:
            with usual_defaults(torch.device("cpu")):
                assert torch.zeros(1).dtype == torch.float32
                if fails:
                    raise KeyError
        except KeyError:
            pass
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_an_exposed_classifier_judges_and_leaves_the_callers_modes_alone() -> None:
    network = Tiny().train()
    exposed = Exposed([nn.Identity()], [network])
    assert not exposed.training
    assert network.training


def test_a_model_that_is_drawn_more_than_once_is_attacked_image_by_image() -> None:
    assert [APGD(draws=draws).one_at_a_time for draws in (1, 2, 3)] == [False, True, True]
