"""The report on accuracy before and after a training: its counts, its files, its table and its plot."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from support.defense_data import folder_of, network, patterns, stored
from torch import Tensor, nn

from fdjpeg._packages import MissingPackage
from fdjpeg.defenses.training import accuracy
from fdjpeg.defenses.training.accuracy import Row
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

X, Y = patterns(70, seed=5)

#: Two networks' results on 200 images, clean and at two qualities.
ROWS = [
    Row(None, "4:2:0", 200, 180, 190, 25, 15),
    Row(75, "4:2:0", 200, 100, 150, 60, 10),
    Row(10, "4:2:0", 200, 30, 20, 0, 10),
]


@pytest.fixture
def plotting(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A mock in place of matplotlib, whose import takes seconds."""
    library = MagicMock()
    monkeypatch.setattr(accuracy, "required", library.imported)
    library.imported.return_value = library
    return library


def test_a_row_is_named_after_its_files() -> None:
    assert [row.name for row in ROWS] == ["clean", "75 (4:2:0)", "10 (4:2:0)"]
    assert Row(30, "4:4:4", 1, 1, 1, 0, 0).name == "30 (4:4:4)"


def test_qualities_and_subsamplings_are_those_that_pillow_writes() -> None:
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        accuracy.check((1, 100), subsampling)
    for qualities in ((), (0,), (101,), (50, 0), (50, 101)):
        with pytest.raises(ValueError, match="qualities must be one or more integers in 1…100, got") as caught:
            accuracy.check(qualities, "4:2:0")
        assert repr(qualities) in str(caught.value)
    with pytest.raises(ValueError, match=r"subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:0'"):
        accuracy.check((50,), "4:1:0")


def test_images_of_a_folder_become_as_high_as_those_to_train_on(tmp_path: Path) -> None:
    folder = str(folder_of(*patterns(4, seed=0), tmp_path / "tree"))
    for side in (16, 24):
        like = stored(torch.zeros(1, 3, side, side), torch.zeros(1, dtype=torch.int64))
        assert accuracy.images(folder, like).shape == (3, side, side)
    oblong = stored(torch.zeros(1, 3, 16, 24), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"test must hold images of shape \(3, 16, 24\), got \(3, 16, 16\)"):
        accuracy.images(folder, oblong)


def test_files_are_pillows_and_clean_images_are_bytes() -> None:
    bytes_ = to_bytes(X[:3])
    clean = accuracy.by_pillow(X[:3], None, "4:2:0")
    assert clean.dtype == torch.float32
    assert torch.equal((clean * 255).round().byte(), bytes_)
    for quality, subsampling in ((30, "4:2:0"), (30, "4:4:4"), (80, "4:2:0")):
        expected = torch.stack([to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0]) for image in bytes_])
        seen = accuracy.by_pillow(X[:3], quality, subsampling)
        assert seen.dtype == torch.float32
        assert torch.equal(seen, expected.float() / 255)


class Judge(nn.Module):
    """Answers by a table of classes: the image with the number n gets the n-th."""

    def __init__(self, answers: list[int]) -> None:
        super().__init__()
        self.answers = torch.tensor(answers)
        self.judged: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        numbers = (images[:, 0, 0, 0] * 255).round().long()
        self.judged.append(len(images))
        return nn.functional.one_hot(self.answers[numbers], 4).half()


def test_every_image_counts_once_and_pairs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Constant images survive JPEG at quality 100, so that each keeps its number.
    numbered = (torch.arange(70) / 255).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()
    labels = torch.arange(70) % 4
    right, wrong = labels.tolist(), ((labels + 1) % 4).tolist()
    # Of 70: 40 both right, 9 only before, 13 only after, 8 none; 64 are judged at once, and then 6.
    before = Judge([*right[:49], *wrong[49:]])
    after = Judge([*right[:40], *wrong[40:49], *right[49:62], *wrong[62:]])
    run, summed = Run(tmp_path, {}, quiet=True), []
    total = run.total
    monkeypatch.setattr(run, "total", lambda counts: (summed.append(counts.dtype), total(counts))[1])
    rows = accuracy.measure(run, stored(numbered, labels), before, after, (100,), "4:4:4")
    assert summed == [torch.float64]  # exact up to 2^53 images
    assert rows == [Row(None, "4:4:4", 70, 49, 53, 13, 9), Row(100, "4:4:4", 70, 49, 53, 13, 9)]
    assert before.judged == after.judged == [64, 64, 6, 6]


def test_measuring_leaves_no_graph_and_judges_the_files_of_each_quality(tmp_path: Path) -> None:
    model = network()
    grads: list[bool] = []

    class Noting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images)
            grads.append(logits.requires_grad)
            return logits

    run = Run(tmp_path, {}, quiet=True)
    first, last = accuracy.measure(run, stored(X[:12], Y[:12]), model, Noting(), (5,), "4:2:0")
    for row, quality in ((first, None), (last, 5)):
        right = model(accuracy.by_pillow(X[:12], quality, "4:2:0")).argmax(dim=1) == Y[:12]
        assert (row.quality, row.before, row.after, row.gained, row.lost) == (quality, *[int(right.sum())] * 2, 0, 0)
    assert grads == [False, False]


def test_the_report_is_written_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plotting: MagicMock
) -> None:
    images = stored(X[:4], Y[:4])
    accuracy.write(tmp_path, ROWS, images, quiet=False)
    text = (tmp_path / "accuracy.json").read_text()
    assert text.startswith('{\n "images": {\n')  # a line for each figure
    assert text.endswith("}\n")
    report = json.loads(text)
    assert report["images"] == {"source": images.source, "digest": images.digest}
    assert [row["quality"] for row in report["rows"]] == [None, 75, 10]
    difference, low, high = ROWS[1].difference()
    assert report["rows"][1] == {
        "quality": 75,
        "subsampling": "4:2:0",
        "images": 200,
        "before": 100,
        "after": 150,
        "gained": 60,
        "lost": 10,
        "points": {"difference": difference, "low": low, "high": high},
    }
    lines = (tmp_path / "accuracy.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # By hand: 50 ± 1.96 · √(70 − 50²/200) / 2 points, for example.
    assert cells[:1] + cells[2:] == [
        ["quality", "before", "after", "difference in points, 95 %"],
        ["clean", "90.0 %", "95.0 %", "+5.0 (-1.2 … +11.2)"],
        ["75 (4:2:0)", "50.0 %", "75.0 %", "+25.0 (+17.6 … +32.4)"],
        ["10 (4:2:0)", "15.0 %", "10.0 %", "-5.0 (-8.0 … -2.0)"],
    ]
    said = capsys.readouterr()
    assert said.out == ""
    assert "Accuracy on 200 images" in said.err
    assert "75 (4:2:0)" in said.err
    assert "No plot" not in said.err
    plotting.Figure.return_value.savefig.assert_called_once_with(tmp_path / "accuracy.svg", format="svg")
    accuracy.write(tmp_path, ROWS, images, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_missing_matplotlib_is_named_with_the_extra_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def missing(*names: str) -> None:
        asked.append(names)
        raise MissingPackage('pip install "fdjpeg[bench]" 1')

    monkeypatch.setattr(accuracy, "required", missing)
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color")):  # where numbers would be coloured
        monkeypatch.setenv(name, value)
    accuracy.write(tmp_path, ROWS, stored(X[:4], Y[:4]), quiet=False)
    assert asked == [("matplotlib.figure", "matplotlib", "bench")]
    assert 'No plot: pip install "fdjpeg[bench]" 1\n' in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["accuracy.json", "accuracy.md"]


def test_the_plot_goes_from_0_to_100_percent_with_its_legend(plotting: MagicMock, tmp_path: Path) -> None:
    more = replace(ROWS[0], images=400)  # each line is a share of its own images
    accuracy._plot(tmp_path / "accuracy.svg", [more, *ROWS[1:]])
    plotting.imported.assert_called_once_with("matplotlib.figure", "matplotlib", "bench")
    plotting.Figure.assert_called_once_with(figsize=(6, 4), layout="constrained")
    axes = plotting.Figure.return_value.subplots.return_value
    axes.set.assert_called_once_with(
        xlabel="JPEG quality of Pillow's files (4:2:0)", ylabel="accuracy in %", ylim=(0, 100)
    )
    axes.legend.assert_called_once_with()
    colours = {call.kwargs["label"]: call.kwargs["color"] for call in axes.plot.call_args_list}
    assert colours == {"before": "C1", "after": "C0"}
    lines = {call.kwargs["label"]: (call.args, call.kwargs["color"]) for call in axes.axhline.call_args_list}
    assert lines == {"before, clean": ((45,), "C1"), "after, clean": ((47.5,), "C0")}


def test_a_row_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        ROWS[0].before = 200  # type: ignore[misc]
