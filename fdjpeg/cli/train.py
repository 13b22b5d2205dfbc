"""The command ``fdjpeg train``: makes a defence that needs data, and saves it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from fdjpeg import defenses, sources
from fdjpeg.defenses.recipes import RECIPES, recipe
from fdjpeg.defenses.training.images import load_training_images

from .console import console


def train(
    defense: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    data: Annotated[
        str, typer.Option(help='A folder of class folders, an .npz file ("cifar.npz:train"), or as for evaluate.')
    ],
    config: Annotated[str, typer.Option(help='A YAML file, or one that is packaged: "cifar10", "imagenet", "small".')],
    model: Annotated[
        str | None, typer.Option(help="The classifier to defend, by a name that evaluate takes; not all need one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the saved defence, and of what a stopped run goes on from.")] = (
        Path("fdjpeg-defense")
    ),
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels of the resized square; the model's own if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help='"auto", "cpu" or "cuda".')] = "auto",
    precision: Annotated[str, typer.Option(help='"32-true" or "bf16-mixed".')] = "32-true",
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
) -> None:
    """Trains a defence. A run that was stopped goes on where it was; for several GPUs start it by torchrun.

    Writes defense.safetensors, which `fdjpeg evaluate --defense saved:OUT` and `fdjpeg.defenses.load` take.
    """
    recipe(defense)
    network = None if model is None else sources.load_network(model)
    trained = defenses.train(
        defense,
        load_training_images(data, size if network is None else size or network.size),
        out,
        settings=config,
        network=network,
        device=device,
        precision=precision,
        workers=workers,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    console.print(f"{trained.kind}: {trained.extra_repr()}", soft_wrap=True, markup=False, highlight=False)
    for stage, epochs in json.loads((out / "training.json").read_text())["history"].items():
        losses = ", ".join(f"{name} {value:.4g}" for name, value in epochs[-1].items())
        console.print(f"  {stage}: {len(epochs)} epochs, {losses}", markup=False, highlight=False)
    console.print(f"Saved: {out / 'defense.safetensors'}", soft_wrap=True, markup=False, highlight=False)
