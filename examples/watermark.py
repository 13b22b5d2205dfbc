"""A watermark that survives JPEG: trained through fdjpeg, kornia's layer and noise, judged on real files.

    python examples/watermark.py OUT.json [--images FOLDER]

An encoder adds a message of 16 bits to crops of 64 × 64 pixels, a decoder reads it. Between them is the channel: JPEG
at a random quality and 4:2:0 by fdjpeg (Pillow's bits), the same by kornia (an approximation), or Gaussian noise. All
three train alike from the same seed. The bits are then read from files that Pillow wrote, of crops that no training
saw. About ten minutes on two cores. A run that was stopped continues with the next channel.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from crops import crops, photographs, split
from torch import Tensor, nn

import fdjpeg
from fdjpeg.bench.measure import describe_machine
from fdjpeg.defenses.training.accuracy import by_pillow

SIDE, BITS = 64, 16
QUALITIES = (30, 40, 50, 60, 70, 80, 90, 95)

#: The greatest change of a sample.
AMPLITUDE = 8 / 255


class Encoder(nn.Module):
    """Adds a message to images: carriers for each bit, shaped by the image, at half its resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.carriers = nn.Parameter(torch.randn(BITS, 8, SIDE // 2, SIDE // 2) / 4)
        self.shaping = nn.Sequential(
            nn.Conv2d(11, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 1)
        )

    def forward(self, images: Tensor, message: Tensor) -> Tensor:
        """Returns images ``(N, 3, 64, 64)`` with the bits ``(N, 16)`` in them."""
        planes = torch.einsum("nb,bchw->nchw", 2 * message - 1, self.carriers)
        change = planes[:, :3] + self.shaping(torch.cat([planes, F.avg_pool2d(images, 2) - 0.5], dim=1))
        change = F.interpolate(change, scale_factor=2, mode="bilinear")
        return (images + AMPLITUDE * change.tanh()).clamp(0, 1)


class Decoder(nn.Module):
    """Reads the message: the correlation with the encoder's carriers, and a network that corrects it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))
        last = nn.Linear(16 * (SIDE // 4) ** 2, BITS)
        nn.init.zeros_(last.weight)
        self.correction = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            last,
        )

    def forward(self, images: Tensor, carriers: Tensor) -> Tensor:
        """Returns logits of the bits, ``(N, 16)``."""
        small = F.avg_pool2d(images, 2)
        fine = small - F.avg_pool2d(small, 5, stride=1, padding=2, count_include_pad=False)
        return self.gain * torch.einsum("nchw,bchw->nb", fine, carriers[:, :3]) + self.correction(fine)


def channels() -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns the channels to train through, by name."""
    found: dict[str, Callable[[Tensor], Tensor]] = {"fdjpeg": fdjpeg.RandomJPEG((30, 95))}
    try:
        from kornia.augmentation import RandomJPEG

        found["kornia"] = RandomJPEG((30.0, 95.0), p=1.0)
    except ImportError as error:
        print(f"left out: kornia ({error})")
    found["noise"] = lambda images: images + torch.randn_like(images) * 0.04
    return found


def train(channel: Callable[[Tensor], Tensor], pictures: list[Tensor], steps: int) -> tuple[Encoder, Decoder]:
    """Trains an encoder and a decoder through a channel."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = Encoder(), Decoder()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        images = crops(pictures, 16, SIDE, generator)
        message = torch.randint(2, (16, BITS), generator=generator).float()
        marked = encoder(images, message)
        bits = F.binary_cross_entropy_with_logits(decoder(channel(marked), encoder.carriers), message)
        # The message first; then as little change as it can do with.
        faint = 300 * min(max(3 * step / steps - 1, 0.0), 1.0)
        loss = bits + faint * (marked - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return encoder.eval(), decoder.eval()


@torch.no_grad()
def judge(encoder: Encoder, decoder: Decoder, images: Tensor) -> dict[str, Any]:
    """Returns the PSNR, and the share of right bits behind files of each quality with half its interval of 95 %."""
    message = torch.randint(2, (len(images), BITS), generator=torch.Generator().manual_seed(2)).float()
    marked = torch.cat([encoder(*some) for some in zip(images.split(100), message.split(100), strict=True)])
    psnr = -10 * (marked - images).square().flatten(1).mean(1).log10()
    found: dict[str, Any] = {"psnr": float(psnr.mean())}
    for quality in (None, *QUALITIES):
        seen = by_pillow(marked, quality, "4:2:0")
        logits = torch.cat([decoder(part, encoder.carriers) for part in seen.split(100)])
        right = ((logits > 0) == (message > 0.5)).float().mean(1)
        half = 1.96 * float(right.std()) / math.sqrt(len(right))
        found["clean" if quality is None else str(quality)] = [float(right.mean()), half]
    return found


def main() -> None:
    """Trains through each channel, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file of the results")
    parser.add_argument("--images", type=Path, help="folder of photographs; by default those that foolbox carries")
    parser.add_argument("--steps", type=int, default=1500, help="training steps")
    parser.add_argument("--crops", type=int, default=500, help="crops to judge on")
    options = parser.parse_args()
    training, held_out = split(photographs(options.images))
    images = crops(held_out, options.crops, SIDE, torch.Generator().manual_seed(3))
    kept = {"machine": describe_machine(), "steps": options.steps, "crops": len(images), "channels": {}}
    if options.out.exists():
        kept = json.loads(options.out.read_text())
    results: dict[str, Any] = kept["channels"]
    print(f"bits right in %, files of Pillow at 4:2:0, {len(images)} crops:")
    print(f"{'':8} {'dB':>6} {'clean':>6} " + " ".join(f"{quality:>11}" for quality in QUALITIES))
    for name, channel in channels().items():
        if name not in results:
            start = time.perf_counter()
            results[name] = judge(*train(channel, training, options.steps), images)
            results[name]["seconds"] = time.perf_counter() - start
            options.out.write_text(json.dumps(kept, indent=1) + "\n")
        cells = [results[name][str(quality)] for quality in QUALITIES]
        row = " ".join(f"{100 * mean:5.1f} ± {100 * half:3.1f}" for mean, half in cells)
        print(f"{name:8} {results[name]['psnr']:6.1f} {100 * results[name]['clean'][0]:6.1f} {row}", flush=True)


if __name__ == "__main__":
    main()
