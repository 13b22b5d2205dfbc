"""Other people's networks, layers and data: each kind of mistake in one sentence that names it, and NaN never right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluation_cases import Tiny, check, outcomes, small, tiny
from torch import Tensor, nn

import fdjpeg
from fdjpeg import evaluation
from fdjpeg.attacks import PGD, correct, margin
from fdjpeg.evaluation import World
from fdjpeg.sources import ImageSet, Network
from fdjpeg.sources.image_set import to_bytes, to_pillow


class Of(nn.Module):
    """A network that changes the tiny one's logits, or its images before that."""

    def __init__(self, after: Callable[[Tensor], Any], before: Callable[[Tensor], Tensor] = lambda images: images):
        super().__init__()
        self.network = Tiny().eval()
        self.after, self.before = after, before

    def forward(self, images: Tensor) -> Any:
        return self.after(self.network(self.before(images)))


def _raise(images: Tensor) -> Tensor:
    raise KeyError("weights\nand more")


NETWORKS: dict[str, tuple[nn.Module, str]] = {
    "tuple": (Of(lambda out: (out, out)), r"return logits \(2, classes\) as one tensor, got tuple"),
    "dict": (Of(lambda out: {"logits": out}), r"as one tensor, got dict"),
    "none": (Of(lambda out: None), r"as one tensor, got NoneType"),
    "array": (Of(lambda out: out.detach().numpy()), r"as one tensor, got ndarray"),
    "integers": (Of(lambda out: out.long()), r"as floats, got torch.int64"),
    "classes": (Of(lambda out: out.argmax(1)), r"as floats, got torch.int64"),
    "complex": (Of(lambda out: out.to(torch.complex64)), r"as floats, got torch.complex64"),
    "one for all": (Of(lambda out: out.mean(0, keepdim=True)), r"got shape \(1, 4\)"),
    "no batch": (Of(lambda out: out[0]), r"got shape \(4,\)"),
    "a map": (Of(lambda out: out[:, :, None, None]), r"got shape \(2, 4, 1, 1\)"),
    "one class": (Of(lambda out: out[:, :1]), r"of at least two classes, got 1"),
    "no class": (Of(lambda out: out[:, :0]), r"of at least two classes, got 0"),
    "half": (Tiny().half(), r"take float32 images of shape \(2, 3, 24, 24\) in \[0, 1\], got RuntimeError from it"),
    "double": (Tiny().double(), r"take float32 images .* got RuntimeError from it"),
    "channels": (nn.Conv2d(4, 2, 1), r"take float32 images .* got RuntimeError from it"),
    "sizes": (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), r"take float32 images .* got RuntimeError from it"),
    "raises": (Of(lambda out: out, _raise), r"got KeyError from it: 'weights"),
    "in place": (
        Of(lambda out: out, lambda images: images.sub_(0.5)),
        "leave its input as it is, got one that",
    ),
    "clamped in place": (Of(lambda out: out, lambda images: images.clamp_(0, 1)), "leave its input as it is"),
    "probabilities": (Of(lambda out: out.softmax(1)), "return logits, got probabilities"),
    "NaN": (Of(lambda out: out * torch.nan), "return finite logits, got NaN"),
}


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_a_network_that_cannot_be_judged_is_named(kind: str, photographs: ImageSet) -> None:
    network, message = NETWORKS[kind]
    before = photographs.images.clone()
    with pytest.raises(ValueError, match=f"^model must .*{message}"):
        small(network, photographs)  # type: ignore[arg-type]
    assert torch.equal(photographs.images, before)


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind not in ("NaN", "probabilities", "double")])
def test_attacks_name_it_too(kind: str, photographs: ImageSet) -> None:
    network, _ = NETWORKS[kind]
    x = photographs.images[:2].clone()
    with pytest.raises(ValueError, match=r"^model must"):
        PGD(2)(network, x, photographs.labels[:2], 0.1)
    assert torch.equal(x, photographs.images[:2])


def test_half_precision_logits_are_taken(photographs: ImageSet) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        report = small(Network(Of(lambda out, dtype=dtype: out.to(dtype)), "tiny"), photographs, checks=False)
        assert report.rows[0].worst <= report.rows[0].clean


LAYERS: dict[str, tuple[nn.Module, str]] = {
    "raises": (Of(lambda out: out, _raise), "defense Of must take float32 images .* got KeyError"),
    "in place": (Of(lambda out: out, lambda images: images.mul_(0.9)), "defense Of must leave its input as it is"),
    "tuple": (Of(lambda out: (out,)), "defense Of must return a tensor of floats, images or logits, got tuple"),
    "bytes": (Of(lambda out: out, lambda images: images), ""),
}


@pytest.mark.parametrize("kind", ["raises", "in place", "tuple"])
def test_a_layer_that_cannot_be_judged_is_named(kind: str, network: Network, photographs: ImageSet) -> None:
    layer, message = LAYERS[kind]
    with pytest.raises(ValueError, match=f"^{message}"):
        small(network, photographs, defenses=[layer])


def test_a_classifier_with_too_few_classes_is_named(network: Network, photographs: ImageSet) -> None:
    labels = torch.full_like(photographs.labels, 3)
    for classes, message in ((1, "of at least two classes, got 1"), (2, "of at least 4 classes, got 2")):
        other = Tiny(classes).eval()
        with pytest.raises(ValueError, match=f"^defense Tiny must return logits .*{message}"):
            small(network, replace(photographs, labels=labels), defenses=[other])


class Poisoned(nn.Module):
    """A layer whose output is NaN where a fine pattern has been added, and as it came elsewhere."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def forward(self, images: Tensor) -> Tensor:
        rough = (images[..., 1:] - images[..., :-1]).abs().amax(dim=(1, 2, 3))
        return torch.where((rough > self.above).view(-1, 1, 1, 1), torch.nan, images)


@pytest.mark.parametrize("labels", ["class 0", "as seen"])
def test_nan_is_never_right_and_named(labels: str, network: Network, photographs: ImageSet) -> None:
    """argmax of NaN is a class, the first; with labels of 0 all would be right."""
    data = photographs if labels == "as seen" else replace(photographs, labels=torch.zeros_like(photographs.labels))
    report = small(network, data, defenses=[Poisoned(-1.0)])
    row = report.rows[1]
    assert (row.clean, row.worst, row.attacks["gray-box"]) == (0, 0, 0)
    assert report.settings.randomised == []
    assert report.clean("Poisoned").predicted == [-1] * 6
    assert not check(report, "Every network and defence returns numbers").passed
    assert any("Poisoned, clean: 6 images" in sentence for sentence in report.summary())
    assert json.loads(json.dumps(report.json(), allow_nan=False))["cells"][1]["margin"] == [None] * 6
    assert "no class (NaN)" in report.html() or not report.select("Poisoned", threat="adaptive")[0].pictures


def test_an_attacker_who_reaches_nan_has_won(network: Network, photographs: ImageSet) -> None:
    rough = float((photographs.images[..., 1:] - photographs.images[..., :-1]).abs().max())
    report = small(network, photographs, defenses=[Poisoned(rough)], attacks=["pgd-2"])
    row = report.rows[1]
    assert row.clean == 6
    assert row.worst == 0
    cells = report.select("Poisoned", threat="adaptive")
    assert any(cell.undefined for cell in cells)
    assert report.html()


def test_nan_of_every_place_is_misclassified() -> None:
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[nan, 0.0], [0.0, nan], [nan, nan], [inf, inf], [-inf, -inf], [1.0, 0.0], [inf, 0.0]])
    y = torch.zeros(len(logits), dtype=torch.int64)
    assert correct(logits, y).tolist() == [False] * 5 + [True] * 2
    assert (margin(logits, y) > 0).tolist() == [True] * 5 + [False] * 2


class ByPillow(nn.Module):
    """A layer that leaves torch, as people write it: with or without `detach`."""

    def __init__(self, detach: bool) -> None:
        super().__init__()
        self.detach = detach

    def forward(self, images: Tensor) -> Tensor:
        given = images.detach() if self.detach else images
        arrays = (given * 255).round().numpy().astype(np.uint8)
        return torch.from_numpy(255 - (255 - arrays)).float() / 255


@pytest.mark.parametrize("detach", [True, False])
def test_a_layer_without_a_derivative_is_masked_and_evaluated_by_the_identity(
    detach: bool, network: Network, photographs: ImageSet
) -> None:
    report = small(network, photographs, defenses=[ByPillow(detach)], attacks=["pgd-10"], eps=["12/255"])
    assert report.settings.defenses == {"ByPillow": ["own", "identity"]}
    shares = {cell.gradient: cell.zeros for cell in report.select("ByPillow", threat="zero gradients")}
    assert shares["own"] == [1.0] * 6
    assert max(shares["identity"]) < 0.5
    row = report.rows[1]
    assert row.attacks["identity"] < row.attacks["own"]
    assert report.summary()[0].startswith("Masked gradients: ByPillow")


def test_gradients_that_the_user_names_are_taken(network: Network, photographs: ImageSet) -> None:
    for names in (["identity"], ["own"], ["identity", "own"]):
        report = small(network, photographs, defenses=[ByPillow(True)], gradients=names, checks=False)
        assert report.settings.defenses == {"ByPillow": names}
    report = small(network, photographs, defenses=[ByPillow(True)], gradients=["cubic"], checks=False)
    assert report.settings.defenses == {"ByPillow": ["own", "identity"]}


def test_a_network_without_a_derivative_is_attacked_by_queries(photographs: ImageSet) -> None:
    pytest.importorskip("pyautoattack")
    network = Of(lambda out: torch.from_numpy(out.detach().numpy()))
    report = small(network, photographs, defenses=[], attacks=["pgd-2", "square-20"])  # type: ignore[arg-type]
    assert {cell.threat for cell in report.cells} >= {"white-box", "black-box"}
    assert report.select("none", threat="white-box")[0].predicted


# --- forms of data ----------------------------------------------------------------------------------------------------


def forms(data: ImageSet) -> dict[str, Any]:
    images, labels = to_bytes(data.images), data.labels
    last = images.permute(0, 2, 3, 1).numpy()
    pictures = [to_pillow(image) for image in images]
    rows = [{"image": image, "label": int(label)} for image, label in zip(pictures, labels, strict=True)]

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, place: int) -> tuple[Tensor, int]:
            if place >= len(images):
                raise RuntimeError("no such place")
            return images[place], int(labels[place])

    class Named(Items):
        def __getitem__(self, place: int) -> dict[str, Any]:  # type: ignore[override]
            return {"pixel_values": images[place], "labels": labels[place]}

    return {
        "tensors": (images, labels),
        "a list of two": [images, labels],
        "arrays": (images.numpy(), labels.numpy()),
        "channels last": (last, labels.numpy()),
        "floats": (last.astype(np.float64) / 255, labels.tolist()),
        "int32 classes": (images, labels.numpy().astype(np.int32)),
        "lists": (list(images), labels.tolist()),
        "lists of arrays": (list(last), list(labels)),
        "Pillow images": (pictures, labels.tolist()),
        "a mapping": {"images": images, "labels": labels},
        "rows": rows,
        "pairs": list(zip(pictures, labels.tolist(), strict=True)),
        "two batches": [(images[:3], labels[:3]), (images[3:], labels[3:])],
        "data set": Items(),
        "loader": torch.utils.data.DataLoader(Items(), batch_size=4),
        "loader of dicts": torch.utils.data.DataLoader(Named(), batch_size=4),
        "generator": ((image[None], label[None]) for image, label in zip(images, labels, strict=True)),
        "triples": [(images, labels, torch.arange(6))],
    }


@pytest.mark.parametrize("form", list(forms(ImageSet(torch.zeros(6, 3, 4, 4), torch.zeros(6).long(), tuple("abcdef")))))
def test_every_form_of_data_is_the_same_set(form: str, photographs: ImageSet) -> None:
    found = ImageSet.of(forms(photographs)[form])
    torch.testing.assert_close(found.images, photographs.images, rtol=0, atol=1e-7)
    assert torch.equal(found.labels, photographs.labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar10.npz", "data must be images with their classes, got the text 'cifar10.npz'"),
        (None, "data must be images with their classes, or batches of them, got NoneType"),
        (3, "data must be images with their classes, or batches of them, got int"),
        (torch.zeros(6, 3, 8, 8), "data must be pairs of images and classes, got an item of type Tensor"),
        ([{"pixels": 1, "kind": 2}], "data must name its images by one of images, .* 'pixels', 'kind'"),
        (
            [{"image": np.zeros((8, 8, 3))}],
            "data must name its classes by one of labels, .* got a mapping with 'image'",
        ),
        ((np.array(["a", "b"]), np.array([0, 1])), "data must be pairs|images must be"),
        ((np.zeros((2, 8, 8, 3)), ["ape", "zebra"]), "labels must be numbers, got an array of <U5"),
        ((np.zeros((2, 8, 8, 3)), [0.5, 1.0]), "labels must be integers, got torch.float64"),
        (([object()], [0]), "images must be|data must be"),
    ],
)
def test_other_forms_are_named(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ImageSet.of(data)


def test_images_of_several_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="images must have one shape"):
        ImageSet.of(
            [(torch.zeros(1, 3, 8, 8), torch.zeros(1).long()), (torch.zeros(1, 3, 9, 8), torch.zeros(1).long())]
        )


def test_an_excess_that_rounds_to_no_byte_passes(network: Network, photographs: ImageSet) -> None:
    labels = photographs.labels
    for excess in (1e-7, 0.4 / 255):
        images = photographs.images * (1 + excess)
        images[0, 0, 0, 0], images[0, 0, 0, 1] = 1 + excess, -excess
        found = ImageSet.of((images, labels))
        assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
        adversarial = PGD(2)(network.module, images, labels, 2 / 255)
        assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1
    images[0, 0, 0, 0] = 1 + 0.6 / 255
    with pytest.raises(ValueError, match=r"^images must be in \[0, 1\], or uint8, got values from .* to 1.0023529"):
        ImageSet.of((images, labels))
    with pytest.raises(ValueError, match=r"^x must be in \[0, 1\], got values from .* to 1.0023529"):
        PGD(2)(network.module, images, labels, 2 / 255)


# --- fingerprints, names ----------------------------------------------------------------------------------------------


class Quiet:
    """A user's surrogate: without a text of its own it prints its address."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha


class WithObject(nn.Module):
    def __init__(self, alpha: float, scale: Callable[[Tensor], Tensor] = abs) -> None:
        super().__init__()
        self.rule, self.scale = Quiet(alpha), scale

    def extra_repr(self) -> str:
        return f"rule={self.rule!r}"

    def forward(self, images: Tensor) -> Tensor:
        return images * self.rule.alpha


def test_fingerprints_hold_no_address_but_what_an_object_is() -> None:
    from fdjpeg._fingerprint import digest

    assert " at 0x" in repr(WithObject(0.9))
    assert digest(WithObject(0.9)) == digest(WithObject(0.9)) != digest(WithObject(0.8))
    scales = [lambda images: images / 2, lambda images: images / 2, lambda images: images / 3]
    one, two, other = (digest(WithObject(0.9, scale)) for scale in scales)
    assert one == two != other
    nested = nn.Sequential(WithObject(0.9), fdjpeg.JPEG(75))
    assert digest(nested) == digest(nn.Sequential(WithObject(0.9), fdjpeg.JPEG(75)))
    assert digest(nested) != digest(nn.Sequential(WithObject(0.9), fdjpeg.JPEG(74)))


def test_finished_work_of_such_a_layer_is_found(network: Network, photographs: ImageSet, tmp_path) -> None:
    first = small(network, photographs, defenses=[WithObject(0.9)], out=tmp_path, checks=False)
    again = small(network, photographs, defenses=[WithObject(0.9)], out=tmp_path, only_finished=True, checks=False)
    assert outcomes(again) == outcomes(first)
    with pytest.raises(ValueError, match="out must hold finished work"):
        small(network, photographs, defenses=[WithObject(0.8)], out=tmp_path, only_finished=True, checks=False)


def test_networks_of_one_name_are_told_apart(network: Network, photographs: ImageSet) -> None:
    others = [Tiny(), Tiny(), Network(Tiny(), "other")]
    report = small(network, photographs, transfer=others, checks=False)
    assert list(report.settings.transfer) == ["Tiny", "Tiny 2", "other"]
    assert len(report.select("none", threat="transfer")) == 3
    none = type("none", (nn.Identity,), {})()
    with pytest.raises(ValueError, match="defenses must be different, and not named 'none'"):
        small(network, photographs, defenses=[none])


def test_a_network_for_transfer_moves_to_the_device_of_the_run(network: Network, photographs: ImageSet) -> None:
    """On "meta", which has no values: a copy is made on the run's device, and the caller's stays where it was."""
    moved: list[torch.device] = []

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, device="meta"))

        def to(self, device: torch.device) -> nn.Module:  # type: ignore[override]
            moved.append(device)
            return Tiny().eval()

        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the network is still elsewhere")

    other = Elsewhere()
    report = small(network, photographs, transfer=[other], checks=False)
    assert moved == [torch.device("cpu")]
    assert other.place.device.type == "meta"
    assert report.select("none", threat="transfer")


def test_progress_ends_at_the_whole_also_of_finished_work(network: Network, photographs: ImageSet, tmp_path) -> None:
    small(network, photographs, out=tmp_path, checks=False)
    calls: list[tuple[int, int, str]] = []
    small(
        network,
        photographs,
        eps=["8/255", "9/255"],
        out=tmp_path,
        only_finished=True,
        progress=lambda *call: calls.append(call),
        world=World(),
    )
    assert calls[-1][0] == calls[-1][1] > 0
    assert {total for _, total, _ in calls} == {calls[-1][1]}


def test_surrogates_of_another_weight_are_another_attack(network: Network) -> None:
    from fdjpeg.attacks import Transfer

    other = Tiny()
    with torch.no_grad():
        other.head.bias.add_(0.01)
    one, two = (Transfer(PGD(2), module) for module in (Tiny(), other))
    assert one.settings() != two.settings()
    assert one.settings() == Transfer(PGD(2), Tiny()).settings()
    assert tiny().digest() == network.digest()
    assert evaluation.Plan(transfer=[other]).others[0].name == "Tiny"


def test_grey_images_need_no_channels() -> None:
    """As MNIST's arrays come; one colour image with its class is not three grey ones."""
    grey = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    wanted = torch.from_numpy(grey)[:, None].float() / 255
    for data in (
        (grey, [0, 1]),
        (torch.from_numpy(grey), torch.tensor([0, 1])),
        (list(grey), [0, 1]),
        [(one, label) for label, one in enumerate(grey)],
        [{"image": one, "label": label} for label, one in enumerate(grey)],
        [(grey[:1], [0]), (grey[1:], [1])],
    ):
        found = ImageSet.of(data)
        assert torch.equal(found.images, wanted)
        assert found.labels.tolist() == [0, 1]
    assert ImageSet.of([(torch.rand(3, 8, 8), 2)]).images.shape == (1, 3, 8, 8)
    assert ImageSet.of([(torch.rand(3, 8, 8), torch.tensor([2]))]).images.shape == (1, 3, 8, 8)


class Over(nn.Module):
    """A first pass whose images exceed 1 by a rounding error."""

    gradients = ("identity",)

    def first(self, x: Tensor) -> Tensor:
        return x * (1 + 2e-7)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def deployed(self, network: nn.Module) -> nn.Module:
        return network

    def attacked(self, network: nn.Module, gradient: str) -> nn.Module:
        return network


def test_an_excess_that_rounds_to_no_byte_passes_behind_a_first_pass() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    data = (torch.ones(1, 3, 8, 8), torch.tensor([0]))
    report = evaluation.evaluate(network, data, defenses=[Over()], attacks=["pgd-1"], eps=[0.01], checks=False)
    assert [row.defense for row in report.rows] == ["none", "Over"]
