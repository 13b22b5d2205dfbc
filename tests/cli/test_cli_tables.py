"""The command ``fdjpeg tables``: its output, its files, and its messages about mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdjpeg import QuantTables
from fdjpeg.cli import main as cli
from fdjpeg.cli import table_picture
from fdjpeg.cli import tables as cli_tables
from fdjpeg.cli import tables_learn as cli_tables_learn
from fdjpeg.reference import real_idct


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["tables", *map(str, arguments)])
    return int(ended.value.code or 0)


def some_tables(rng: np.random.Generator, number: int = 3) -> QuantTables:
    return QuantTables(*rng.integers(1, 256, (number, 8, 8)))


def numbers_in(text: str) -> list[list[float]]:
    """The printed rows of eight numbers."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 8 and all(word.replace(".", "").isdigit() for word in words):
            rows.append([float(word) for word in words])
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# show


def test_show_prints_the_tables_of_a_quality(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", 75) == 0
    printed = capsys.readouterr().out
    expected = QuantTables.standard(75)
    assert numbers_in(printed) == torch.cat([expected.luma, expected.chroma]).tolist()
    assert f"Y, mean step {expected.luma.double().mean():.1f}" in printed
    assert "Cb and Cr" in printed


def test_show_names_the_components_of_each_table(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = some_tables(rng)
    tables.save(tmp_path / "three.txt")
    assert run("show", tmp_path / "three.txt") == 0
    printed = capsys.readouterr().out
    assert numbers_in(printed) == torch.cat([tables.y, tables.cb, tables.cr]).tolist()
    QuantTables.flat(9).save(tmp_path / "one.txt")
    assert run("show", tmp_path / "one.txt") == 0
    printed = capsys.readouterr().out
    assert "Y, Cb and Cr" in printed
    assert len(numbers_in(printed)) == 8


def test_show_draws_a_picture_in_which_larger_steps_are_darker(tmp_path: Path) -> None:
    ramp = torch.arange(1, 65).reshape(8, 8)
    QuantTables(ramp, ramp * 3).save(tmp_path / "tables.txt")
    assert run("show", tmp_path / "tables.txt", "--picture", tmp_path / "tables.png") == 0
    with Image.open(tmp_path / "tables.png") as image:
        shades = np.asarray(image.convert("L"))
        assert image.format == "PNG"
    assert len(np.unique(shades)) > 50
    means = []
    for step in (1, 16, 255):
        table_picture.draw(QuantTables.flat(step), tmp_path / f"{step}.png")
        with Image.open(tmp_path / f"{step}.png") as image:
            means.append(float(np.median(np.asarray(image.convert("L"))[60:-20, 20:-20])))
    assert means[0] > 245
    assert means[0] > means[1] > means[2]


# ---------------------------------------------------------------------------------------------------------------------
# convert


def test_convert_takes_the_tables_of_a_jpeg_file_to_text_and_json_and_back(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = some_tables(rng)
    Image.new("RGB", (8, 8)).save(tmp_path / "image.jpg", qtables=tables.to_pillow())
    assert run("convert", tmp_path / "image.jpg", tmp_path / "tables.txt") == 0
    assert QuantTables.load(tmp_path / "tables.txt") == tables
    assert run("convert", tmp_path / "tables.txt", tmp_path / "tables.json") == 0
    assert f"Written: {tmp_path / 'tables.json'}" in capsys.readouterr().out
    qtables = json.loads((tmp_path / "tables.json").read_text())
    Image.new("RGB", (8, 8)).save(tmp_path / "again.jpg", qtables=qtables)
    assert QuantTables.from_image(tmp_path / "again.jpg") == tables
    assert run("convert", tmp_path / "tables.json", tmp_path / "again.txt") == 0
    assert (tmp_path / "again.txt").read_text() == (tmp_path / "tables.txt").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# derive


def images_with_bands(rng: np.random.Generator, deviation: torch.Tensor, count: int = 6) -> list[Image.Image]:
    """Grey images whose DCT bands have given standard deviations."""
    images = []
    for _ in range(count):
        coefficients = torch.from_numpy(rng.normal(size=(16, 16, 8, 8))) * deviation
        samples = (real_idct(coefficients).transpose(1, 2).reshape(128, 128) + 128).round().clamp(0, 255)
        images.append(Image.fromarray(samples.to(torch.uint8).numpy()))
    return images


def test_derive_finds_the_bands_of_largest_deviation(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deviation = torch.from_numpy(rng.permutation(np.linspace(2, 8, 64))).reshape(8, 8)
    (tmp_path / "images" / "more").mkdir(parents=True)
    for number, image in enumerate(images_with_bands(rng, deviation)):
        folder = tmp_path / "images" if number % 2 else tmp_path / "images" / "more"
        image.convert("RGB" if number > 2 else "L").save(folder / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes.txt").write_text("no image either")

    target, picture = tmp_path / "tables.txt", tmp_path / "tables.png"
    options = ("--n", 20, "--fine", 2, "--coarse", 50, "--picture", picture)
    assert run("derive", tmp_path / "images", target, *options) == 0
    captured = capsys.readouterr()
    printed = torch.tensor(numbers_in(captured.out))
    torch.testing.assert_close(printed[:8].double(), deviation, rtol=0.1, atol=0.1)
    derived = QuantTables.load(target)
    assert torch.equal(derived.y, derived.cb)
    assert derived.y.unique().tolist() == [2, 50]
    assert int((derived.y == 2).sum()) == 20
    # Those that are clearly among the 20 largest, and clearly not.
    order = deviation.flatten().argsort(descending=True)
    assert bool((derived.y.flatten()[order[:15]] == 2).all())
    assert bool((derived.y.flatten()[order[25:]] == 50).all())
    assert "Left out" in captured.err.replace("\n", " ")
    assert "broken.png" in captured.err.replace("\n", "")
    assert picture.exists()


def test_band_deviation_is_that_of_all_coefficients_at_once(rng: np.random.Generator) -> None:
    from scipy.fft import dctn

    images = [
        rng.integers(0, 256, (channels, *size), dtype=np.uint8) for channels, size in ((3, (600, 17)), (1, (9, 40)))
    ]
    blocks = []
    for image in images:
        channels, height, width = image.shape
        whole = image[:, : height // 8 * 8, : width // 8 * 8].astype(float)
        split = whole.reshape(channels, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
        blocks.append(dctn(split, axes=(-2, -1), norm="ortho").reshape(-1, 8, 8))
    expected = np.concatenate(blocks).std(0)
    deviation = cli_tables.band_deviation(torch.tensor(image) for image in images)
    torch.testing.assert_close(deviation, torch.from_numpy(expected))


# ---------------------------------------------------------------------------------------------------------------------
# learn


def always_the_second() -> torch.nn.Module:
    """A classifier that `--model` can name; it looks at the red channel's mean."""

    class Reddish(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            red = x[:, 0].mean((1, 2))
            return torch.stack([0.5 - red, red - 0.5], 1)

    return Reddish()


def some_photographs(rng: np.random.Generator, folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    for number in range(count):
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_learn_writes_tables_pictures_a_plot_and_results(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = some_photographs(rng, tmp_path / "images"), tmp_path / "out"
    options = ("--quality", 50, 70, "--iterations", 5, "--batch-size", 4, "--size", 32)
    assert run("learn", folder, out, *options) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "On 2 held-out images of 32 × 32 pixels" in printed
    assert "Near quality 70 the learned tables take" in printed
    assert "held-out images are few: such an interval is too narrow. Take 30 or more" in printed
    assert "MS-SSIM has 2 of its 5 scales here" in printed
    results = json.loads((out / "results.json").read_text())
    assert set(results["ratios"]) == {"50", "70"}
    assert results["settings"]["learned on"] == 6
    found = results["ratios"]["50"]["bits at equal psnr"]
    assert found["low"] <= found["value"] <= found["high"]
    for quality in (50, 70):
        assert QuantTables.load(out / f"quality-{quality}.txt").to_pillow() == results["learned"][str(quality)]
        assert (out / f"quality-{quality}.png").exists()
    pytest.importorskip("matplotlib")
    with Image.open(out / "curve.png") as plot:
        assert plot.width > 500


def test_learn_goes_on_where_it_was_and_starts_afresh_for_other_settings(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = some_photographs(rng, tmp_path / "images"), tmp_path / "out"
    options = ("--iterations", 5, "--batch-size", 4, "--size", 16)
    calls = []
    learn_tables = cli_tables_learn.learn_tables
    monkeypatch.setattr(
        cli_tables_learn, "learn_tables", lambda *given, **named: calls.append(1) or learn_tables(*given, **named)
    )
    assert run("learn", folder, out, "--quality", "50", *options) == 0
    first = (out / "quality-50.txt").read_text()
    assert run("learn", folder, out, "--quality", 50, 80, *options) == 0
    assert len(calls) == 2
    assert (out / "quality-50.txt").read_text() == first
    assert run("learn", folder, out, "--quality", "50", *options, "--seed", 1) == 0
    assert len(calls) == 3


def test_learn_for_a_classifier_counts_its_answers(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = some_photographs(rng, tmp_path / "images"), tmp_path / "out"
    options = ("--quality", 50, "--iterations", 10, "--batch-size", 4, "--size", 16, "--loss", "classifier")
    assert run("learn", folder, out, *options, "--model", f"{__name__}:always_the_second") == 0
    assert "The same accuracy" in capsys.readouterr().out
    samples = rng.integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "arrays.npz", train_images=samples, train_labels=np.arange(8) % 2)
    arrays = f"{tmp_path / 'arrays.npz'}:train"
    assert run("learn", arrays, out, *options, "--held-out", arrays, "--model", f"{__name__}:always_the_second") == 0
    assert json.loads((out / "results.json").read_text())["settings"]["measured on"] == 8


def test_mistakes_of_learn_are_told_in_a_sentence(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = some_photographs(rng, tmp_path / "images", 3), tmp_path / "out"

    def complaint(*arguments: object) -> str:
        assert run("learn", *arguments) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "quality must be whole numbers in 5…95" in complaint(folder, out, "--quality", 50, 99)
    assert "loss must be one of psnr, mse, ms-ssim or classifier" in complaint(folder, out, "--loss", "lpips")
    assert "model must name a classifier where the loss is one's" in complaint(folder, out, "--loss", "classifier")
    assert "subsampling must be one of 4:4:4, 4:2:2, 4:2:0" in complaint(folder, out, "--subsampling", "4:4:0")
    assert "images must be at least 4" in complaint(folder, out, "--size", 16)
    assert "share must be one of" in complaint(folder, out, "--held-out", folder, "--size", 16, "--share", "luma")
    assert "data must be" in complaint(tmp_path / "nowhere", out)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_mistakes_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def complaint(*arguments: object) -> str:
        assert run(*arguments) == 2
        return capsys.readouterr().err

    (tmp_path / "words.txt").write_text("one two")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "empty").mkdir()
    assert "source must be a quality or a file that can be read" in complaint("show", "nowhere")
    assert "quality must be in 1…100, got 0\n" in complaint("show", "0")
    assert "quality must be in 1…100, got 100.5\n" in complaint("show", "100.5")
    assert "file must hold integers" in complaint("show", tmp_path / "words.txt")
    assert "source must hold a list of tables" in complaint("show", tmp_path / "bad.json")
    assert "source must hold a list of tables" in complaint("show", tmp_path / "number.json")
    assert "picture must be a .png file" in complaint("show", 75, "--picture", tmp_path / "picture.jpg")
    assert "picture must be a file that can be written" in complaint(
        "show", 75, "--picture", tmp_path / "nowhere" / "picture.png"
    )
    assert "target must be a file that can be written" in complaint("convert", 75, tmp_path / "nowhere" / "a.txt")
    assert "folder must hold images" in complaint("derive", tmp_path / "empty", tmp_path / "a.txt")
    assert "folder must hold images" in complaint("derive", tmp_path / "nowhere", tmp_path / "a.txt")
    Image.new("L", (7, 30)).save(tmp_path / "empty" / "small.png")
    assert "images must hold at least one block" in complaint("derive", tmp_path / "empty", tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()
