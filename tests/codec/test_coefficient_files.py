"""Coefficients to and from JPEG files: the layer's coefficients become a file, bit for bit, and back."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support import oracles
from torch import Tensor

import fdjpeg
from fdjpeg import Coefficients, QuantTables, _coefficient_files

SIZES = ((1, 1), (8, 8), (13, 40), (37, 51), (64, 48))
#: No table, one for Cb and Cr, and one each.
TABLES = ("standard", "shared", "separate")


def some_tables(rng: np.random.Generator, kind: str) -> QuantTables:
    if kind == "standard":
        return QuantTables.standard(int(rng.integers(1, 101)))
    return QuantTables(*rng.integers(1, 256, (2 if kind == "shared" else 3, 8, 8)))


def some_images(rng: np.random.Generator, images: int, channels: int, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, (images, channels, *size), dtype=np.uint8))


def pillow(file: Path | bytes) -> Tensor:
    """Decodes a file by Pillow, ``(C, H, W)``."""
    return torch.tensor(oracles.decode(file if isinstance(file, bytes) else file.read_bytes()))


def same(a: Coefficients, b: Coefficients) -> bool:
    components = ((a.y, b.y), (a.cb, b.cb), (a.cr, b.cr))
    return (
        all((one is None and other is None) or torch.equal(one, other) for one, other in components)
        and (a.cb is None) == (b.cb is None)
        and a.tables == b.tables
        and a.size == b.size
        and (a.subsampling == b.subsampling or a.cb is None)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Bit for bit


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey"])
def test_pillow_decodes_a_saved_file_to_what_jpeg_returns(
    rng: np.random.Generator, tmp_path: Path, subsampling: str, kind: str
) -> None:
    channels, subsampling = (1, "4:4:4") if subsampling == "grey" else (3, subsampling)
    for size in SIZES:
        image, tables = some_images(rng, 1, channels, size), some_tables(rng, kind)
        made = fdjpeg.encode(image, tables=tables, subsampling=subsampling)
        file = tmp_path / "image.jpg"
        made.save(file)
        assert torch.equal(pillow(file), fdjpeg.jpeg(image, tables=tables, subsampling=subsampling)[0])
        loaded = Coefficients.load(file)
        # A grey file holds no more than Y's table.
        assert same(loaded, made) if channels == 3 else torch.equal(loaded.y, made.y)
        assert torch.equal(fdjpeg.decode(loaded)[0], pillow(file))


@pytest.mark.parametrize(
    "settings",
    [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}],
    ids=["baseline", "progressive", "restart markers", "optimized"],
)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "grey"])
def test_loads_what_pillow_wrote(rng: np.random.Generator, subsampling: str, settings: dict[str, object]) -> None:
    channels, subsampling = (1, "4:4:4") if subsampling == "grey" else (3, subsampling)
    image = some_images(rng, 1, channels, (37, 51))
    pixels = image[0].permute(1, 2, 0).squeeze(-1).numpy()
    stream = io.BytesIO()
    factors = {} if channels == 1 else {"subsampling": subsampling}
    Image.fromarray(pixels).save(stream, "JPEG", quality=83, **factors, **settings)
    loaded = Coefficients.load(stream.getvalue())
    made = fdjpeg.encode(image, 83, subsampling=subsampling)
    assert same(loaded, made) if channels == 3 else torch.equal(loaded.y, made.y)
    assert torch.equal(fdjpeg.decode(loaded)[0], pillow(stream.getvalue()))


# ---------------------------------------------------------------------------------------------------------------------
# Batches, and other files than paths


@pytest.mark.parametrize("own_tables", [False, True])
def test_a_batch_to_a_list_of_names_and_back(rng: np.random.Generator, tmp_path: Path, own_tables: bool) -> None:
    image = some_images(rng, 3, 3, (20, 33))
    tables = QuantTables(*torch.from_numpy(rng.integers(1, 99, (3, 3, 8, 8) if own_tables else (3, 8, 8))))
    made = fdjpeg.encode(image, tables=tables)
    names = [tmp_path / f"{i}.jpg" for i in range(3)]
    made.save(names)
    decoded = fdjpeg.jpeg(image, tables=tables)
    for name, expected in zip(names, decoded, strict=True):
        assert torch.equal(pillow(name), expected)
    assert same(Coefficients.load(names), made)


def test_streams_and_bytes(rng: np.random.Generator) -> None:
    made = fdjpeg.encode(some_images(rng, 1, 3, (9, 9)))
    stream = io.BytesIO()
    made.save(stream)
    assert same(Coefficients.load(stream.getvalue()), made)
    stream.seek(0)
    assert same(Coefficients.load(stream), made)


def test_an_empty_batch_is_saved_to_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fdjpeg.encode(torch.empty(0, 3, 8, 8)).save([])
    assert list(tmp_path.iterdir()) == []


def test_floating_tables_are_saved_as_the_integers_they_act_as(rng: np.random.Generator, tmp_path: Path) -> None:
    image = some_images(rng, 1, 3, (16, 16))
    tables = QuantTables(torch.full((8, 8), 7.4), torch.full((8, 8), 11.6))
    made = fdjpeg.encode(image, tables=tables)
    made.save(tmp_path / "image.jpg")
    assert torch.equal(pillow(tmp_path / "image.jpg"), fdjpeg.jpeg(image, tables=tables)[0])


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_save_says_what_is_wrong(rng: np.random.Generator, tmp_path: Path) -> None:
    made = fdjpeg.encode(some_images(rng, 2, 3, (8, 8)))
    with pytest.raises(ValueError, match="file must be a list of 2 files, one for each image, got one"):
        made.save(tmp_path / "image.jpg")
    with pytest.raises(ValueError, match="file must be a list of 2 files, one for each image, got a list of 1"):
        made.save([tmp_path / "image.jpg"])
    with pytest.raises(FileNotFoundError):
        made[0].save(tmp_path / "nowhere" / "image.jpg")
    y = torch.full((1, 1, 1, 8, 8), 2000, dtype=torch.int16)
    with pytest.raises(ValueError, match="coefficients must have codes in the standard Huffman tables"):
        Coefficients(y, None, None, QuantTables.flat(1), (8, 8), "4:4:4").save(tmp_path / "image.jpg")
    y = torch.zeros(1, 8188, 1, 8, 8, dtype=torch.int16)
    with pytest.raises(ValueError, match="at most 65500 rows and columns, got 65501 × 1"):
        Coefficients(y, None, None, QuantTables.flat(1), (65501, 1), "4:4:4").save(tmp_path / "image.jpg")
    with pytest.raises(ValueError, match="300"):
        Coefficients(y[:, :1], None, None, QuantTables.flat(300), (8, 8), "4:4:4").save(tmp_path / "image.jpg")
    assert not (tmp_path / "image.jpg").exists()


def test_load_says_what_is_wrong(rng: np.random.Generator) -> None:
    def file(channels: int, size: tuple[int, int], subsampling: str = "4:2:0") -> bytes:
        return oracles.encode(some_images(rng, 1, channels, size)[0].numpy(), 75, subsampling)

    with pytest.raises(ValueError, match="file must be a file or a list of at least one, got an empty list"):
        Coefficients.load([])
    with pytest.raises(TypeError, match=r"file must be a path, bytes, a binary file or a PIL\.Image\.Image, got int"):
        Coefficients.load(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        Coefficients.load("nowhere.jpg")
    with pytest.raises(ValueError, match="file must be a JPEG file"):
        Coefficients.load(b"no JPEG file")
    with pytest.raises(ValueError, match="file must be a whole JPEG file"):
        Coefficients.load(file(3, (90, 90))[:-1500])
    for other, words in (
        (file(3, (16, 17)), "16 × 17 4:2:0"),
        (file(3, (16, 16), "4:4:4"), "16 × 16 4:4:4"),
        (file(1, (16, 16)), "16 × 16 grey"),
    ):
        with pytest.raises(ValueError, match=f"got 16 × 16 4:2:0 and {words}"):
            Coefficients.load([file(3, (16, 16)), other])
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(stream, "JPEG")
    with pytest.raises(ValueError, match="grey or YCbCr"):
        Coefficients.load(stream.getvalue())


def test_other_sampling_factors_are_refused(rng: np.random.Generator) -> None:
    file = bytearray(oracles.encode(some_images(rng, 1, 3, (16, 16))[0].numpy(), 75, "4:2:0"))
    frame = file.index(b"\xff\xc0")
    file[frame + 14] = 0x12  # Cb: 1 × 2, with luma's 2 × 2
    with pytest.raises(ValueError, match=r"subsampled as one of .*, got sampling factors 2×2, 1×2, 1×1"):
        Coefficients.load(bytes(file))


def test_any_multiple_of_the_sampling_factors_is_the_same_subsampling() -> None:
    assert _coefficient_files._subsampling([(2, 1), (2, 1), (2, 1)]) == "4:4:4"
    assert _coefficient_files._subsampling([(4, 2), (2, 1), (2, 1)]) == "4:2:0"
    assert _coefficient_files._subsampling([(2, 2)]) == "4:4:4"  # grey


def test_the_longest_side_of_a_file_is_saved(tmp_path: Path) -> None:
    y = torch.zeros(1, 8188, 1, 8, 8, dtype=torch.int16)
    stream = io.BytesIO()
    Coefficients(y, None, None, QuantTables.flat(1), (65500, 1), "4:4:4").save(stream)
    assert Image.open(stream).size == (1, 65500)


def test_what_jpeglib_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(file: str) -> None:
        raise OSError("bad Huffman code")

    monkeypatch.setattr(_coefficient_files, "_library", lambda: SimpleNamespace(read_dct=refusing))
    content = oracles.encode(np.zeros((3, 8, 8), dtype=np.uint8), 75, "4:4:4")
    with pytest.raises(ValueError, match=r"file must be a whole JPEG file, got one .* decoded: bad Huffman code"):
        Coefficients.load(content)


def test_an_opened_image_is_left_where_it_was() -> None:
    image = Image.open(io.BytesIO(oracles.encode(np.zeros((3, 8, 8), dtype=np.uint8), 75, "4:4:4")))
    assert image.fp is not None
    before = image.fp.tell()
    Coefficients.load(image)
    assert image.fp.tell() == before


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real_import = builtins.__import__

    def without_jpeglib(name: str, *rest: object, **named: object) -> object:
        if name == "jpeglib":
            raise ImportError(name)
        return real_import(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_jpeglib)
    made = fdjpeg.encode(torch.zeros(1, 3, 8, 8))
    for call in (lambda: made.save(tmp_path / "image.jpg"), lambda: Coefficients.load(b"")):
        with pytest.raises(ImportError, match=r'need the package jpeglib: pip install "fdjpeg\[files\]"'):
            call()
