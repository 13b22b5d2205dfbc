"""The command ``fdjpeg tables learn``: tables learned from images, and the bits they save against the standard ones."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from fdjpeg import sources
from fdjpeg._calls import logits_of
from fdjpeg._geometry import PILLOW_SUBSAMPLINGS
from fdjpeg._whole_files import whole_file, writing
from fdjpeg.functional import encode
from fdjpeg.learning.metrics import ms_ssim_scales
from fdjpeg.learning.rate_distortion import Measured, Ratio, bits_ratio, measure
from fdjpeg.learning.tables import LOSSES, ClassifierLoss, learn_tables
from fdjpeg.learning.tables import Progress as StepsDone
from fdjpeg.rate import bits
from fdjpeg.sources.files import image_files
from fdjpeg.sources.image_set import fit, jpeg_traces, to_bytes, to_pillow, to_tensor
from fdjpeg.sources.networks import check_logits
from fdjpeg.tables import QuantTables

from .console import complain, complaints, console, progress_bars
from .image_files import read_image
from .table_picture import draw

#: The qualities of the standard tables between which their curve is interpolated.
CURVE = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90, 95)

#: Measures of quality: columns of `Measured`, with their names.
KEPT = {"psnr": "PSNR", "ms_ssim": "MS-SSIM", "correct": "accuracy"}

#: Held-out images below which the bootstrap's interval is named as doubtful.
FEW = 30

_IMAGES = "Folder of images, .npz file of images and labels (cifar10.npz:train), or photographs."


def learn(
    images: Annotated[str, typer.Argument(help=_IMAGES)],
    out: Annotated[Path, typer.Argument(help="Folder for the tables, the plot and results.json.")],
    quality: Annotated[
        list[int] | None,
        typer.Option(help="Quality whose tables set the number of bits; one or more, 25 50 75 by default."),
    ] = None,
    loss: Annotated[str, typer.Option(help=f"Loss: {', '.join(LOSSES)} or classifier.")] = "psnr",
    model: Annotated[
        str, typer.Option(help="Classifier whose accuracy is measured, named as for fdjpeg evaluate.")
    ] = "",
    held_out: Annotated[str, typer.Option(help="Images to measure on; by default a quarter of those given.")] = "",
    subsampling: Annotated[str, typer.Option(help="Subsampling, 4:4:4, 4:2:2 or 4:2:0.")] = "4:2:0",
    share: Annotated[str, typer.Option(help="Components that share a table: chroma, all or none.")] = "chroma",
    iterations: Annotated[int, typer.Option(min=5, help="Number of minibatches for each quality.")] = 300,
    batch_size: Annotated[int, typer.Option(min=2, help="Number of images in each minibatch.")] = 64,
    size: Annotated[
        int, typer.Option(min=8, help="Side of the resized square in pixels, for folders and photographs.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Learns tables that keep more of these images for the same bits, and measures the bits they save.

    For each quality the tables take as many bits as the standard ones. Held-out images are then written as files with
    them, and with the standard tables at many qualities, to compare the bits for equal quality. The folder receives the
    tables (for cjpeg -qtables, and as pictures), the curve and results.json. A stopped run resumes where it was.

    For a classifier the tables of highest PSNR are learned first; then a fifth as many minibatches of half the size go
    through the network. Without labels its answers to the uncompressed images count as right.
    """
    qualities = sorted(set(quality or (25, 50, 75)))
    if not CURVE[0] <= qualities[0] <= qualities[-1] <= CURVE[-1]:
        raise ValueError(f"quality must be whole numbers in {CURVE[0]}…{CURVE[-1]}, got {qualities}")
    _check_names(loss, model, subsampling)
    network = _network(model)
    learning, testing = _both(images, held_out, size, seed, network)
    for origin, found in (("learned from", learning), ("measured on", testing)):
        if traces := jpeg_traces(found.samples):
            complain("Note:", f"images {origin}: {traces}")
    if network is not None:
        _check_network(network, learning)
    with writing("out", out, "folder"):
        out.mkdir(parents=True, exist_ok=True)
    settings = {
        "images": images,
        "held out": held_out or "a quarter of the images",
        "learned on": len(learning.samples),
        "measured on": len(testing.samples),
        "height and width": list(testing.samples.shape[-2:]),
        "fingerprint": hashlib.sha256(learning.samples.numpy().tobytes()).hexdigest()[:16],
        "loss": loss,
        "model": model,
        "subsampling": subsampling,
        "share": share,
        "steps": iterations,  # the key under which kept results have it
        "batch size": batch_size,
        "seed": seed,
    }
    learned = _finished(out, settings)
    with progress_bars() as bars:
        for number in qualities:
            if number not in learned:
                learned[number] = _learned(
                    learning,
                    number,
                    network if loss == "classifier" else None,
                    bars(f"learning, quality {number}"),
                    loss=loss,
                    share=share,
                    subsampling=subsampling,
                    iterations=iterations,
                    batch_size=batch_size,
                    seed=seed,
                )
                _write_json(out, {"settings": settings, "learned": _as_lists(learned)})
        chosen = {number: learned[number] for number in qualities}
        every = [*map(QuantTables.standard, CURVE), *chosen.values()]
        measured, advance = [], bars("measuring")
        for tables in every:
            measured.append(
                measure(testing.samples, tables, subsampling=subsampling, model=network, labels=testing.labels)
            )
            advance(len(measured), len(every))
    curve, points = measured[: len(CURVE)], dict(zip(chosen, measured[len(CURVE) :], strict=True))
    ratios = {number: _ratios(point, curve) for number, point in points.items()}
    with writing("out", out, "folder"):
        files = _write_tables(out, chosen)
    files.append(
        _write_json(
            out,
            {
                "settings": settings,
                "learned": _as_lists(learned),
                "standard": {number: point.means() for number, point in zip(CURVE, curve, strict=True)},
                "points": {number: point.means() for number, point in points.items()},
                "ratios": {number: _plain(found) for number, found in ratios.items()},
            },
        )
    )
    files += _plot(out, curve, points)
    for sentence in _summary(testing, points, ratios):
        console.print(sentence, soft_wrap=True)
    console.print("\nWritten:")
    for file in files:
        console.print(f"  {file}", soft_wrap=True)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def _check_names(loss: str, model: str, subsampling: str) -> None:
    if loss not in (*LOSSES, "classifier"):
        raise ValueError(f"loss must be one of {', '.join(LOSSES)} or classifier, got {loss!r}")
    if loss == "classifier" and not model:
        raise ValueError("model must name a classifier where the loss is one's, got none")
    if subsampling not in PILLOW_SUBSAMPLINGS:
        raise ValueError(f"subsampling must be one of {', '.join(PILLOW_SUBSAMPLINGS)}, got {subsampling!r}")


def _network(model: str) -> nn.Module | None:
    """Loads the classifier in evaluation mode, its parameters without gradient; None if no model is named."""
    return sources.load_network(model).module.eval().requires_grad_(False) if model else None


@dataclass(frozen=True)
class _Images:
    """Images in memory, uint8 ``(N, C, H, W)``, with their labels ``(N,)`` if they have any."""

    samples: Tensor
    labels: Tensor | None


def _both(images: str, held_out: str, size: int, seed: int, network: nn.Module | None) -> tuple[_Images, _Images]:
    """Loads the images to learn from, and those to measure on."""
    learning = _load(images, size, network)
    if held_out:
        return learning, _load(held_out, size, network)
    count = len(learning.samples)
    if count < 4:
        raise ValueError(f"images must be at least 4, of which one is held out, got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")
    parts = order.split([count - count // 4, count // 4])
    first, second = (
        _Images(learning.samples[part], None if learning.labels is None else learning.labels[part]) for part in parts
    )
    return first, second


def _load(source: str, size: int, network: nn.Module | None) -> _Images:
    """Loads images by name; those without labels get the network's answers, if there is one."""
    folder = Path(source)
    if folder.is_dir() and not any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        read = (read_image(file) for file in image_files(folder, "images"))
        # All in colour, so that they make one batch.
        squares = [to_tensor(fit(to_pillow(image).convert("RGB"), size)) for image in read if image is not None]
        if not squares:
            raise ValueError(f"images must be a folder of images that Pillow reads, got {source!r} with none")
        samples = torch.stack(squares)
        return _Images(samples, None if network is None else _answers(network, samples))
    found = sources.load_images(source, size)
    return _Images(to_bytes(found.images), found.labels)


@torch.no_grad()
def _answers(network: nn.Module, samples: Tensor) -> Tensor:
    return torch.cat([logits_of(network, part.float() / 255).argmax(1) for part in samples.split(64)])


@torch.no_grad()
def _check_network(network: nn.Module, images: _Images) -> None:
    """Raises a ValueError about ``model`` if its outputs for the first images cannot be logits of their classes."""
    logits = logits_of(network, images.samples[:2].float() / 255)
    if images.labels is not None:
        check_logits(logits, images.labels)


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def _learned(
    images: _Images,
    quality: int,
    network: nn.Module | None,
    progress: StepsDone,
    *,
    loss: str,
    iterations: int,
    batch_size: int,
    **settings: Any,
) -> QuantTables:
    """Learns tables for as many bits as at ``quality``; for a network, those of highest PSNR first."""
    budget = bits(encode(images.samples, quality, subsampling=settings["subsampling"]))
    name = loss if network is None else "psnr"
    tables = learn_tables(
        images.samples, budget, name, iterations=iterations, batch_size=batch_size, progress=progress, **settings
    )
    if network is None:
        return tables
    return learn_tables(
        images.samples,
        budget,
        ClassifierLoss(network),
        labels=images.labels,
        start=tables,
        iterations=iterations // 5,
        batch_size=batch_size // 2,
        learning_rate=0.02,
        progress=progress,
        **settings,
    )


def _finished(out: Path, settings: dict[str, object]) -> dict[int, QuantTables]:
    """Returns the tables that an earlier run of the same settings left in ``results.json``."""
    try:
        state = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    if state.get("settings") != settings:
        return {}
    return {int(number): QuantTables.from_pillow(lists) for number, lists in state.get("learned", {}).items()}


def _as_lists(learned: dict[int, QuantTables]) -> dict[int, list[list[int]]]:
    return {number: tables.to_pillow() for number, tables in learned.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _ratios(point: Measured, curve: list[Measured]) -> dict[tuple[str, str], Ratio]:
    """Returns bits relative to the standard tables' at equal quality, by kind of bits and measure of quality."""
    found = {}
    for counted in ("bits", "file_bits"):
        for kept in KEPT:
            if getattr(point, kept) is not None:
                columns = [torch.stack([getattr(standard, name) for standard in curve]) for name in (counted, kept)]
                found[counted, kept] = bits_ratio(getattr(point, counted), getattr(point, kept), *columns)
    return found


def _plain(ratios: dict[tuple[str, str], Ratio]) -> dict[str, dict[str, float]]:
    return {f"{counted} at equal {kept}": ratio._asdict() for (counted, kept), ratio in ratios.items()}


def _summary(
    images: _Images, points: dict[int, Measured], ratios: dict[int, dict[tuple[str, str], Ratio]]
) -> Iterator[str]:
    """Yields the results in sentences."""
    count, _, height, width = images.samples.shape
    yield f"On {count} held-out images of {width} × {height} pixels, with the interval of 95 % of bootstrap resamples:"
    for number, point in points.items():
        means = point.means()
        yield f"\nNear quality {number} the learned tables take {means['bits']:.0f} bits an image, headers not counted."
        for kept, name in KEPT.items():
            if kept in means:
                value = f"{means[kept]:.2f} dB" if kept == "psnr" else f"{means[kept]:.4f}"
                yield (
                    f"  The same {name}, {value}, costs {ratios[number]['bits', kept]} of the standard tables' bits; "
                    f"with headers {ratios[number]['file_bits', kept]}."
                )
    if count < FEW:
        yield f"\n{count} held-out images are few: such an interval is too narrow. Take {FEW} or more for conclusions."
    if next(iter(points.values())).ms_ssim is not None and (scales := ms_ssim_scales(height, width)) < 5:
        yield f"\nMS-SSIM has {scales} of its 5 scales here: the images are too small for more."


def _write_tables(out: Path, learned: dict[int, QuantTables]) -> list[Path]:
    files = []
    for number, tables in learned.items():
        text, picture = out / f"quality-{number}.txt", out / f"quality-{number}.png"
        tables.save(text)
        files.append(text)
        if importlib.util.find_spec("matplotlib") is not None:
            draw(tables, picture)
            files.append(picture)
    return files


def _write_json(out: Path, content: dict[str, object]) -> Path:
    file = out / "results.json"
    with writing("out", out, "folder"), whole_file(file) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def _plot(out: Path, curve: list[Measured], points: dict[int, Measured]) -> list[Path]:
    """Draws quality over bits an image; if matplotlib is not installed, prints that instead."""
    if importlib.util.find_spec("matplotlib") is None:
        complaints.print('No pictures: matplotlib is not installed; pip install "fdjpeg[bench]" installs it.')
        return []
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    standard, learned = [point.means() for point in curve], [point.means() for point in points.values()]
    kept = [name for name in KEPT if name in standard[0]]
    figure = Figure(figsize=(4.2 * len(kept), 3.6), dpi=110, layout="constrained")
    for name, axis in zip(kept, figure.subplots(1, len(kept), squeeze=False)[0], strict=True):
        for label, means, style in (("standard tables", standard, ".-"), ("learned", learned, "o-")):
            axis.plot([mean["bits"] for mean in means], [mean[name] for mean in means], style, label=label)
        axis.set(xlabel="bits an image, without headers", ylabel=KEPT[name] + (", dB" * (name == "psnr")))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    file = out / "curve.png"
    with writing("out", out, "folder"), whole_file(file) as draft:
        figure.savefig(draft)
    return [file]
