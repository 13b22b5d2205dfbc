"""Tables from and to image files, Pillow, and cjpeg's text format."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.table_cases import jpeg_bytes, photograph_like, random_table, three_tables, two_tables

import fdjpeg
from fdjpeg.tables import QuantTables


def frame_header(data: bytes) -> int:
    """Finds the parameters of the first frame header (SOF0 or SOF1): length, precision, height, ..."""
    return next(data.index(marker) for marker in (b"\xff\xc0\x00", b"\xff\xc1\x00") if marker in data) + 2


def patched(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


class TestFromImage:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_every_way_to_name_a_file(self, tmp_path: Path, progressive: bool) -> None:
        data = jpeg_bytes(qtables=two_tables().to_pillow(), progressive=progressive)
        path = tmp_path / "image.jpg"
        path.write_bytes(data)
        for file in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path)):
            tables = QuantTables.from_image(file)
            assert tables == two_tables()
            assert tables.y.dtype == torch.int64
            assert tables.batch_size is None

    def test_grey(self) -> None:
        data = jpeg_bytes(photograph_like("L"), quality=33)
        luma = QuantTables.standard(33).y
        assert QuantTables.from_image(data) == QuantTables(luma, luma)

    def test_components_find_their_tables_by_number(self) -> None:
        data = jpeg_bytes(qtables=three_tables().to_pillow())
        assert QuantTables.from_image(data) == three_tables()
        # Length 2, precision 1, height 2, width 2, components 1; then number, sampling, table for each component.
        first = frame_header(data) + 8
        data = patched(patched(data, first + 5, 0), first + 8, 1)
        y, cb, _ = (random_table(seed) for seed in (1, 2, 3))
        assert QuantTables.from_image(data) == QuantTables(y, y, cb)

    def test_table_that_is_not_there(self) -> None:
        data = jpeg_bytes()
        data = patched(data, frame_header(data) + 8 + 8, 3)
        with pytest.raises(
            ValueError, match=r"must define quantization table 3, which component 2 .*got only \[0, 1\]"
        ):
            QuantTables.from_image(data)

    def test_cmyk(self) -> None:
        with pytest.raises(ValueError, match=r"grey or YCbCr JPEG, got one of 4 components \(mode CMYK\)"):
            QuantTables.from_image(jpeg_bytes(photograph_like("CMYK")))

    @pytest.mark.parametrize("adobe", [True, False])
    def test_rgb_components(self, adobe: bool) -> None:
        data = jpeg_bytes(keep_rgb=True)
        if not adobe:  # then only the components' numbers, "R", "G" and "B", show it
            marker = data.index(b"\xff\xee")
            data = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4], "big") :]
        with pytest.raises(ValueError, match="grey or YCbCr JPEG, got one whose components are R, G and B"):
            QuantTables.from_image(data)

    def test_without_jfif_and_adobe_markers_components_are_ycbcr(self) -> None:
        data = jpeg_bytes(qtables=two_tables().to_pillow())
        assert data[2:4] == b"\xff\xe0"
        data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
        assert QuantTables.from_image(data) == two_tables()

    def test_twelve_bits(self) -> None:
        data = jpeg_bytes()
        position = frame_header(data) + 2
        assert data[position] == 8
        with pytest.raises(ValueError, match=r"JPEG file of 8-bit samples, got .*12-bit"):
            QuantTables.from_image(patched(data, position, 12))

    def test_steps_of_sixteen_bits(self) -> None:
        table = [300] + [20] * 63
        with pytest.raises(ValueError, match=r"table 0 of file must hold integers in 1…255, got 300 at \[0, 0\]"):
            QuantTables.from_image(jpeg_bytes(qtables=[table]))

    def test_step_zero(self) -> None:
        data = jpeg_bytes(qtables=[[77] * 64])
        position = data.index(b"\xff\xdb") + 5  # marker, length, precision and number
        assert data[position] == 77
        with pytest.raises(ValueError, match=r"table 0 of file must hold integers in 1…255, got 0 at \[0, 0\]"):
            QuantTables.from_image(patched(data, position, 0))

    @pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", jpeg_bytes()[:60]])
    def test_broken_files(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="file must be a JPEG file of 8-bit samples, got one that Pillow refuses"):
            QuantTables.from_image(data)

    def test_other_formats(self) -> None:
        stream = io.BytesIO()
        photograph_like().save(stream, "PNG")
        with pytest.raises(ValueError, match="got one that Pillow refuses: not a JPEG"):
            QuantTables.from_image(stream.getvalue())
        with pytest.raises(ValueError, match="got an image of format PNG"):
            QuantTables.from_image(Image.open(stream))
        with pytest.raises(ValueError, match="got an image of format None"):
            QuantTables.from_image(Image.open(io.BytesIO(jpeg_bytes())).convert("RGB"))

    def test_things_that_are_no_file(self) -> None:
        with pytest.raises(TypeError, match=r"file must be a path, bytes, .*, got int"):
            QuantTables.from_image(7)
        with pytest.raises(FileNotFoundError):
            QuantTables.from_image("no/such/file.jpg")


class TestPillow:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.flat(255), QuantTables.standard(60)])
    def test_there_and_back(self, tables: QuantTables) -> None:
        assert QuantTables.from_pillow(tables.to_pillow()) == tables
        assert QuantTables.from_image(jpeg_bytes(qtables=tables.to_pillow())) == tables
        assert QuantTables.from_pillow(Image.open(io.BytesIO(jpeg_bytes(qtables=tables.to_pillow()))).quantization) == (
            tables
        )

    def test_grey_images_take_the_first(self) -> None:
        data = jpeg_bytes(photograph_like("L"), qtables=three_tables().to_pillow())
        assert torch.equal(QuantTables.from_image(data).y, three_tables().y)

    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
    @pytest.mark.parametrize("tables", [two_tables(), three_tables()])
    def test_pillow_s_pixels_are_the_layer_s(self, tables: QuantTables, subsampling: str) -> None:
        image = photograph_like()
        data = jpeg_bytes(image, qtables=tables.to_pillow(), subsampling=subsampling)
        decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(fdjpeg.jpeg(tensor, tables=tables, subsampling=subsampling), decoded)

    def test_fractions_are_written_as_the_layer_rounds_them(self) -> None:
        table = torch.full((8, 8), 2.5)  # half to even: 2
        table[0, 0], table[0, 1] = 3.5, 254.6
        assert QuantTables(table, table).to_pillow()[0][:3] == [4, 255, 2]

    def test_batch(self) -> None:
        tables = QuantTables.standard(torch.tensor([10, 20]))
        with pytest.raises(ValueError, match=r"tables must be one set of tables, got a batch of 2: index it"):
            tables.to_pillow()
        assert tables[1].to_pillow() == QuantTables.standard(20).to_pillow()

    @pytest.mark.parametrize("step", [0, 256, math.nan])
    def test_steps_out_of_range(self, step: float) -> None:
        with pytest.raises(ValueError, match=rf"tables.y\[0, 0\] must be in 1…255, got {step}"):
            QuantTables.flat(torch.tensor(step)).to_pillow()

    @pytest.mark.parametrize(
        ("qtables", "message"),
        [
            ([], "qtables must hold one, two or three tables, got 0"),
            ([[1] * 64] * 4, "qtables must hold one, two or three tables, got 4"),
            ([[1] * 64, [1] * 63], "table 1 of qtables must have 64 steps, got 63"),
            ([7], "table 0 of qtables must have 64 steps, got int"),
            ([[0] * 64], r"table 0 of qtables must hold integers in 1…255, got 0 at \[0, 0\]"),
            ([[1] * 63 + [256]], r"table 0 of qtables must hold integers in 1…255, got 256 at \[7, 7\]"),
            ([[1.5] * 64], r"table 0 of qtables must hold integers in 1…255, got 1.5 at \[0, 0\]"),
            ([[True] * 64], r"table 0 of qtables must hold integers in 1…255, got True at \[0, 0\]"),
            ({1: [1] * 64}, r"qtables must have the keys 0, 1, 2 in order, got \[1\]"),
        ],
    )
    def test_wrong_tables(self, qtables: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            QuantTables.from_pillow(qtables)

    def test_things_that_are_no_tables(self) -> None:
        with pytest.raises(TypeError, match="qtables must be a list or a mapping of tables, got NoneType"):
            QuantTables.from_pillow(None)


class TestTextFiles:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.flat(1)])
    def test_there_and_back(self, tmp_path: Path, tables: QuantTables) -> None:
        tables.save(tmp_path / "tables.txt")
        assert QuantTables.load(tmp_path / "tables.txt") == QuantTables.load(str(tmp_path / "tables.txt")) == tables
        stream = io.StringIO()
        tables.save(stream)
        stream.seek(0)
        assert QuantTables.load(stream) == tables
        assert QuantTables.load(io.BytesIO(stream.getvalue().encode())) == tables

    def test_one_table_serves_all_and_the_order_is_row_major(self) -> None:
        text = "# caf\xe9 1 2 3\n" + " ".join(map(str, range(1, 65))) + "# the end"
        tables = QuantTables.load(io.BytesIO(text.encode("latin-1")))
        assert tables.y[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
        assert torch.equal(tables.y, tables.cb)
        assert torch.equal(tables.y, tables.cr)

    def test_two_and_three_tables(self) -> None:
        def load(*steps: int) -> QuantTables:
            return QuantTables.load(io.StringIO("\n".join(f"{step} " * 64 for step in steps)))

        assert [table[0, 0].item() for table in (load(5, 6).y, load(5, 6).cb, load(5, 6).cr)] == [5, 6, 6]
        assert [table[0, 0].item() for table in (load(5, 6, 7).y, load(5, 6, 7).cb, load(5, 6, 7).cr)] == [5, 6, 7]

    def test_pillow_reads_the_text_too(self) -> None:
        stream = io.StringIO()
        three_tables().save(stream)
        assert QuantTables.from_image(jpeg_bytes(qtables=stream.getvalue())) == three_tables()

    @pytest.mark.skipif(shutil.which("cjpeg") is None, reason="cjpeg (libjpeg-turbo-progs) is not installed")
    @pytest.mark.parametrize("tables", [two_tables(), three_tables()])
    def test_cjpeg_uses_them(self, tmp_path: Path, tables: QuantTables) -> None:
        photograph_like().save(tmp_path / "image.ppm")
        tables.save(tmp_path / "tables.txt")
        slots = [] if torch.equal(tables.cb, tables.cr) else ["-qslots", "0,1,2"]
        command = ["cjpeg", "-qtables", tmp_path / "tables.txt", *slots, tmp_path / "image.ppm"]
        assert QuantTables.from_image(subprocess.run(command, capture_output=True, check=True).stdout) == tables

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "file must hold one, two or three tables of 64 integers, got 0 integers"),
            ("1 " * 65, "file must hold one, two or three tables of 64 integers, got 65 integers"),
            ("1 " * 256, "file must hold one, two or three tables of 64 integers, got 256 integers"),
            ("1 2\n3 x", "file must hold integers and # comments, got 'x' in line 2"),
            ("-1 " * 64, "file must hold integers and # comments, got '-1' in line 1"),
            ("1.5 " * 64, "file must hold integers and # comments, got '1.5' in line 1"),
            ("\u0661 " * 64, "file must hold integers and # comments, got '\u0661' in line 1"),
            ("1 " * 64 + "0 " * 64, r"table 1 of file must hold integers in 1…255, got 0 at \[0, 0\]"),
            ("1 " * 9 + "256 " * 55, r"table 0 of file must hold integers in 1…255, got 256 at \[1, 1\]"),
        ],
    )
    def test_wrong_text(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            QuantTables.load(io.StringIO(text))

    def test_things_that_are_no_file(self) -> None:
        with pytest.raises(TypeError, match="file must be a path, bytes or an open file, got int"):
            QuantTables.load(7)

    def test_nothing_is_written_for_wrong_tables(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"tables.y\[0, 0\] must be in 1…255, got 256"):
            QuantTables.flat(256).save(tmp_path / "tables.txt")
        with pytest.raises(ValueError, match="got a batch of 2: index it"):
            QuantTables.flat(torch.ones(2)).save(tmp_path / "tables.txt")
        assert not list(tmp_path.iterdir())

    def test_a_batch_of_one_set_is_written_as_the_set(self, tmp_path: Path) -> None:
        QuantTables.flat(torch.full((1,), 7.0)).save(tmp_path / "tables.txt")
        assert QuantTables.load(tmp_path / "tables.txt") == QuantTables.flat(7)
