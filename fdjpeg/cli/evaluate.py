"""The command ``fdjpeg evaluate``: measures defences by presets, options or a YAML file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fdjpeg import attacks, evaluation, sources
from fdjpeg.evaluation.world import World, device_here

from .console import ShowProgress, console, progress_bars
from .evaluate_settings import PRESETS, Settings, resolve


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Network: {', '.join(sources.PACKAGED)}, torchvision:NAME, timm:NAME, hf:NAME, "
            "robustbench:NAME, or module:callable, whose code runs."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: photographs, a folder of class folders, an .npz file of images and labels, "
            "cifar10:PLACE, mnist:FOLDER, fashion-mnist, torchvision:NAME, or hf:NAME."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the resized square in pixels; by default the network's own.")
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Defence, such as jpeg:75, jpeg:75,4:4:4, random-jpeg:30-95, stochastic-jpeg:20+40+60+80, "
            "feature-distillation:paper,passes=2, bit-depth:5, median:2, total-variation:0.05, saved:PATH or "
            "module:callable; one or more."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Attack, such as pgd-20x5 (steps × restarts) or square-5000: {', '.join(attacks.NAMES)}; one or more."
        ),
    ] = None,
    eps: Annotated[list[str] | None, typer.Option(help="Radius, such as 2/255; one or more.")] = None,
    norm: Annotated[str | None, typer.Option(help="Norm of the radius, linf or l2.")] = None,
    gradient: Annotated[
        list[str] | None, typer.Option(help="Gradient that an adaptive attacker tries on fdjpeg's layers; one or more.")
    ] = None,
    transfer: Annotated[
        list[str] | None, typer.Option(help="Another network, whose adversarial images are tried; one or more.")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Number of draws of a randomised defence for each gradient and verdict.")
    ] = None,
    checks: Annotated[
        bool | None, typer.Option("--checks/--no-checks", help="Sanity checks that need their own attacks.")
    ] = None,
    certify: Annotated[
        bool | None, typer.Option("--certify/--no-certify", help="Certificates: images that provably no attack breaks.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of images at once, in each process.")] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Number of images that report.html shows for each defence.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of the network, such as cuda.")] = None,
    preset: Annotated[str, typer.Option(help=f"Preset of all other settings: {', '.join(PRESETS)}.")] = "quick",
    config: Annotated[Path | None, typer.Option(help="YAML file with these options as keys.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the report, and of finished work from which a run resumes.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Share i/n of the work, without a report; a later run without --shard writes it."),
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Another --out folder with finished work to use; one or more.")
    ] = None,
    only_finished: Annotated[
        bool, typer.Option("--only-finished", help="Report on finished work, without computing anything.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if a check of the report failed.")] = False,
) -> None:
    """Attacks a network behind JPEG, and without it, and measures how much of the robustness is real.

    Without options it uses 20 photographs and an EfficientNet-Lite0 from installed packages; nothing is downloaded. It
    writes report.html, report.md, results.json and results.csv. A run that was stopped resumes where it was. Under
    torchrun the processes share the work; on a machine with several GPUs each uses its own.
    """
    options = locals()  # before any other name: the options as they are declared above, None where not given
    names = {item.name for item in fields(Settings)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    settings = resolve(preset, config, given)
    world = World.here()
    share = world.shard(shard)
    start = time.perf_counter()
    with progress_bars("images", visible=world.rank == 0) as bars:
        report = run(settings, share, merge or [], only_finished, bars("clean accuracy"))
    if world.rank > 0:
        return
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    took = f"Took {minutes} min {seconds} s on {report.settings.device}, {torch.get_num_threads()} threads."
    if shard is not None:
        console.print(f"Shard {shard} is finished, {report.count} images, in {settings.out}. {took}", soft_wrap=True)
        return
    files = report.save(settings.out)
    show(report)
    console.print(f"\n{took} Written:")
    for file in files:
        console.print(f"  {file}", soft_wrap=True)
    failed = [check for check in report.checks if not check.passed]
    if any(strict or check.stops for check in failed):
        raise typer.Exit(1)  # the report names the check at its top


def run(
    settings: Settings,
    world: World,
    merge: Sequence[Path],
    only_finished: bool,
    progress: ShowProgress | None,
) -> evaluation.Report:
    """Runs this process's share of the evaluation that the settings describe."""
    plan = settings.plan()  # first, so that mistakes are found before anything is loaded
    device = device_here(settings.device)
    network = sources.load_network(settings.model)
    others = [sources.load_network(name, "transfer") for name in settings.transfer]
    for each in (network, *others):
        each.module.to(device)
    images = sources.load_images(settings.data, settings.size or network.size, settings.images, settings.seed)
    return evaluation.evaluate(
        network,
        images,
        plan,
        transfer=others,
        out=settings.out,
        merge=merge,
        world=world,
        only_finished=only_finished,
        progress=progress,
    )


def show(report: evaluation.Report) -> None:
    """Prints the finding, the table with its notes, and the checks."""
    console.print(report.finding, style="bold")
    for sentence in report.summary():
        console.print(sentence, style="bold red")
    console.print(report.headline)
    _print_table(report.header, report.table)
    if len(report.settings.attacks) > 1:
        console.print("Each attack by itself, worst case over gradients:")
        _print_table(report.attacks_header, report.attacks_table)
    for sentence in report.findings:
        console.print(sentence)
    console.print()
    for note in report.notes:
        console.print(note, style="dim")
    console.print()
    for check in report.checks:
        verdict = ("passed", "") if check.passed else ("FAILED", "bold red")
        console.print(Text.assemble(verdict, f"  {check.name} ({check.figure})"))
    console.print()
    for origin in report.settings.origins:
        console.print(origin, style="dim")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; where it is wider than the terminal, one for each defence, with a column for each radius."""
    table = _table(header, rows)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    for defense in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == defense]
        console.print(f"\n{defense}", style="bold", soft_wrap=True)
        narrow = Table(box=None, header_style="", padding=(0, 2, 0, 0))
        for number, title in enumerate([header[1], *(row[1] for row in own)]):
            narrow.add_column(title, justify="right" if number else "left")
        for place, title in list(enumerate(header))[2:]:
            narrow.add_row(title, *(row[place] for row in own))
        console.print(narrow)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table for the terminal, its titles broken so that it fits into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if console.width >= 90 else 0)
    for number, title in enumerate(header):
        # At hyphens and at the last space.
        broken = "\n".join(title.replace("-", "-\n").rsplit(" ", 1))
        table.add_column(broken, justify="left" if number < 2 else "right", no_wrap=True)
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1][0] != row[0]
        table.add_row(*row, end_section=last)
    return table
