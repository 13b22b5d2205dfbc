"""The attack on quantized coefficients: what it reaches, and what holds of every attack of ours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.classifiers import SEED, Tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg.attacks import PGD, Exposed, Flip, distances, from_name, margin
from fdjpeg.attacks.base import NORMS, SLACK, Norm

EPS = 2 / 255


@pytest.fixture
def network() -> nn.Module:
    return Tiny().eval()


@pytest.fixture
def x() -> Tensor:
    """Eight images of whole bytes with content at two scales, 24 × 20: one MCU and a half."""
    generator = torch.Generator().manual_seed(SEED)
    image = torch.full((8, 3, 24, 20), 0.5)
    for size, strength in ((4, 0.25), (12, 0.1)):
        octave = torch.randn(8, 3, size, size, generator=generator)
        image += strength * nn.functional.interpolate(octave, size=(24, 20), mode="bicubic")
    return (255 * image.clamp(0, 1)).round() / 255


def seen(model: nn.Module, x: Tensor) -> Tensor:
    """The classes that a model sees: by definition it gets all images right."""
    with torch.no_grad():
        return model(x).argmax(dim=1)


class OneBlock(nn.Module):
    """Two classes of one decoded grey block: a linear score with a preference for each of its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(SEED)))

    def forward(self, images: Tensor) -> Tensor:
        score = (images * self.weights).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_flip_finds_the_optimum_over_a_lattices_outcomes() -> None:
    """One grey block on the lattice: the optimum by enumeration of all sets of single flips of four corners of it."""
    layer, network = fdjpeg.JPEG(tables=QuantTables.flat(24)), OneBlock()
    x = layer(torch.full((1, 1, 8, 8), 0.5) + 0.1 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    y, levels = torch.zeros(1, dtype=torch.int64), 2
    result = Flip(20, until_fooled=False).run(Exposed([layer], [network]), x, y, levels / 255)
    # All sign patterns that are products of rows and columns of the DCT reach furthest: each by the exact encoder.
    dct = fdjpeg.block_dct(torch.eye(64).view(64, 8, 8)).flatten(1).T.sign()
    pairs = [(a, s * b) for a, b in itertools.product(dct, dct) for s in (-1, 1)]
    corners = torch.stack([((a + b) / 2).sign() for a, b in pairs]).view(-1, 1, 8, 8)
    tried = ((255 * x + levels * corners).clamp(0, 255).round() / 255).float()
    with torch.no_grad():
        best = margin(network(layer(tried)), y.expand(len(tried))).max()
    assert float(result.margin) >= float(best) - 1e-6
    assert float(result.margin) > float(margin(network(layer(x)), y)) + 0.1


LAYERS = {
    "jpeg": fdjpeg.JPEG(50),
    "4:4:4": fdjpeg.JPEG(30, subsampling="4:4:4"),
    "4:2:2": fdjpeg.JPEG(60, subsampling="4:2:2"),
    "4:4:0": fdjpeg.JPEG(60, subsampling="4:4:0"),
    "4:1:1": fdjpeg.JPEG(60, subsampling="4:1:1"),
    "nearest": fdjpeg.JPEG(50, upsampling="nearest"),
    "real": fdjpeg.JPEG(50, arithmetic="real"),
    "each image": fdjpeg.JPEG(torch.tensor([20, 30, 40, 50, 60, 70, 80, 90])),
    "each block": fdjpeg.JPEG(torch.randint(20, 90, (8, 3, 3), generator=torch.Generator().manual_seed(SEED))),
    "tables": fdjpeg.JPEG(tables=QuantTables.flat(20)),
    "code": fdjpeg.FeatureDistillation("code"),
    "paper": fdjpeg.FeatureDistillation("paper"),
    "two passes": fdjpeg.FeatureDistillation("uniform(20)", passes=2),
    "two of code": fdjpeg.FeatureDistillation("code", passes=2),
    "learned": fdjpeg.LearnableJPEG(QuantTables.standard(50)),
    "two unlike": nn.Sequential(fdjpeg.JPEG(90), fdjpeg.JPEG(40)),
    "fine after coarse": nn.Sequential(fdjpeg.JPEG(30), fdjpeg.JPEG(95, subsampling="4:4:4")),
    "coarse after fine": nn.Sequential(fdjpeg.JPEG(95, subsampling="4:2:2"), fdjpeg.JPEG(30, subsampling="4:4:0")),
    "code before JPEG": nn.Sequential(fdjpeg.FeatureDistillation("code"), fdjpeg.JPEG(60)),
    "code after JPEG": nn.Sequential(fdjpeg.JPEG(60), fdjpeg.FeatureDistillation("code")),
    "random": fdjpeg.RandomJPEG((40, 60)),
    "of qualities": fdjpeg.RandomJPEG(qualities=(40, 50), weights=(3, 1)),
    "of tables": fdjpeg.RandomJPEG(
        tables=[QuantTables.flat(20), QuantTables.standard(40)], subsampling=("4:4:4", "4:2:0")
    ),
    "by chance": fdjpeg.StochasticJPEG((30, 60)),
}

RANDOM = ("random", "of qualities", "of tables", "by chance")


IN_L2 = ("jpeg", "4:4:4", "each block", "code", "two unlike", "of tables")


@pytest.mark.parametrize(
    ("layer", "norm", "eps"), [*((layer, "linf", EPS) for layer in LAYERS), *((layer, "l2", 0.25) for layer in IN_L2)]
)
def test_flip_gains_more_than_pgd_and_stays_in_the_ball(
    layer: str, norm: Norm, eps: float, network: nn.Module, x: Tensor
) -> None:
    module = LAYERS[layer]
    exposed = Exposed([module], [network])
    y, before = seen(exposed, x), x.clone()
    flip = Flip(6, until_fooled=False, norm=norm)
    result = flip.run(exposed, x, y, eps)
    assert torch.equal(x, before)
    assert not result.x_adv.requires_grad
    assert float(distances(result.x_adv, x, norm).max()) <= eps + 1e-6
    assert float(result.x_adv.min()) >= 0
    assert float(result.x_adv.max()) <= 1
    assert result.loss_curve is not None
    assert result.loss_curve.shape == (7, 8)
    assert result.queries == 7 * 8
    if layer in RANDOM:
        return
    with torch.no_grad():
        torch.testing.assert_close(result.margin, margin(exposed(result.x_adv), y))
    pgd = PGD(6, until_fooled=False, norm=norm).run(nn.Sequential(module, network), x, y, eps)
    assert float((result.margin - pgd.margin).mean()) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_flip_takes_images_of_every_type(norm: Norm, dtype: torch.dtype, x: Tensor) -> None:
    network = Tiny().eval().to(dtype)
    exposed = Exposed([fdjpeg.JPEG(50)], [network])
    x, eps = x[:2].to(dtype), EPS if norm == "linf" else 0.25
    result = Flip(2, until_fooled=False, norm=norm).run(exposed, x, seen(exposed, x), eps)
    assert result.x_adv.dtype == dtype
    room = max(torch.finfo(dtype).eps, SLACK)  # of the images' own rounding
    assert float(distances(result.x_adv.double(), x.double(), norm).max()) <= eps + (
        room if norm == "linf" else 8 * room
    )
    assert bool((result.margin > margin(exposed(x), seen(exposed, x))).any())


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (17, 33)])
@pytest.mark.parametrize("norm", NORMS)
def test_flip_takes_any_size(norm: Norm, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(SEED)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 3))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(network[1].weight.shape, generator=generator))  # type: ignore[operator]
    x = (255 * torch.rand(2, 3, *size, generator=generator)).round() / 255
    for layers in ([fdjpeg.JPEG(75)], [fdjpeg.FeatureDistillation("code"), fdjpeg.JPEG(75, subsampling="4:1:1")]):
        exposed = Exposed(layers, [network] * len(layers), lambda logits: torch.stack(list(logits)).mean(dim=0))
        y, eps = seen(exposed, x), 3 / 255 if norm == "linf" else 0.3
        result = Flip(3, until_fooled=False, norm=norm).run(exposed, x, y, eps)
        assert float(distances(result.x_adv, x, norm).max()) <= eps + 1e-6
        assert bool((result.margin >= margin(exposed(x), y)).all())
        assert size == (1, 1) or bool((result.margin > margin(exposed(x), y)).all())


def test_flip_averages_over_draws(network: nn.Module, x: Tensor) -> None:
    layer = fdjpeg.RandomJPEG((20, 80))
    exposed = Exposed([layer], [network])
    y = seen(network, x)
    result = Flip(5, draws=3, until_fooled=False).run(exposed, x, y, EPS)
    assert result.queries == 6 * 8 * 3
    torch.manual_seed(SEED)
    with torch.no_grad():
        after, before = (
            torch.stack([margin(exposed(images), y) for _ in range(10)]).mean(dim=0) for images in (result.x_adv, x)
        )
    assert float((after - before).min()) > 0


def test_flip_enters_after_the_first_pass(network: nn.Module, x: Tensor) -> None:
    """On the lattice straight-through is blind and stays where it is; Flip is not."""
    layer = fdjpeg.FeatureDistillation("uniform(24)")
    with torch.no_grad():
        x = layer(x)
    exposed = Exposed([layer], [network])
    y = seen(exposed, x)
    found = Flip(10, until_fooled=False).run(exposed, x, y, 2.4 / 255)
    blind = PGD(10, until_fooled=False).run(nn.Sequential(layer, network), x, y, 2.4 / 255)
    assert float((found.margin - blind.margin).min()) >= 0
    assert float((found.margin - blind.margin).mean()) > 0.01


def test_flip_of_an_image_does_not_depend_on_its_batch(network: nn.Module, x: Tensor) -> None:
    x = x[:3]
    for layer, draws in ((fdjpeg.JPEG(50), 1), (fdjpeg.RandomJPEG((40, 60)), 2)):
        exposed = Exposed([layer], [network])
        y = seen(network, x)
        attack = Flip(2, restarts=2, draws=draws, until_fooled=False)
        together = attack(exposed, x, y, EPS)
        assert torch.equal(attack(exposed, x, y, EPS), together)
        for index in (0, 2):
            one = slice(index, index + 1)
            alone = attack(exposed, x[one], y[one], EPS, indices=torch.tensor([index]))
            assert float(((alone - together[one]).abs() < 1e-6).float().mean()) > 0.99
        assert not torch.equal(replace(attack, seed=1)(exposed, x, y, EPS), together)


def test_flip_leaves_fooled_images_alone_and_keeps_the_best(network: nn.Module, x: Tensor) -> None:
    exposed = Exposed([fdjpeg.JPEG(50)], [network])
    y = (seen(exposed, x) + torch.tensor([0, 1] * 4)) % 4  # every other image is wrong from the beginning
    result = Flip(5).run(exposed, x, y, 0.2 / 255)
    assert torch.equal(result.x_adv[1::2], x[1::2])
    assert bool((result.margin[1::2] > 0).all())
    assert result.queries < 6 * 8
    start = margin(exposed(x), y).detach()
    assert bool((result.margin >= start).all())
    more = Flip(2, restarts=3, until_fooled=False).run(exposed, x, y, EPS)
    less = Flip(2, restarts=1, until_fooled=False).run(exposed, x, y, EPS)
    assert bool((more.margin >= less.margin).all())
    assert bool((more.margin > less.margin).any())


@pytest.mark.parametrize("aim", ["away", "likeliest", "given"])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
def test_flip_climbs_every_loss_towards_every_aim(aim: Any, loss: str, network: nn.Module, x: Tensor) -> None:
    exposed = Exposed([fdjpeg.JPEG(60)], [network])
    y = seen(exposed, x)
    if aim == "given":
        y = (y + 1) % 4
    sign = -1 if aim == "given" else 1
    result = Flip(3, 2, loss, aim=aim, until_fooled=False).run(exposed, x, y, EPS)
    with torch.no_grad():
        assert float((result.margin - sign * margin(exposed(x), y)).min()) > 0


def test_flip_visits_whole_bytes_only_where_asked(network: nn.Module, x: Tensor) -> None:
    for layer in (fdjpeg.JPEG(50), fdjpeg.FeatureDistillation("code")):
        exposed = Exposed([layer], [network])
        y = seen(exposed, x)
        found = Flip(3, whole_bytes=True, until_fooled=False)(exposed, x, y, 1.7 / 255)
        moved = 255 * (found - x)
        assert torch.equal((255 * found).round() / 255, found)
        assert 0 < float(moved.abs().max()) < 1.01
        found = Flip(3, whole_bytes=True, until_fooled=False, norm="l2")(exposed, x, y, 0.1)
        assert torch.equal((255 * found).round() / 255, found)
        assert float(distances(found, x, "l2").min()) > 0.05
        assert float(distances(found, x, "l2").max()) <= 0.1 + 1e-6
        with pytest.raises(ValueError, match="x must be images of whole bytes"):
            Flip(3, whole_bytes=True)(exposed, 0.99 * x + 0.3 / 255, y, EPS)


def test_flip_asks_the_judge_for_verdicts(network: nn.Module, x: Tensor) -> None:
    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0, 0, 0]]).repeat(len(images), 1)

    exposed = Exposed([fdjpeg.JPEG(50)], [network])
    y = torch.zeros(8, dtype=torch.int64)
    result = Flip(3).run(exposed, x, y, EPS, judge=Never())
    assert torch.equal(result.margin, torch.full((8,), -1.0))
    assert result.queries == 2 * 4 * 8


def test_flip_sees_branches_and_their_verdict(network: nn.Module, x: Tensor) -> None:
    """Three members behind three tables that vote."""

    def vote(logits: Sequence[Tensor]) -> Tensor:
        return torch.stack([nn.functional.one_hot(part.argmax(dim=1), 4) for part in logits]).sum(dim=0).float()

    layers = [fdjpeg.JPEG(quality, subsampling="4:4:4") for quality in (30, 50, 80)]
    exposed = Exposed(layers, [network] * 3, vote)
    y = seen(exposed, x)
    result = Flip(5, until_fooled=False).run(exposed, x, y, EPS)
    with torch.no_grad():
        torch.testing.assert_close(result.margin, margin(exposed(result.x_adv), y))
    assert result.loss_curve is not None
    assert bool((result.loss_curve[-1] > result.loss_curve[0]).all())
    others = [fdjpeg.JPEG(50), fdjpeg.FeatureDistillation("code"), nn.Sequential(*layers[:2])]
    unlike = Exposed([layers[0], *others], [network] * 4, vote)
    y = seen(unlike, x)
    result = Flip(5, until_fooled=False).run(unlike, x, y, EPS)
    assert result.loss_curve is not None
    assert bool((result.loss_curve[-1] > result.loss_curve[0]).all())


def test_flip_of_no_radius_and_of_no_image(network: nn.Module, x: Tensor) -> None:
    exposed = Exposed([fdjpeg.JPEG(50)], [network])
    y = seen(exposed, x)
    assert torch.equal(Flip(2, until_fooled=False)(exposed, x, y, 0.0), x)
    assert Flip(2)(exposed, x[:0], y[:0], EPS).shape == (0, 3, 24, 20)


def test_flip_goes_somewhere_where_the_network_has_no_gradient(x: Tensor) -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]) + 0 * images.flatten(1).sum(dim=1, keepdim=True)

    y = torch.zeros(8, dtype=torch.int64)
    result = Flip(2).run(Exposed([fdjpeg.JPEG(50)], [Flat()]), x, y, EPS)
    torch.testing.assert_close(result.margin, torch.full((8,), -1.0))


def test_flip_takes_grey_images() -> None:
    layer, network = fdjpeg.JPEG(50), OneBlock()
    x = (255 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(SEED))).round() / 255
    exposed = Exposed([layer], [network])
    y = seen(exposed, x)
    found = Flip(5, until_fooled=False).run(exposed, x, y, EPS)
    assert bool((found.margin > margin(exposed(x), y)).all())


def test_flip_needs_layers_that_show(network: nn.Module, x: Tensor) -> None:
    y = seen(network, x)
    with pytest.raises(TypeError, match=r"model must be an Exposed, .* got Sequential"):
        Flip(2)(nn.Sequential(fdjpeg.JPEG(50), network), x, y, EPS)
    with pytest.raises(ValueError, match=r"layer must be a JPEG.* got Identity"):
        Flip(2)(Exposed([nn.Identity()], [network]), x, y, EPS)
    with pytest.raises(ValueError, match="layers must be as many as classifiers, got 1 and 2"):
        Exposed([fdjpeg.JPEG(50)], [network, network])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "norm must be 'linf' or 'l2' for this attack, got 'l1'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"loss": "hinge"}, "loss must be one of cross-entropy, margin, dlr, got 'hinge'"),
        ({"aim": "up"}, "aim must be one of away, likeliest, given, got 'up'"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flip(**settings)


def test_names_carry_budgets() -> None:
    assert from_name("flip-20") == Flip(20)
    assert from_name("flip-100x5") == Flip(100, 5)
    assert from_name("flip-20", norm="l2") == Flip(20, norm="l2")
    assert from_name("flip-20").name == "Flip-20"
    assert from_name("flip-margin-100x5").name == "Flip-margin-100×5"
    assert from_name("flip-targeted").name == "Flip-margin-targeted-20×9"
    assert Flip(label="F").name == "F"
