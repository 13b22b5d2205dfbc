"""Readers of JPEG files: the same arguments everywhere, and no promise that hangs on another library's switch."""

from __future__ import annotations

import io
import mmap
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageFile
from support.table_cases import jpeg_bytes, photograph_like

from fdjpeg import Coefficients, QuantTables

pytest.importorskip("jpeglib")

READERS: dict[str, Callable[[Any], QuantTables]] = {
    "from_image": QuantTables.from_image,
    "load": lambda file: Coefficients.load(file).tables,
}
BOTH = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


@pytest.fixture(params=[False, True], ids=["strict Pillow", "lenient Pillow"])
def switch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Pillow's global switch in both states."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
    yield request.param
    assert request.param == ImageFile.LOAD_TRUNCATED_IMAGES  # left as it was


# ---------------------------------------------------------------------------------------------------------------------
# Every way to name a file


@BOTH
def test_every_way_to_name_a_file(read: Callable[[Any], QuantTables], tmp_path: Path) -> None:
    content = jpeg_bytes(quality=40)
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(content)
        spooled.seek(0)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        loaded = Image.open(path)
        loaded.load()
        sources = {
            "path": path,
            "name": str(path),
            "bytes": content,
            "bytearray": bytearray(content),
            "memoryview": memoryview(content),
            "view of an array": memoryview(bytearray(b"xx" + content))[2:],
            "BytesIO": io.BytesIO(content),
            "open file": file,
            "raw file": raw,
            "spooled file": spooled,
            "mapped file": mapped,
            "opened image": Image.open(path),
            "opened image in memory": Image.open(io.BytesIO(content)),
            "loaded image": loaded,
        }
        for name, source in sources.items():
            assert read(source) == QuantTables.standard(40), name
        mapped.close()


def test_bytes_of_every_kind_hold_the_same_coefficients() -> None:
    content = jpeg_bytes(quality=40)
    expected = Coefficients.load(content)
    batch = Coefficients.load([bytearray(content), memoryview(content), Image.open(io.BytesIO(content))])
    assert all(torch.equal(one.y, expected.y) for one in batch)


@BOTH
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (None, TypeError, "file must be a path, bytes, a binary file or a PIL.Image.Image, got NoneType"),
        (3, TypeError, "file must be a path, bytes, a binary file or a PIL.Image.Image, got int"),
        (torch.zeros(3, dtype=torch.uint8), TypeError, "file must be a path, bytes, a binary file .*, got Tensor"),
        (io.StringIO("text"), TypeError, r"file must be open in binary mode, got one whose read\(\) returns str"),
        (Image.new("RGB", (8, 8)), ValueError, "file must be a JPEG file, or an image .*, got an image of format None"),
        (b"", ValueError, "file must be a JPEG file of 8-bit samples, got one that Pillow refuses"),
        (bytearray(b"no JPEG"), ValueError, "file must be a JPEG file of 8-bit samples, got one that Pillow refuses"),
        ("no/such/file.jpg", FileNotFoundError, "no/such/file.jpg"),
    ],
)
def test_what_is_not_a_file(read: Any, source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(source)


def test_an_image_whose_file_is_gone_is_named() -> None:
    image = Image.open(io.BytesIO(jpeg_bytes()))
    image.load()
    with pytest.raises(ValueError, match="file must be an image whose file is still open, got one whose pixels were"):
        Coefficients.load(image)
    assert QuantTables.from_image(image) is not None  # the header was kept


@pytest.mark.parametrize("limit", [16 * 24 // 2, None], ids=["at the limit", "without a limit"])
def test_an_image_as_large_as_pillow_takes_is_read(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert Coefficients.load(jpeg_bytes(photograph_like(size=(24, 16)))).size == (16, 24)


def test_a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken() -> None:
    content = bytearray(jpeg_bytes())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(
        ValueError, match=r"file must have at most 178956970 pixels \(twice .*\), got one of 65500 × 65500"
    ):
        Coefficients.load(content)


@pytest.mark.parametrize(
    "marker", [b"\xff\xe3\x00\x01", b"\xff\xfe\x00\x02", b"\xff\xff\xe1\x00\x05abc"], ids=["1", "2", "5"]
)
@pytest.mark.parametrize("count", [1, 120])
def test_comments_of_any_number_and_length_change_no_coefficient(marker: bytes, count: int) -> None:
    """jpeglib takes 50 markers; a photograph with a depth map in its metadata has more."""
    for progressive in (False, True):
        content = jpeg_bytes(quality=40, progressive=progressive, subsampling="4:2:0")
        first = content.index(b"\xff\xda")
        scan = content.index(b"\xff\xc4", first) if progressive else first
        more = content[:2] + marker * count + content[2:scan] + marker * count + content[scan:]
        found, expected = Coefficients.load(more), Coefficients.load(content)
        assert all(torch.equal(one, other) for one, other in zip(found.components, expected.components, strict=True))
    without = content[:2] + marker + content[20:]  # none but this one
    assert torch.equal(Coefficients.load(without).y, expected.y)


@pytest.mark.parametrize("ids", [b"\x01\x02\x03", b"RGB"])
def test_colours_are_those_that_jfif_and_adobe_tell(ids: bytes) -> None:
    content = bytearray(jpeg_bytes(quality=40))
    expected = Coefficients.load(content)
    frame, scan = content.index(b"\xff\xc0") + 10, content.index(b"\xff\xda") + 5
    for number, letter in enumerate(ids):
        content[frame + 3 * number], content[scan + 2 * number] = letter, letter
    assert torch.equal(Coefficients.load(content).cb, expected.cb)


def test_tables_are_saved_to_text_and_binary_files(tmp_path: Path) -> None:
    tables = QuantTables.standard(30)
    text, binary = io.StringIO(), io.BytesIO()
    tables.save(text)
    tables.save(binary)
    assert binary.getvalue() == text.getvalue().encode()
    for mode in ("w", "wb"):
        with (tmp_path / mode).open(mode) as stream:
            tables.save(stream)
        assert QuantTables.load(tmp_path / mode) == tables
    with pytest.raises(TypeError, match="file must be a path or an open file, got int"):
        tables.save(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# Files that are cut off or damaged, whatever Pillow's switch is


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}], ids=["baseline", "progressive", "grey"])
def test_a_file_that_is_cut_off_is_refused(switch: bool, options: dict[str, Any]) -> None:
    options = dict(options)
    content = jpeg_bytes(photograph_like(options.pop("mode", "RGB"), (80, 64)), quality=90, **options)
    whole = Coefficients.load(content)
    assert whole.size == (64, 80)
    for kept in (len(content) // 2, len(content) * 9 // 10, len(content) - 40):
        with pytest.raises(ValueError, match="file must be a whole JPEG file, got one that cannot be decoded"):
            Coefficients.load(content[:kept])


def test_a_header_that_is_cut_off_is_refused_alike_by_both_readers(switch: bool) -> None:
    content = jpeg_bytes()
    for kept in (0, 1, 2, 10, 20, 60, 150, 200):
        for read in READERS.values():
            with pytest.raises(ValueError, match="file must"):
                read(content[:kept])


def test_trailing_bytes_and_other_images_after_it_do_no_harm(switch: bool) -> None:
    content = jpeg_bytes(quality=40)
    expected = Coefficients.load(content)
    for file in (content + b"trailing", content + content):
        assert torch.equal(Coefficients.load(file).y, expected.y)


def test_damage_gives_the_same_answer_in_both_states_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg_bytes(photograph_like("RGB", (80, 64)), quality=90)
    generator = torch.Generator().manual_seed(5)

    def answer(file: bytes) -> object:
        try:
            return Coefficients.load(file).y.tolist()
        except ValueError as error:
            return str(error)

    for _ in range(60):
        damaged = bytearray(content)
        for place in torch.randint(2, len(content), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (), generator=generator))
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
        strict = answer(bytes(damaged))
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        lenient = answer(bytes(damaged))
        assert (type(strict), strict if isinstance(strict, list) else 0) == (
            type(lenient),
            lenient if isinstance(lenient, list) else 0,
        )


def test_a_folder_for_temporary_files_that_is_missing_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        Coefficients.load(jpeg_bytes())
