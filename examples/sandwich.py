"""A sandwich: a pre- and a post-processor around JPEG, trained on distortion and rate, judged on real files.

    python examples/sandwich.py OUT.json [--images FOLDER]

Source: Guleryuz et al., "Sandwiched Compression", arXiv 2402.05887, in small. For each quality, two networks are
trained on mean squared error + λ · bits, the bits by `fdjpeg.rate` and the codec by `fdjpeg.jpeg`. λ is the slope of
plain JPEG at that quality, so that the same trade is asked of both. Files are then written and read by Pillow: their
bits, and the PSNR behind the post-processor, against plain JPEG at the same bits. About ten minutes on two cores. A run
that was stopped continues with the next quality.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crops import crops, photographs, split
from torch import Tensor, nn

import fdjpeg
from fdjpeg.bench.measure import describe_machine
from fdjpeg.sources.image_set import pillow_codec, to_bytes, to_pillow, to_tensor

SIDE = 64
QUALITIES = (15, 30, 50, 75)

#: Qualities of the curve of plain JPEG.
CURVE = (5, 8, 10, 13, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 85, 90)


class Residual(nn.Module):
    """Adds a correction to images; none at first."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        last = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers, last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns images of the same shape, not limited to [0, 1]."""
        out: Tensor = images + self.layers(images - 0.5)
        return out


def train(pictures: list[Tensor], quality: int, slope: float, steps: int) -> tuple[Residual, Residual]:
    """Trains both networks at one quality.

    Args:
        pictures: to cut crops from.
        quality: of the codec.
        slope: λ, squared levels of 255 for each bit of a pixel.
        steps: of the training.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    before, after = Residual(), Residual()
    optimizer = torch.optim.Adam([*before.parameters(), *after.parameters()], 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images = crops(pictures, 8, SIDE, generator)
        prepared = before(images).clamp(0, 1)
        bits = fdjpeg.rate(prepared, quality).mean() / SIDE**2
        error = 255**2 * (after(fdjpeg.jpeg(prepared, quality)) - images).square().mean()
        optimizer.zero_grad()
        (error + slope * bits).backward()
        nn.utils.clip_grad_norm_([*before.parameters(), *after.parameters()], 100 * max(slope, 1.0))
        optimizer.step()
        schedule.step()
    return before.eval(), after.eval()


@torch.no_grad()
def through_files(images: Tensor, quality: int, before: nn.Module, after: nn.Module) -> tuple[float, float]:
    """Returns bits for each pixel of Pillow's files, without headers, and the mean squared error in levels."""
    prepared = to_bytes(before(images).clamp(0, 1))
    decoded = [pillow_codec(to_pillow(image), quality, "4:2:0")[0] for image in prepared]
    out = after(torch.stack([to_tensor(image) for image in decoded]).float() / 255).clamp(0, 1)
    bits = fdjpeg.bits(fdjpeg.encode(prepared, quality)).double().mean() / SIDE**2
    return float(bits), float((255 * (out - images)).square().mean())


def main() -> None:
    """Measures plain JPEG, trains at each quality, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file of the results")
    parser.add_argument("--images", type=Path, help="folder of photographs; by default those that foolbox carries")
    parser.add_argument("--steps", type=int, default=800, help="training steps for each quality")
    parser.add_argument("--crops", type=int, default=200, help="crops to judge on")
    options = parser.parse_args()
    training, held_out = split(photographs(options.images))
    images = crops(held_out, options.crops, SIDE, torch.Generator().manual_seed(3))
    tuned = crops(training, 200, SIDE, torch.Generator().manual_seed(4))
    same = nn.Identity()
    curve = {quality: through_files(images, quality, same, same) for quality in CURVE}
    rates, psnrs = (np.array(values) for values in zip(*((bits, _psnr(e)) for bits, e in curve.values()), strict=True))
    plain_rows = [{"quality": q, "bits": bits, "psnr": _psnr(error)} for q, (bits, error) in curve.items()]
    kept = {"machine": describe_machine(), "steps": options.steps, "plain": plain_rows, "sandwich": {}}
    if options.out.exists():
        kept = json.loads(options.out.read_text())
    rows: dict[str, Any] = kept["sandwich"]
    print(f"files of Pillow at 4:2:0, {len(images)} crops of {SIDE}²; gain at the same bits as plain JPEG")
    for quality in QUALITIES:
        if str(quality) not in rows:
            (less, worse), (more, better) = (through_files(tuned, quality + d, same, same) for d in (-3, 3))
            slope = (worse - better) / (more - less)
            bits, error = through_files(images, quality, *train(training, quality, slope, options.steps))
            plain = float(np.interp(bits, rates, psnrs))
            rows[str(quality)] = {"slope": slope, "bits": bits, "psnr": _psnr(error), "plain_psnr": plain}
            options.out.write_text(json.dumps(kept, indent=1) + "\n")
        row = rows[str(quality)]
        print(
            f"quality {quality}: {row['bits']:.3f} bits a pixel, {row['psnr']:.2f} dB, "
            f"plain {row['plain_psnr']:.2f} dB, "
            f"{row['psnr'] - row['plain_psnr']:+.2f} dB (plain at this quality: {curve[quality][0]:.3f} bits, "
            f"{_psnr(curve[quality][1]):.2f} dB)",
            flush=True,
        )


def _psnr(error: float) -> float:
    return 10 * float(np.log10(255**2 / max(error, 1e-12)))


if __name__ == "__main__":
    main()
