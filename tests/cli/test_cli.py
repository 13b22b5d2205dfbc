"""The command ``fdjpeg``: its output, its files, and its messages about mistakes."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fdjpeg
from fdjpeg.cli import main as cli

SEED = 20_261


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8)


def run(*arguments: object) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_roundtrip_writes_what_pillow_decodes(tmp_path, capsys: pytest.CaptureFixture[str], channels: int) -> None:
    samples = noise(37, 50, channels)
    Image.fromarray(samples).save(tmp_path / "photo.png")
    assert (
        run("roundtrip", tmp_path / "photo.png", tmp_path / "out.png", "--quality", 60, "--subsampling", "4:2:2") == 0
    )

    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "JPEG", quality=60, subsampling=1)
    expected = np.asarray(Image.open(buffer))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)

    printed = capsys.readouterr().out
    error = np.mean((samples.astype(float) - expected) ** 2)
    assert f"{10 * math.log10(255**2 / error):.2f} dB" in printed
    assert f"{8 * buffer.tell() / (37 * 50):.3f} bits per pixel" in printed
    assert "yes, every sample" in printed
    assert "SSIM" in printed


def test_roundtrip_says_so_where_pillow_has_no_answer(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise(9, 10)).save(tmp_path / "photo.png")
    assert run("roundtrip", tmp_path / "photo.png", tmp_path / "out.png", "--subsampling", "4:4:0") == 0
    printed = capsys.readouterr().out
    assert "Pillow writes no 4:4:0" in printed
    assert "needs at least 11 × 11 pixels" in printed


def test_roundtrip_names_a_difference(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    Image.fromarray(noise(16, 16)).save(tmp_path / "photo.png")
    monkeypatch.setattr(fdjpeg, "jpeg", lambda image, *_, **__: image)
    run("roundtrip", tmp_path / "photo.png", tmp_path / "out.png")
    printed = capsys.readouterr().out
    assert "samples differ" in printed
    assert "no sample changed" in printed


def test_roundtrip_leaves_out_alpha_and_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise(12, 12)).convert("RGBA").save(tmp_path / "photo.png")
    assert run("roundtrip", tmp_path / "photo.png", tmp_path / "out.png") == 0
    assert "Transparency is left out" in capsys.readouterr().err


def test_roundtrip_refuses_with_a_sentence(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise(12, 12)).save(tmp_path / "photo.png")
    Image.fromarray(np.zeros((12, 12), np.float32)).save(tmp_path / "deep.tif")
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (65501, 1)).save(tmp_path / "long.png")
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    for arguments, message in (
        ((tmp_path / "nowhere.png", out), "source must be an image that Pillow reads"),
        ((tmp_path / "text.png", out), "source must be an image that Pillow reads"),
        ((tmp_path / "deep.tif", out), "samples of mode F have no agreed range"),
        ((tmp_path / "long.png", out), "source must be an image of at most 65500 × 65500 pixels"),
        ((photo, tmp_path / "out.jpg"), "target must end in one of .png"),
        ((photo, tmp_path / "no" / "out.png"), "target must be a file that can be written"),
        ((photo, out, "--subsampling", "4:1:0"), "subsampling"),
        ((photo, out, "--quality", "0"), "--quality"),
    ):
        assert run("roundtrip", *arguments) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_doctor_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    printed = capsys.readouterr().out
    assert "Self-check passed" in printed
    for word in (fdjpeg.__version__, torch.__version__, *fdjpeg.backends()):
        assert word in printed


def test_doctor_fails_when_a_bit_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    right = fdjpeg.jpeg

    def wrong(image: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        result = right(image, *arguments, **options)
        return result ^ 1 if result.shape[-1] == 23 and not result.is_floating_point() else result

    monkeypatch.setattr(fdjpeg, "jpeg", wrong)
    assert run("doctor") == 1
    assert "Self-check failed" in capsys.readouterr().err


def test_python_m_is_the_same_command() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "fdjpeg", "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    for command in ("evaluate", "roundtrip", "doctor"):
        assert command in finished.stdout
