"""The command ``fdjpeg data``, and published sets, folders and streams as all commands take them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdjpeg import sources
from fdjpeg.cli import main as cli
from fdjpeg.sources.image_set import to_bytes


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def cifar10(tmp_path: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """CIFAR-10's binary version with three images in each file, and its records."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    made = {}
    for name in ("test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6))):
        made[name] = rng.integers(0, 256, (3, 3073), np.uint8)
        made[name][:, 0] %= 10
        (folder / name).write_bytes(made[name].tobytes())
    return made


def test_one_file_holds_both_splits(cifar10: dict[str, np.ndarray], tmp_path: Path, capsys) -> None:
    target = tmp_path / "cifar10.npz"
    assert run("data", "cifar10", tmp_path, target) == 0
    assert "cifar10.npz" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []
    with np.load(target) as arrays:
        assert sorted(arrays.files) == ["class_names", "test_images", "test_labels", "train_images", "train_labels"]
        assert arrays["train_images"].shape == (15, 3, 32, 32)
        assert arrays["train_images"].dtype == np.uint8
        assert np.array_equal(arrays["test_images"].reshape(3, -1), cifar10["test_batch.bin"][:, 1:])
        assert np.array_equal(arrays["test_labels"], cifar10["test_batch.bin"][:, 0])
    for split, count in (("test", 3), ("train", 15)):
        by_file = sources.load_images(f"{target}:{split}")
        by_place = sources.load_images(f"cifar10:{tmp_path}:{split}")
        assert len(by_file) == count
        assert torch.equal(by_file.images, by_place.images)
        assert torch.equal(by_file.labels, by_place.labels)
        assert by_file.classes[9] == by_place.classes[9] == "truck"
    assert torch.equal(sources.load_images(f"cifar10:{tmp_path}").images, sources.load_images(f"{target}:test").images)
    assert len(sources.load_images(f"cifar10:{tmp_path}", count=2)) == 2


def test_idx_files_are_found_by_name(tmp_path: Path, rng: np.random.Generator, monkeypatch) -> None:
    images, labels = rng.integers(0, 256, (2, 4, 5, 5), np.uint8), np.arange(4, dtype=np.uint8)
    for part, prefix in zip(images, ("t10k", "train"), strict=True):
        header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in part.shape)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(header + part.tobytes())
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 4]) + labels.tobytes())
    monkeypatch.setattr("fdjpeg.sources.binary_sets.DEBIAN_FASHION_MNIST", tmp_path)
    names = (f"mnist:{tmp_path}", f"fashion-mnist:{tmp_path}", "fashion-mnist")
    for name in names:
        for suffix, expected in (("", images[0]), (":test", images[0]), (":train", images[1])):
            found = sources.load_images(name + suffix)
            assert np.array_equal(to_bytes(found.images)[:, 0].numpy(), expected)
    assert run("data", "mnist", tmp_path, tmp_path / "mnist.npz") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svhn", "here", "a.npz"), "name must be one of cifar10, mnist, fashion-mnist, got 'svhn'"),
        (("cifar10", "here", "a.npy"), "target must end in .npz, got 'a.npy'"),
        (("cifar10", "nowhere", "a.npz"), "data must hold test_batch.bin"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("data", *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_leaves_nothing(cifar10, tmp_path: Path, capsys) -> None:
    assert run("data", "cifar10", tmp_path, tmp_path / "no" / "a.npz") == 2
    assert "target must be a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["mnist:", "mnist", "cifar10", "cifar10::train", "mnist:nowhere", "cifar10:nowhere:train"]
)
def test_names_without_files_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^data must"):
        sources.load_images(name)


# --- folders ----------------------------------------------------------------------------------------------------------


def tree(root: Path, *files: str) -> str:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / file)
    return str(root)


@pytest.mark.parametrize(
    ("files", "better"),
    [
        (("train/ape/a.png", "train/fox/b.png", "val/ape/c.png", "val/fox/d.png"), "train' or '.*val'"),
        (("Training/ape/a.png", "Validation/ape/b.png"), "Training' or '.*Validation'"),
        (("train/ape/a.png", "val/ape/b.png", "devkit/maps/c.png"), "train'"),
        (("val/ape/a.png", "val/fox/b.png"), "val'"),
        (("set/train/ape/a.png", "set/test/ape/b.png"), "set/test' or '.*set/train'"),
        (("test/a.png", "train/b.png"), "a folder with one folder of images for each class"),
    ],
)
def test_the_parent_of_splits_is_refused(files: tuple[str, ...], better: str, tmp_path: Path, capsys) -> None:
    message = f"data must name the folder that holds the class folders, got .*: give .*{better}"
    with pytest.raises(ValueError, match=message):
        sources.load_images(tree(tmp_path, *files))


@pytest.mark.parametrize(
    "files",
    [
        ("ape/a.png", "fox/b.png"),
        ("ape/2020/a.png", "fox/2021/b.png"),
        ("train/a.png", "bus/b.png"),
        ("train/old/a.png", "bus/b.png", "car/c.png"),
        ("ape/a.png",),
    ],
)
def test_class_folders_are_taken(files: tuple[str, ...], tmp_path: Path) -> None:
    assert len(sources.load_images(tree(tmp_path, *files))) == len(files)


def test_every_command_lists_and_reads_the_same_files(tmp_path: Path, capsys) -> None:
    """A deep grey image, one turned, a PDF, and a hidden file, for evaluate, tables and roundtrip."""
    folder = tmp_path / "set" / "ape"
    folder.mkdir(parents=True)
    deep = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(folder / "turned.png", exif=exif)
    (folder / "licence.pdf").write_text("no image")
    (folder / "._deep.png").write_text("no image")
    with pytest.raises(ValueError, match="2 sizes"):  # one of them upright
        sources.load_images(str(tmp_path / "set"))
    (folder / "turned.png").unlink()
    found = sources.load_images(str(tmp_path / "set"))
    assert np.array_equal(to_bytes(found.images)[0, 0].numpy(), deep >> 8)
    assert run("tables", "derive", tmp_path / "set", tmp_path / "t.txt") == 0
    assert "Left out" not in capsys.readouterr().err
    assert run("roundtrip", folder / "deep.png", tmp_path / "out.png", "--quality", 100) == 0
    assert abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - (deep >> 8)).max() <= 3


def test_a_bomb_is_one_sentence(tmp_path: Path, capsys) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert run("roundtrip", tmp_path / "bomb.png", tmp_path / "out.png") == 2
    assert "source must be an image that Pillow reads" in capsys.readouterr().err


# --- the terminal and the system --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_these_characters_changes_no_status(encoding: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "ψ.png")
    done = subprocess.run(
        [sys.executable, "-m", "fdjpeg", "roundtrip", str(tmp_path / "ψ.png"), str(tmp_path / "ε.png")],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Written: " in done.stdout


def test_an_error_of_the_system_is_one_sentence(tmp_path: Path, capsys, monkeypatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found", str(tmp_path / "none"))

    monkeypatch.setattr("fdjpeg.cli.tables.read_tables", fails)
    assert run("tables", "show", "75") == 2
    assert "Error: [Errno 2] No usable temporary directory found" in capsys.readouterr().err
