"""The one reader of image files: orientation, modes, 16 bits, transparency, broken files, bombs, and the listing."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from fdjpeg.cli.image_files import read_image
from fdjpeg.sources import load_images
from fdjpeg.sources.files import image_files, read_picture


@pytest.fixture
def rgb(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(rgb: Image.Image, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb.save(tmp_path / "turned.png", exif=exif)
    methods = (None, Image.FLIP_LEFT_RIGHT, Image.ROTATE_180, Image.FLIP_TOP_BOTTOM, Image.TRANSPOSE)
    method = (*methods, Image.ROTATE_270, Image.TRANSVERSE, Image.ROTATE_90)[orientation - 1]
    expected = rgb if method is None else rgb.transpose(method)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "turned.png").image), np.asarray(expected))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_grey_bits_keep_their_high_byte(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    samples = rng.integers(0, 65536, (5, 7)).astype(np.uint16)
    samples[0, :4] = (0, 255, 256, 65535)
    Image.fromarray(samples).save(tmp_path / f"deep.{suffix}")
    found = read_picture(tmp_path / f"deep.{suffix}").image
    assert found.mode == "L"
    assert np.array_equal(np.asarray(found), samples >> 8)


def _png_of_16_bits(samples: np.ndarray) -> bytes:
    """An RGB PNG of 16 bits, which Pillow does not write."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_of_rgb_follow_the_same_rule(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = rng.integers(0, 65536, (4, 5, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(_png_of_16_bits(samples))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "deep.png").image), samples >> 8)


@pytest.mark.parametrize(
    ("samples", "mode"), [(np.zeros((4, 4), np.float32), "F"), (np.full((4, 4), 70000, np.int32), "I")]
)
def test_samples_without_a_range_are_refused(tmp_path: Path, samples: np.ndarray, mode: str) -> None:
    Image.fromarray(samples).save(tmp_path / "deep.tif")
    with pytest.raises(
        ValueError, match=rf"^data must be an image that Pillow reads, got '.*deep.tif': .* mode {mode}"
    ):
        read_picture(tmp_path / "deep.tif")


@pytest.mark.parametrize(
    ("mode", "suffix", "transparent", "grey"),
    [
        ("1", "png", False, True),
        ("L", "png", False, True),
        ("LA", "png", True, True),
        ("P", "png", False, False),
        ("RGBA", "png", True, False),
        ("CMYK", "tif", False, False),
        ("LAB", "tif", False, False),
        ("YCbCr", "tif", False, False),
    ],
)
def test_modes(rgb: Image.Image, tmp_path: Path, mode: str, suffix: str, transparent: bool, grey: bool) -> None:
    image = Image.frombytes("LAB", rgb.size, rgb.tobytes()) if mode == "LAB" else rgb.convert(mode)
    image.save(tmp_path / f"image.{suffix}")
    found = read_picture(tmp_path / f"image.{suffix}")
    assert found.image.mode == ("L" if grey else "RGB")
    assert found.image.size == rgb.size
    assert found.transparent is transparent


def test_a_transparent_colour_of_a_palette_is_transparency(rgb: Image.Image, tmp_path: Path) -> None:
    rgb.convert("P").save(tmp_path / "image.png", transparency=0)
    assert read_picture(tmp_path / "image.png").transparent


def _broken(content: bytes) -> dict[str, bytes]:
    return {"empty": b"", "text": b"no image", "torn": content[: len(content) // 2], "header": content[:30]}


@pytest.mark.parametrize("switch", [False, True], ids=["Pillow as it comes", "told to fill up torn files"])
@pytest.mark.parametrize("fault", ["empty", "text", "torn", "header"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_broken_file_is_named(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, suffix: str, fault: str, switch: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
    stream, kind = io.BytesIO(), {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(stream, kind)
    file = tmp_path / f"broken.{suffix}"
    file.write_bytes(_broken(stream.getvalue())[fault])
    with pytest.raises(ValueError, match=r"^source must be an image that Pillow reads, got '.*broken\."):
        read_picture(file, "source")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch


def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"^data must be an image that Pillow reads, got '.*bomb.png': .*pixels"):
        read_picture(tmp_path / "bomb.png")


def _link(folder: Path) -> None:
    os.symlink(folder / "missing.png", folder / "dangling.png")


def _folder(folder: Path) -> None:
    (folder / "looks like.png").mkdir()


@pytest.mark.parametrize(("add", "named"), [(_link, True), (_folder, False)])
def test_listing_takes_images_and_nothing_else(
    rgb: Image.Image, tmp_path: Path, add: Callable[[Path], None], named: bool
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.PNG", "b/c.jpg", ".d.png", ".hidden/e.png"):
        rgb.save(tmp_path / name)
    for name in ("licence.pdf", "notes.txt", "archive.png.zip"):
        (tmp_path / name).write_text("no image")
    add(tmp_path)
    expected = ["a.PNG", "b/c.jpg"] + (["dangling.png"] if named else [])
    assert [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)] == expected


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder must hold images that Pillow reads, got '.*' with none"):
        image_files(tmp_path, "folder")


def test_a_machine_at_its_limit_is_no_fault_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files would be left out, or named as broken, because others are open."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "file")

    file = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(file)
    monkeypatch.setattr(Image, "open", refuse)
    for argument in (file, str(file)):
        with pytest.raises(OSError, match="Too many open files"):
            read_picture(argument)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(file)


def test_images_are_loaded_by_a_path_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "image.png")
    assert load_images(tmp_path).names == load_images(str(tmp_path)).names
