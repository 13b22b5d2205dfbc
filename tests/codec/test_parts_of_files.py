"""Parts of what reads and writes files, by files of a few bytes made by hand."""

from __future__ import annotations

import errno
import io
from types import SimpleNamespace

import pytest
from PIL import Image, JpegImagePlugin

import fdjpeg
from fdjpeg import _coefficient_files, _descriptions, _fingerprint, _table_files
from fdjpeg._whole_files import of_the_system

START, END = b"\xff\xd8", b"\xff\xd9"

#: A quantization table's segment (of two bytes only), and a scan: its header, a stuffed 0xFF, a restart and an end.
TABLE = b"\xff\xdb\x00\x04\xff\xe0"
SCAN = b"\xff\xda\x00\x03\x01" + b"ab\xff\x00cd\xff\xd0ef"


def application(code: int, content: bytes) -> bytes:
    return b"\xff" + bytes([code]) + (2 + len(content)).to_bytes(2, "big") + content


@pytest.mark.parametrize(
    "dropped",
    [
        application(0xE1, b"Exif and more"),
        application(0xEF, b""),
        application(0xFE, b"a comment"),
        b"\xff\xff" + application(0xE5, b"after a fill byte"),
        application(0xE0, b"JFXX"),
        application(0xE2, b"xxJFIF"),
        b"\xff\xe1\x00\x00",  # of a length that does not count itself
        b"\xff\xe1\x00\x01",
    ],
    ids=repr,
)
def test_comments_and_application_data_are_left_out(dropped: bytes) -> None:
    content = START + TABLE + SCAN + END + b"after the end \xff\xe1"
    for place in (len(START), len(START + TABLE)):
        found = _coefficient_files._without_applications(content[:place] + dropped + content[place:])
        assert found == content


def test_colours_and_all_else_stay_byte_by_byte() -> None:
    """Also what looks like a marker inside of a segment, markers without a segment, and what comes after the end."""
    jfif, adobe = application(0xE0, b"JFIF\x00\x01"), application(0xEE, b"Adobe\x00\x64")
    for content in (
        START + jfif + adobe + TABLE + SCAN + END,
        START + jfif + b"\xff\x01" + TABLE + SCAN + SCAN + END + END + b"\xff\xe1\x00\x04ab",
        START + TABLE + SCAN + END + b"\x00\x02" + application(0xE1, b"of another file"),
        START + application(0xDF, b"an expansion") + application(0xF0, b"an extension") + TABLE + SCAN + END,
        START + TABLE + SCAN,  # cut off
        START,
    ):
        assert _coefficient_files._without_applications(content) == content
    assert _coefficient_files._without_applications(START + application(0xE1, b"Exif") + jfif) == START + jfif
    for alone in (b"\xff\x01", START):  # which no length follows
        content = START + alone + application(0xE1, b"Exif") + TABLE + SCAN + END
        assert _coefficient_files._without_applications(content) == START + alone + TABLE + SCAN + END


@pytest.mark.parametrize(("tables", "titles"), [(2, ["Y", "Cb and Cr"]), (3, ["with -qslots 0,1,2", "Y", "Cb", "Cr"])])
def test_a_text_says_which_slots_cjpeg_needs(tables: int, titles: list[str]) -> None:
    """`cjpeg` takes a third table only with ``-qslots 0,1,2``, as the manual of its option states."""
    steps = [[[8 * row + column + 1 for column in range(8)] for row in range(8)]] * tables
    lines = _table_files.to_text(steps).splitlines()
    assert lines[0] == "# JPEG quantization tables, row-major, for cjpeg -qtables"
    assert [line[2:] for line in lines[1:] if line.startswith("#")] == titles
    assert [line for line in lines if line and not line.startswith("#")][:2] == [
        "  1   2   3   4   5   6   7   8",
        "  9  10  11  12  13  14  15  16",
    ]
    assert _table_files.to_text(steps).endswith(" 64\n")


def test_a_machine_without_memory_handles_or_disk_is_no_fault_of_a_file() -> None:
    of_machine = [MemoryError(), *(OSError(code, "") for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM))]
    of_machine += [OSError(errno.EIO, ""), OSError(errno.ENOSPC, "")]
    assert all(map(of_the_system, of_machine))
    assert not any(map(of_the_system, (OSError("truncated"), OSError(errno.ENOENT, ""), ValueError(), KeyError(12))))


class Empty:
    """An object without attributes, whose text is its place in memory."""

    __slots__ = ()


def test_an_object_without_attributes_is_written_without_its_address() -> None:
    assert _descriptions.described(object()) == "<object object>"
    assert _descriptions.described(Empty()) == f"<{__name__}.Empty object>"


def test_defaults_of_a_function_count() -> None:
    functions = [lambda x, by=by: x * by for by in (1, 2, 1)]
    for described in (_fingerprint.described, _descriptions.described):
        one, two, again = map(described, functions)
        assert one == again != two


# ---------------------------------------------------------------------------------------------------------------------
# Files that are read and written by jpeglib


def written(height: int = 16, width: int = 24) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(stream, "JPEG")
    return stream.getvalue()


def test_a_file_has_at_most_twice_the_pixels_that_pillow_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 192)
    assert fdjpeg.Coefficients.load(written()).size == (16, 24)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 191)
    message = r"^file must have at most 382 pixels \(twice PIL.Image.MAX_IMAGE_PIXELS\), got one of 16 × 24$"
    with pytest.raises(ValueError, match=message):
        fdjpeg.Coefficients.load(written())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert fdjpeg.Coefficients.load(written()).size == (16, 24)


def test_errors_of_the_machine_pass_through_where_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    library = SimpleNamespace(read_dct=full)
    with monkeypatch.context() as patch:
        patch.setattr(_coefficient_files, "_library", lambda: library)
        with pytest.raises(OSError, match="No space left on device") as caught:
            fdjpeg.Coefficients.load(written())
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", full)
    with pytest.raises(OSError, match="No space left on device"):
        fdjpeg.Coefficients.load(written())


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        ([(2, 2)] * 3, "4:4:4"),
        ([(2, 2), (1, 2), (1, 2)], "4:2:2"),
        ([(4, 2), (2, 1), (2, 1)], "4:2:0"),
        ([(2, 4), (2, 2), (2, 2)], "4:4:0"),
        ([(4, 2), (1, 2), (1, 2)], "4:1:1"),
        ([(3, 3)], "4:4:4"),
    ],
)
def test_subsampling_is_a_ratio_of_factors(factors: list[tuple[int, int]], name: str) -> None:
    assert _coefficient_files._subsampling(factors) == name


def test_chroma_of_two_ratios_has_no_name() -> None:
    with pytest.raises(
        ValueError, match=r"one of 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1, got sampling factors 2×2, 1×1, 2×1"
    ):
        _coefficient_files._subsampling([(2, 2), (1, 1), (2, 1)])
