"""The command ``fdjpeg evaluate``: what a defence is worth, from presets, options or a YAML file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fdjpeg import attacks, defenses, evaluation, sources
from fdjpeg._packages import required
from fdjpeg.evaluation.world import World, device_here

console = Console()
complaints = Console(stderr=True)


@dataclass(frozen=True)
class Settings:
    """All of a run; the keys of a YAML file are these names, and each but ``defense`` is as on the command line.

    The defaults are the preset "quick". ``defense`` is a list, or a mapping from defences to the gradients that an
    adaptive attacker tries on each.
    """

    model: str = "efficientnet-lite0"
    data: str = "photographs"
    size: int | None = None
    defense: list[str] | dict[str, list[str]] = field(
        default_factory=lambda: {"jpeg:75": ["cubic"], "jpeg:50": ["identity", "cubic"], "jpeg:25": ["cubic"]}
    )
    attack: list[str] = field(default_factory=lambda: ["pgd-20"])
    eps: list[str] = field(default_factory=lambda: ["1/255", "2/255"])
    norm: str = "linf"
    gradient: list[str] = field(default_factory=lambda: list(defenses.GRADIENTS))
    transfer: list[str] = field(default_factory=list)
    draws: int = 20
    checks: bool = True
    images: int = 20
    batch_size: int = 5
    pictures: int = 3
    seed: int = 0
    device: str = "cpu"
    out: str = "fdjpeg-evaluation"


#: What differs from ``Settings``' own defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {
        "defense": ["jpeg:75", "jpeg:50", "jpeg:25"],
        "attack": ["pgd-50", "pgd-margin-50", "square-1000"],
        "eps": ["1/255", "2/255", "4/255"],
        "gradient": ["identity", "straight-through", "cubic", "tanh"],
        "images": 200,
        "batch_size": 20,
    },
    "full": {
        "defense": [
            "jpeg:75",
            "jpeg:50",
            "jpeg:25",
            "feature-distillation:paper",
            "feature-distillation:code",
            "stochastic-jpeg:20+40+60+80",
        ],
        "attack": ["pgd-100x5", "pgd-margin-100x5", "apgd-ce-100", "apgd-t-100", "fab-100", "square-5000"],
        "eps": ["1/255", "2/255", "4/255", "8/255"],
        "gradient": ["identity", "straight-through", "cubic", "tanh", "fourier"],
        "images": 1000,
        "batch_size": 50,
    },
}


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(sources.PACKAGED)}, torchvision:NAME, timm:NAME, hf:NAME, or module:callable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="photographs, a folder of class folders, an .npz file of images and labels, torchvision:NAME, hf:NAME."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels of the resized square; the network's own if not given.")
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as jpeg:75, jpeg:75,4:4:4, random-jpeg:30-95, stochastic-jpeg:20+40+60+80, "
            "feature-distillation:paper,passes=2, saved:PATH or module:callable; repeatable."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Such as pgd-20x5 (steps × restarts) or square-5000; repeatable: {', '.join(attacks.NAMES)}."
        ),
    ] = None,
    eps: Annotated[list[str] | None, typer.Option(help="Radius, such as 2/255; repeatable.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2.")] = None,
    gradient: Annotated[
        list[str] | None, typer.Option(help="What an adaptive attacker tries on fdjpeg's layers; repeatable.")
    ] = None,
    transfer: Annotated[
        list[str] | None, typer.Option(help="Another network whose adversarial images are tried; repeatable.")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Draws of a randomised defence per gradient and verdict.")] = None,
    checks: Annotated[
        bool | None, typer.Option("--checks/--no-checks", help="Run the sanity checks that need attacks of their own.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="How many.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at once, in each process.")] = None,
    pictures: Annotated[int | None, typer.Option(help="Images of each defence that report.html shows.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    device: Annotated[str | None, typer.Option(help="Where the network runs, such as cuda.")] = None,
    preset: Annotated[str, typer.Option(help=f"What is not given otherwise: {', '.join(PRESETS)}.")] = "quick",
    config: Annotated[Path | None, typer.Option(help="A YAML file with these options as keys.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the report, and of finished work to go on from.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: only that share of the work, without a report; then run without --shard.")
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Another --out folder whose finished work is taken in; repeatable.")
    ] = None,
    only_finished: Annotated[
        bool, typer.Option("--only-finished", help="Compute nothing; report on what is finished.")
    ] = False,
) -> None:
    """Attacks a network behind JPEG, and without: how much of the robustness is real?

    Without options it takes 20 photographs and an EfficientNet-Lite0 that packages carry; nothing is downloaded. Writes
    report.html, report.md, results.json and results.csv. A run that was stopped goes on where it was. Under torchrun
    the processes share the work, and on a machine with several GPUs each takes its own.
    """
    given = {
        "model": model,
        "data": data,
        "size": size,
        "defense": defense,
        "attack": attack,
        "eps": eps,
        "norm": norm,
        "gradient": gradient,
        "transfer": transfer,
        "draws": draws,
        "checks": checks,
        "images": images,
        "batch_size": batch_size,
        "pictures": pictures,
        "seed": seed,
        "device": device,
        "out": out,
    }
    settings = resolve(preset, config, {name: value for name, value in given.items() if value is not None})
    world = World.here()
    share = world.shard(shard)
    start = time.perf_counter()
    with _progress(visible=world.rank == 0) as progress:
        report = run(settings, share, merge or [], only_finished, progress)
    if world.rank > 0:
        return
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    took = f"Took {minutes} min {seconds} s on {report.settings.device}, {torch.get_num_threads()} threads."
    if shard is not None:
        console.print(f"Shard {shard} is done, {report.count} images, in {settings.out}. {took}", highlight=False)
        return
    files = report.save(settings.out)
    show(report)
    console.print(f"\n{took} Written:", highlight=False)
    for file in files:
        console.print(f"  {file}", soft_wrap=True, markup=False, highlight=False)


def spread(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``fdjpeg evaluate`` with "--eps 1/255 2/255" written as "--eps 1/255 --eps 2/255".

    It has no arguments beside its options, so values that follow a value belong to the same option. The arguments of
    other commands stay as they are.
    """
    spread_out: list[str] = []
    option = None
    for number, argument in enumerate(arguments):
        if argument.startswith("-"):
            option = argument if argument in REPEATABLE else None
        elif option is not None and arguments[number - 1] != option:
            spread_out.append(option)
        spread_out.append(argument)
    return spread_out if list(arguments[:1]) == ["evaluate"] else list(arguments)


#: Options that take several values.
REPEATABLE = ("--defense", "--attack", "--eps", "--gradient", "--transfer", "--merge")


def resolve(preset: str, config: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a run: those given, else the file's, else the preset's.

    Raises:
        ValueError: for an unknown preset, a file that cannot be read, or a key or value in it that is no setting.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return Settings(**{**asdict(Settings()), **PRESETS[preset], **_read(config), **given})


def _read(config: Path | None) -> dict[str, Any]:
    """The settings of a YAML file, with single values made lists where lists are wanted."""
    if config is None:
        return {}
    yaml = required("yaml", "pyyaml", "train")
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config must be a YAML file that can be read, got {str(config)!r}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config must hold keys and values, got {str(config)!r} with {type(found).__name__}")
    kinds = {item.name: item.type for item in fields(Settings)}
    settings = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise ValueError(f"keys of a config must be among {', '.join(kinds)}, got {key!r} in {str(config)!r}")
        settings[name] = _checked(name, str(kinds[name]), value, config)
    return settings


def _checked(name: str, kind: str, value: Any, config: Path) -> Any:
    """A value of a YAML file as the setting wants it."""
    wrong = ValueError(f"{name} in {str(config)!r} must be {_KINDS[kind.split('[')[0].split(' ')[0]]}, got {value!r}")
    if kind.startswith("list"):
        if isinstance(value, dict) and "dict" in kind:
            return {str(key): _strings(tried, wrong) for key, tried in value.items()}
        return _strings(value, wrong)
    if kind == "bool":
        if not isinstance(value, bool):
            raise wrong
    elif kind.startswith("int"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong
    elif not isinstance(value, str):
        raise wrong
    return value


_KINDS = {"list": "a list of texts", "bool": "true or false", "int": "an integer", "str": "a text"}


def _strings(value: Any, wrong: ValueError) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in values):
        raise wrong
    return [str(item) for item in values]


def run(
    settings: Settings,
    world: World,
    merge: Sequence[Path],
    only_finished: bool,
    progress: Callable[[int, int, str], None] | None,
) -> evaluation.Report:
    """The evaluation that the settings describe, this process's share of it."""
    device = device_here(settings.device)
    network = sources.load_network(settings.model)
    network.module.to(device)
    images = sources.load_images(settings.data, settings.size or network.size, settings.images, settings.seed)
    others = [sources.load_network(name) for name in settings.transfer]
    for other in others:
        other.module.to(device)
    return evaluation.evaluate(
        network,
        images,
        defenses=settings.defense,
        attacks=settings.attack,
        eps=settings.eps,
        norm=settings.norm,
        gradients=settings.gradient,
        transfer=others,
        draws=settings.draws,
        checks=settings.checks,
        batch_size=settings.batch_size,
        pictures=settings.pictures,
        seed=settings.seed,
        out=settings.out,
        merge=merge,
        world=world,
        only_finished=only_finished,
        progress=progress,
    )


@contextmanager
def _progress(visible: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar on standard error, as what ``evaluation.evaluate`` calls."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=complaints, disable=not visible
    ) as bars:
        task = bars.add_task("clean accuracy", total=None)
        yield lambda done, total, doing: bars.update(task, completed=done, total=total, description=doing)


def show(report: evaluation.Report) -> None:
    """The table, what it means and the checks, on standard output."""
    for sentence in report.summary():
        console.print(f"[bold red]{escape(sentence)}[/]", highlight=False)
    console.print(report.headline, markup=False, highlight=False)
    console.print(_table(report.header, report.table))
    if len(report.settings.attacks) > 1:
        console.print("Each attack by itself, worst case over gradients:")
        console.print(_table(report.attacks_header, report.attacks_table))
    for sentence in report.findings:
        console.print(sentence, markup=False, highlight=False)
    console.print()
    for note in report.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    console.print()
    for check in report.checks:
        verdict = "passed" if check.passed else "[bold red]FAILED[/]"
        console.print(f"{verdict}  {escape(f'{check.name} ({check.figure})')}", highlight=False)
    console.print()
    for origin in report.settings.origins:
        console.print(origin, style="dim", markup=False, highlight=False)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if console.width >= 90 else 0)
    for number, title in enumerate(header):
        # Titles break at hyphens and at their last space, so that the table fits into 80 columns.
        broken = "\n".join(title.replace("-", "-\n").rsplit(" ", 1))
        table.add_column(broken, justify="left" if number < 2 else "right", overflow="fold")
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1][0] != row[0]
        table.add_row(*row, end_section=last)
    return table
