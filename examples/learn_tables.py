"""Learns quantization tables from a folder of images, writes the images with them, and prints the gain.

    python examples/learn_tables.py my_photographs compressed --quality 60

The files take as many bits as Pillow's at that quality, and keep more of the image. Any decoder reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import fdjpeg
from fdjpeg.learning.rate_distortion import measure
from fdjpeg.learning.tables import learn_tables
from fdjpeg.sources.files import image_files, read_picture
from fdjpeg.sources.image_set import jpeg_traces, to_tensor

#: Side in pixels of the squares that are cut out of the images: a multiple of 16, so that no MCU is partial.
SIDE = 64


def squares(files: list[Path], count: int, generator: torch.Generator) -> torch.Tensor:
    """Returns uint8 ``(count, 3, SIDE, SIDE)``, cut at random places out of images taken in turn."""
    cut = []
    for number in range(count):
        image = read_picture(files[number % len(files)]).image.convert("RGB")
        left, top = (int(torch.randint(max(side - SIDE, 0) + 1, (), generator=generator)) for side in image.size)
        cut.append(to_tensor(image.crop((left, top, left + SIDE, top + SIDE))))
    return torch.stack(cut)


def main() -> None:
    """Learns, writes, and prints a line for each image and the mean gain."""
    parser = argparse.ArgumentParser(description="Learns tables from images, and writes the images with them.")
    parser.add_argument("images", type=Path, help="Folder of images.")
    parser.add_argument("out", type=Path, help="Folder for the files.")
    parser.add_argument("--quality", type=int, default=75, help="Quality whose bits the tables take.")
    parser.add_argument("--squares", type=int, default=256, help="Number of squares to learn from.")
    parser.add_argument("--iterations", type=int, default=150, help="Number of minibatches.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed.")
    options = parser.parse_args()

    files = image_files(options.images)
    if traces := jpeg_traces(to_tensor(read_picture(file).image.convert("RGB")) for file in files):
        print(f"Note: {traces}")
    learning = squares(files, options.squares, torch.Generator().manual_seed(options.seed))
    budget = fdjpeg.bits(fdjpeg.encode(learning, options.quality))
    tables = learn_tables(learning, budget, "psnr", iterations=options.iterations, seed=options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    tables.save(options.out / "tables.txt")
    standard = fdjpeg.QuantTables.standard(options.quality)
    gains = []
    for file in files:
        image = read_picture(file).image.convert("RGB")
        image.save(options.out / f"{file.stem}.jpg", qtables=tables.to_pillow(), subsampling="4:2:0")
        pixels = to_tensor(image)[None]
        ours, theirs = measure(pixels, tables).means(), measure(pixels, standard).means()
        gains.append(ours["psnr"] - theirs["psnr"])
        print(
            f"{file.name}: {theirs['file_bits'] / 8:.0f} bytes, {theirs['psnr']:.2f} dB with the standard tables; "
            f"{ours['file_bits'] / 8:.0f} bytes, {ours['psnr']:.2f} dB with the learned ones"
        )
    print(f"Mean gain: {sum(gains) / len(gains):+.2f} dB")


if __name__ == "__main__":
    main()
