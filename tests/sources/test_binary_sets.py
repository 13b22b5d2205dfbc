"""Data sets in the files in which they are published, made small here; and Fashion-MNIST where Debian puts it."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fdjpeg.sources import binary_sets


def _idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _write_mnist(
    folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str = "t10k", packed: bool = True
) -> None:
    for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        content = _idx(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize(("split", "prefix"), [("test", "t10k"), ("train", "train")])
def test_mnist_is_read_sample_for_sample(
    tmp_path: Path, rng: np.random.Generator, split: str, prefix: str, packed: bool
) -> None:
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), rng.integers(0, 10, 5, np.uint8)
    _write_mnist(tmp_path, images, labels, prefix, packed)
    found = binary_sets.mnist(tmp_path, split)
    assert found.images.shape == (5, 1, 28, 28)
    assert torch.equal((255 * found.images[:, 0]).round().byte(), torch.from_numpy(images))
    assert found.labels.tolist() == labels.tolist()
    assert found.source == f"the {split} split of MNIST, in its order"


def _cifar10(folder: Path, rng: np.random.Generator, records: int = 3) -> dict[str, np.ndarray]:
    made = {}
    for name in ("test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6))):
        made[name] = rng.integers(0, 256, (records, 3073), np.uint8)
        made[name][:, 0] %= 10
        (folder / name).write_bytes(made[name].tobytes())
    return made


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_cifar10_is_read_sample_for_sample(tmp_path: Path, rng: np.random.Generator, form: str) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    made = _cifar10(folder, rng)
    place = {"folder": folder, "parent": tmp_path, "archive": tmp_path / "cifar-10-binary.tar.gz"}[form]
    if form == "archive":
        with tarfile.open(place, "w:gz") as archive:
            archive.add(folder, arcname=folder.name)
        for file in folder.iterdir():
            file.unlink()
    test, train = binary_sets.cifar10(place), binary_sets.cifar10(place, "train")
    assert test.images.shape == (3, 3, 32, 32)
    assert train.images.shape == (15, 3, 32, 32)
    record = made["test_batch.bin"][1]
    assert test.labels[1] == record[0]
    assert (255 * test.images[1]).round().byte().flatten().tolist() == record[1:].tolist()
    assert train.labels[3:6].tolist() == made["data_batch_2.bin"][:, 0].tolist()


def _broken(folder: Path, rng: np.random.Generator, fault: str) -> None:
    images, labels = rng.integers(0, 256, (2, 4, 4), np.uint8), np.zeros(2, np.uint8)
    _write_mnist(folder, images, labels)
    file = folder / "t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    changed = {
        "torn": content[:-1],
        "empty": b"",
        "floats": content[:2] + b"\x0d" + content[3:],
        "other shape": content[:3] + b"\x02" + content[4:],
    }
    if fault in changed:
        file.write_bytes(gzip.compress(changed[fault]))
    elif fault == "no gzip":
        file.write_bytes(content)
    elif fault == "no labels":
        (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    else:
        _write_mnist(folder, images, np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("torn", r"data must be a whole IDX file, got .*images.* with \d+ bytes for the shape \(2, 4, 4\)"),
        ("empty", "data must be an IDX file of bytes in 3 dimensions, got .*images"),
        ("floats", "data must be an IDX file of bytes in 3 dimensions, got .*images"),
        ("other shape", "data must be an IDX file of bytes in 3 dimensions, got .*images"),
        ("no gzip", "data must be files that can be read, got .*images"),
        ("no labels", "data must hold t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, got"),
        ("more labels", "data must hold one class for each image, got 2 images in .* and 3 classes"),
    ],
)
def test_a_broken_idx_file_is_named(tmp_path: Path, rng: np.random.Generator, fault: str, message: str) -> None:
    _broken(tmp_path, rng, fault)
    with pytest.raises(ValueError, match=f"^{message}"):
        binary_sets.mnist(tmp_path)


def test_a_broken_cifar10_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    _cifar10(tmp_path, rng)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"^data must be records of 3073 bytes, got test_batch.bin of 3072 bytes"):
        binary_sets.cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(ValueError, match=r"^data must hold data_batch_4.bin of CIFAR-10's binary version, got"):
        binary_sets.cifar10(tmp_path, "train")
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(ValueError, match=r"^data must hold test_batch.bin of CIFAR-10's binary version, got"):
        binary_sets.cifar10(archive)
    (tmp_path / "no.tar.gz").write_text("no archive")
    with pytest.raises(ValueError, match=r"^data must be CIFAR-10's binary version, got"):
        binary_sets.cifar10(tmp_path / "no.tar.gz")


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    for read in (binary_sets.mnist, binary_sets.cifar10):
        with pytest.raises(ValueError, match=r"^split must be one of test, train, got 'validation'"):
            read(tmp_path, "validation")


def test_fashion_mnist_without_a_folder_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binary_sets, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    with pytest.raises(ValueError, match="dataset-fashion-mnist"):
        binary_sets.fashion_mnist()


@pytest.mark.skipif(not binary_sets.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's Fashion-MNIST is not installed")
def test_fashion_mnist_of_debian_is_the_published_one() -> None:
    found = binary_sets.fashion_mnist()
    assert found.images.shape == (10000, 1, 28, 28)
    assert found.labels.bincount().tolist() == [1000] * 10
