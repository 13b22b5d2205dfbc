"""The benchmark: its peers, its fidelity to Pillow, and files that hold its measurements."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from fdjpeg.bench import PEERS, measure, save
from fdjpeg.bench.measure import BACKWARD, FORWARD, Results


@pytest.fixture(scope="module")
def results() -> Results:
    peers = ["fdjpeg uint8", "fdjpeg float32", "Pillow codec", "Pillow tensors"]
    return measure.run(peers, ["2x32"], quality=60, threads=[1], rounds=3, memory=False)


def test_every_peer_is_measured_in_every_direction_it_has(results: Results) -> None:
    measured = {(m.peer, m.direction) for m in results.measurements if m.rounds == 3}
    assert measured == {
        ("fdjpeg uint8", FORWARD),
        ("fdjpeg float32", FORWARD),
        ("fdjpeg float32", BACKWARD),
        ("Pillow codec", FORWARD),
        ("Pillow tensors", FORWARD),
        ("Pillow tensors", BACKWARD),
    }
    assert all(0 < m.low <= m.seconds <= m.high for m in results.measurements)


def test_fidelity_finds_fdjpeg_equal_and_a_wrong_codec_not(results: Results) -> None:
    for row in results.fidelity:
        assert (row["psnr"], row["equal"], row["largest"]) == (None, 1.0, 0), row
    wrong = PEERS["fdjpeg uint8"]
    pictures = measure.photographs(2, 32, 32)
    off_by_one = type(wrong)(
        "wrong", wrong.dtype, wrong.prepare, lambda q, s: lambda x: wrong.codec(q, s)(x) ^ 1, wrong.tensor, False
    )
    row = measure.measure_fidelity(off_by_one, pictures, 75, "4:2:0")
    assert row["equal"] == 0
    assert row["largest"] == 1
    assert row["psnr"] == pytest.approx(48.13, abs=0.01)


def test_files_hold_what_was_measured(results: Results, tmp_path: Path) -> None:
    files = {path.suffix: path for path in save(results, tmp_path)}
    data = json.loads(files[".json"].read_text(encoding="utf-8"))
    assert data["machine"]["commit"]
    assert len(data["measurements"]) == len(results.measurements)
    rows = list(csv.DictReader(files[".csv"].open(encoding="utf-8")))
    assert [float(row["seconds"]) for row in rows] == [m.seconds for m in results.measurements]
    page = files[".md"].read_text(encoding="utf-8")
    assert "fdjpeg float32" in page
    assert "∞ / 100.00 / 0" in page


def test_plots_of_any_batch_and_quality(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots = {path.name for path in save(results, tmp_path) if path.suffix == ".svg"}
    # Its memory was not measured.
    assert plots == {"cpu-time-forward.svg", "cpu-time-forward-backward.svg", "cpu-fidelity.svg"}
    for plot in plots:
        drawn = (tmp_path / plot).read_text(encoding="utf-8")
        # Forward-only peers are not compared with backward.
        assert ("<!-- fdjpeg uint8 -->" in drawn) == ("backward" not in plot)
        assert "<!-- fdjpeg float32 -->" in drawn


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_counts_a_result() -> None:
    needed = measure.peak_memory("fdjpeg uint8", "1x1024", FORWARD, 75, "4:2:0")
    result = 3 * 1024 * 1024
    assert result <= needed < 2.5 * result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peers": ["libjpeg"]}, "peers must be among .* got 'libjpeg'"),
        ({"batches": ["7×7²"]}, "batch must be images x side, such as 8x224, got '7×7²'"),
        ({"batches": ["0x7"]}, "batch must be images x side, such as 8x224, got '0x7'"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure.run(**arguments)  # type: ignore[arg-type]


def test_threads_are_left_as_they_were(results: Results) -> None:
    before = torch.get_num_threads()
    measure.run(["Pillow codec"], [], threads=[1], memory=False)
    assert torch.get_num_threads() == before
