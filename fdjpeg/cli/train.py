"""The command ``fdjpeg train``: trains a defence that needs data, and saves it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fdjpeg import defenses, sources
from fdjpeg.defenses.fine_tuning import Config, parse_augmentation
from fdjpeg.defenses.recipes import RECIPES, recipe
from fdjpeg.defenses.training.config import read
from fdjpeg.defenses.training.images import load_training_images

from .console import console


def train(
    defense: Annotated[str, typer.Argument(help=f"Defence: {', '.join(RECIPES)}.")],
    data: Annotated[
        str,
        typer.Option(help='Images: a folder of class folders, an .npz file ("cifar10.npz:train"), or as for evaluate.'),
    ],
    config: Annotated[str, typer.Option(help="YAML file, or a packaged one: cifar10, fashion-mnist, imagenet, small.")],
    model: Annotated[
        str | None, typer.Option(help="Classifier to defend, named as for evaluate; not every defence needs one.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the saved defence, and of the state from which a stopped run resumes.")
    ] = (Path("fdjpeg-defense")),
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the resized square in pixels; by default the model's own.")
    ] = None,
    device: Annotated[str, typer.Option(help='Device: "auto", "cpu" or "cuda".')] = "auto",
    precision: Annotated[str, typer.Option(help='Precision: "32-true" or "bf16-mixed".')] = "32-true",
    workers: Annotated[int, typer.Option(help="Number of processes that read images.")] = 0,
    augmentation: Annotated[
        list[str] | None,
        typer.Option(help='Of fine-tuning, in place of the config\'s: "random-jpeg,quality=5-95,p=0.75"; one or more.'),
    ] = None,
) -> None:
    """Trains a defence. A stopped run resumes where it was; for several GPUs start it with torchrun.

    Writes defense.safetensors, which `fdjpeg evaluate --defense saved:OUT` and `fdjpeg.defenses.load` read.
    """
    settings: Any = config
    if augmentation:
        settings = _with_augmentation(defense, config, augmentation)
    recipe(defense)
    network = None if model is None else sources.load_network(model)
    trained = defenses.train(
        defense,
        load_training_images(data, size if network is None else size or network.size),
        out,
        settings=settings,
        network=network,
        device=device,
        precision=precision,
        workers=workers,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    console.print(f"{trained.kind}: {trained.extra_repr()}", soft_wrap=True)
    for stage, epochs in json.loads((out / "training.json").read_text())["history"].items():
        losses = ", ".join(f"{name} {value:.4g}" for name, value in epochs[-1].items())
        console.print(f"  {stage}: {len(epochs)} epochs, {losses}")
    console.print(f"Saved: {out / 'defense.safetensors'}", soft_wrap=True)


def _with_augmentation(defense: str, config: str, augmentation: list[str]) -> Config:
    """The settings of fine-tuning with the augmentations of the command line."""
    if defense != "fine-tuning":
        raise ValueError(f"augmentation must be left out for {defense}, got {augmentation[0]!r}")
    return replace(read(Config, config, defense), augmentation=tuple(map(parse_augmentation, augmentation)))
