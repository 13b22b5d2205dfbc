"""Compression-augmented fine-tuning: the cost of the augmentation, and the accuracy that it wins on real files.

    python benchmarks/finetuning.py speed OUT.json
    python benchmarks/finetuning.py train cifar10.npz FOLDER --seed 0   # and 1, 2; resumes where it was stopped
    python benchmarks/finetuning.py accuracy FOLDER OUT.json

cifar10.npz holds train_images, train_labels, test_images and test_labels, lossless. ``speed`` measures all ways of
compressing a batch at random in turns in one run, and prints medians. Its ratios are medians over turns, each against
the same turn of Pillow in workers, so that they depend little on the machine's load.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from augmented_step import RANGE, share_of_a_step
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fdjpeg
from fdjpeg import defenses, sources
from fdjpeg._machine import describe_machine
from fdjpeg._packages import MissingPackage
from fdjpeg.bench.measure import photographs
from fdjpeg.defenses.fine_tuning import AugmentationSettings, Config, interpolated
from fdjpeg.defenses.training.accuracy import by_pillow
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import load_training_images

#: Batches, as images × side.
BATCHES = ((128, 32), (32, 224), (4, 1024))

#: The least time that one way is measured in each turn, in seconds.
TURN = 0.2

#: Files by which accuracy is judged: those of the claim, then a quality and a subsampling that training never drew.
FILES = (
    (None, "4:2:0"),
    (75, "4:2:0"),
    (50, "4:2:0"),
    (25, "4:2:0"),
    (10, "4:2:0"),
    (3, "4:2:0"),
    (50, "4:4:4"),
)
SEEDS = (0, 1, 2)

#: Of the way from the weights before to those trained: chosen on images to train on that a shorter training left out.
INTERPOLATION = 0.7


def settings(seed: int) -> Config:
    """Returns the settings of one seed's training.

    It has no teacher: the network gives its training images, clean, a mean confidence of 99.7 %, so that the divergence
    from its output there is cross-entropy once more.
    """
    return Config(
        seed=seed,
        teacher="none",
        augmentation=(AugmentationSettings("random-jpeg", quality=RANGE, p=0.75),),
        tuning=Schedule(epochs=2, batch_size=32, learning_rate=2e-4, augment="flip-crop"),
        qualities=(50,),
        validation=0.02,
    )


# --- speed ------------------------------------------------------------------------------------------------------------


class Pictures(Dataset[Tensor]):
    """Images that a worker compresses with Pillow, tensors in and out.

    Args:
        images: uint8 ``(N, 3, H, W)``.
        floats: whether tensors are float32 in [0, 1].
        rounds: how often each image is read in one pass.
    """

    def __init__(self, images: Tensor, floats: bool, rounds: int) -> None:
        self.images = images.float() / 255 if floats else images
        self.floats = floats
        self.rounds = rounds

    def __len__(self) -> int:
        return len(self.images) * self.rounds

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index % len(self.images)]
        pixels = (image * 255).round().byte() if self.floats else image
        file = io.BytesIO()
        quality = int(torch.randint(RANGE[0], RANGE[1] + 1, ()))
        Image.fromarray(pixels.movedim(0, -1).numpy()).save(file, "JPEG", quality=quality)
        out = torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0)
        return out.float() / 255 if self.floats else out


def in_workers(images: Tensor, floats: bool) -> Callable[[], int]:
    """Returns a call that reads images from as many workers as cores, and how many it read."""
    count, side = len(images), images.size(-1)
    data = Pictures(images, floats, max(1, round(1e7 / (count * side * side))))
    loader = DataLoader(data, batch_size=count, num_workers=torch.get_num_threads(), persistent_workers=True)

    def call() -> int:
        return sum(len(batch) for batch in loader)

    call()  # starts the workers
    return call


def ways(images: Tensor, threads: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yields each way of compressing a batch by name, with a call that returns how many images it made."""
    floats = images.float() / 255
    layer = fdjpeg.RandomJPEG(RANGE)
    for name, batch in (("uint8", images), ("float32", floats), ("bfloat16", floats.bfloat16())):
        for used in sorted({1, threads}):
            yield f"fdjpeg, {name}, {used} threads", _threaded(lambda batch=batch: len(layer(batch)), used)
    for name in ("uint8", "float32"):
        yield _pillow(threads, name), in_workers(images, name == "float32")
    try:
        from torchvision.transforms import v2

        transform = v2.JPEG(RANGE)
        yield "torchvision v2.JPEG, uint8", lambda: len([transform(image) for image in images])
    except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
        print(f"left out: torchvision ({error})")
    try:
        import albumentations

        compress = albumentations.ImageCompression(quality_range=RANGE, p=1)
        arrays = list(images.movedim(1, -1).contiguous().numpy())
        yield "albumentations ImageCompression, uint8", lambda: len([compress(image=one)["image"] for one in arrays])
    except ImportError as error:
        print(f"left out: albumentations ({error})")
    try:
        from kornia.augmentation import RandomJPEG

        theirs = RandomJPEG(tuple(map(float, RANGE)), p=1.0)
        yield "kornia RandomJPEG, float32", lambda: len(theirs(floats))
    except ImportError as error:
        print(f"left out: kornia ({error})")


def _pillow(workers: int, dtype: str) -> str:
    return f"Pillow in {workers} workers, {dtype}"


def _threaded(call: Callable[[], int], threads: int) -> Callable[[], int]:
    def limited() -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return call()
        finally:
            torch.set_num_threads(before)

    return limited


def in_turns(calls: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Returns seconds for each image, one figure for each turn of each call."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start, made = time.perf_counter(), 0
            while time.perf_counter() - start < TURN:
                made += call()
            found[name].append((time.perf_counter() - start) / made)
    return found


def ratio(slow: list[float], fast: list[float]) -> float:
    """Returns how often as fast a way is as another: the median over their turns."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def share(rounds: int) -> dict[str, Any]:
    """Measures the augmentation's share in a training step of ResNet-18."""
    images = (photographs(128, 32, 32).float() / 255).contiguous()
    network = sources.load_network("resnet18-cifar10").module
    return {"batch": "128×3×32×32", **share_of_a_step(network, images, 10, rounds)}


def speed(out: Path, rounds: int) -> None:
    """Measures, writes and prints."""
    threads, results = torch.get_num_threads(), []
    for count, side in BATCHES:
        images = photographs(count, side, side)
        found = in_turns(dict(ways(images, threads)), rounds)
        for name, times in found.items():
            row: dict[str, Any] = {"batch": f"{count}×{side}²", "way": name, "seconds": times}
            row["images_per_second"] = 1 / statistics.median(times)
            row["of_pillow"] = ratio(found[_pillow(threads, "uint8" if "uint8" in name else "float32")], times)
            print(
                f"{row['batch']:9} {name:44} {row['images_per_second']:12.1f} images/s  {row['of_pillow']:6.2f} ×",
                flush=True,
            )
            results.append(row)
    part = share(max(2, rounds // 3))
    print(f"share of a training step of ResNet-18: {part['share']:.4%}")
    _write(out, {"rates": results, "share_of_a_step": part})


# --- accuracy ---------------------------------------------------------------------------------------------------------


def train(npz: str, folder: Path, seed: int) -> None:
    """Fine-tunes the ResNet-18 for CIFAR-10 with one seed, and judges it; the first seed also judges it before.

    The weights are judged as trained, and those of ``INTERPOLATION``, which need no other training.
    """
    images, network = load_training_images(f"{npz}:train"), sources.load_network("resnet18-cifar10")
    out = folder / f"seed{seed}"
    if not (out / "training.json").exists():
        defenses.train("fine-tuning", images, out, settings=settings(seed), network=network, device="cpu")
    before, trained = network.module, defenses.load(out).deployed(network.module)
    if seed == SEEDS[0]:
        judge(npz, folder / "before.json", before)
    judge(npz, folder / f"seed{seed}.json", trained)
    between = copy.deepcopy(before)
    between.load_state_dict(interpolated(before.state_dict(), trained.state_dict(), INTERPOLATION))
    judge(npz, folder / f"seed{seed}-between.json", between)


def judge(npz: str, kept: Path, network: nn.Module) -> None:
    """Notes which test images a network gets right on each kind of file, unless they are known."""
    known: dict[str, list[bool]] = json.loads(kept.read_text()) if kept.exists() else {}
    test = sources.load_images(f"{npz}:test")
    for quality, subsampling in FILES:
        name = "clean" if quality is None else f"{quality} {subsampling}"
        if name in known:
            continue
        with torch.no_grad():
            parts = [network(by_pillow(part, quality, subsampling)).argmax(1) for part in test.images.split(64)]
        known[name] = (torch.cat(parts) == test.labels).tolist()
        kept.write_text(json.dumps(known))
        print(f"{kept.stem}, {name}: {100 * sum(known[name]) / len(test):.1f} %", flush=True)


def accuracy(folder: Path, out: Path) -> None:
    """Writes the mean of the seeds that are done, paired by image with the network before: as trained, and between."""
    before = json.loads((folder / "before.json").read_text())
    results: dict[str, Any] = {"images": len(before["clean"]), "interpolation": INTERPOLATION}
    for name, ending in (("trained", ""), ("between", "-between")):
        found = judged(folder, ending, len(before))
        rows = [paired(files, before[files], [one[files] for one in found.values()]) for files in before if found]
        results[name] = {"seeds": list(found), "rows": rows}
        for row in rows:
            low, high = row["interval"]
            change = f"{row['difference']:+5.1f} ({low:+.1f} … {high:+.1f})"
            print(f"{name:8} {row['files']:10} {row['before']:5.1f} → {row['after']:5.1f} %  {change}")
    runs = [json.loads((folder / f"seed{seed}" / "run.json").read_text()) for seed in results["trained"]["seeds"]]
    _write(out, {**results, "runs": runs})


def judged(folder: Path, ending: str, kinds: int) -> dict[int, dict[str, list[bool]]]:
    """Returns which images each seed's network gets right, of the seeds that are judged on all kinds of files."""
    found = {}
    for seed in SEEDS:
        file = folder / f"seed{seed}{ending}.json"
        rights = json.loads(file.read_text()) if file.exists() else {}
        if len(rights) == kinds:
            found[seed] = rights
    return found


def paired(files: str, before: list[bool], seeds: list[list[bool]]) -> dict[str, Any]:
    """Returns accuracies in percent, and their difference in points with its interval of 95 % over the images."""
    each = torch.tensor(seeds).double()
    gain = each.mean(0) - torch.tensor(before).double()
    error = 1.96 * float(gain.std()) / math.sqrt(len(gain))
    row: dict[str, Any] = {"files": files, "before": 100 * sum(before) / len(before), "after": 100 * float(each.mean())}
    row |= {"seeds": [100 * float(one) for one in each.mean(1)], "difference": 100 * float(gain.mean())}
    row["interval"] = [100 * (float(gain.mean()) - error), 100 * (float(gain.mean()) + error)]
    return row


def _write(out: Path, results: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": describe_machine(), **results}, indent=1, ensure_ascii=False)
    out.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Runs the command that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_speed = commands.add_parser("speed")
    of_speed.add_argument("out", type=Path)
    of_speed.add_argument("--rounds", type=int, default=15)
    of_training = commands.add_parser("train")
    of_training.add_argument("npz")
    of_training.add_argument("folder", type=Path)
    of_training.add_argument("--seed", type=int, choices=SEEDS, required=True)
    of_accuracy = commands.add_parser("accuracy")
    of_accuracy.add_argument("folder", type=Path)
    of_accuracy.add_argument("out", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "speed":
            speed(options.out, options.rounds)
        elif options.command == "train":
            train(options.npz, options.folder, options.seed)
        else:
            accuracy(options.folder, options.out)
    except MissingPackage as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
