"""A report as one HTML page that needs no other file: Jinja2 fills ``report.html.jinja``, matplotlib draws."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fdjpeg._numbers import percent
from fdjpeg._packages import required
from fdjpeg.attacks import parse_eps

from . import charts
from .cells import Cell, Picture, png, rights
from .results import Results
from .text import Table, Text, printable


def html(results: Results, text: Text) -> str:
    """Returns the whole page.

    Raises:
        MissingPackage: if Jinja2 or matplotlib is not installed.
    """
    jinja2 = required("jinja2", "jinja2", "eval")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_finalized)
    template = environment.from_string(_resource("report.html.jinja"))
    whole: str = template.render(
        network=results.settings.model.name,
        style=_safe(_resource("report.css")),
        finding=text.finding,
        text=text,
        overview={"chart": _overview(results, text), "table": _grouped(text.overview, text.overview_caption)},
        attackers=_grouped(
            _without(text.table, "95 % interval"),
            "Images right under each kind of attacker; –: not part of this evaluation.",
        ),
        by_attack=text.by_attack and _grouped(text.by_attack, "Images right, worst case over gradients."),
        losses=_losses(results),
        legend=_legend(results),
        largest=_largest(results),
        scale=_scale(results),
        pictures=_pictures(results),
        run=_run(results, text),
        settings=json.dumps(results.settings.to_json(), indent=2, ensure_ascii=False),
    )
    return whole + "\n"


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _finalized(value: Any) -> Any:
    """Returns a value of the template as text that a page can hold; markup stays as it is."""
    return value if hasattr(value, "__html__") else printable(str(value))


def _safe(markup: str) -> Any:
    """Returns markup that was made here, and is not escaped again."""
    return required("markupsafe", "jinja2", "eval").Markup(markup)


def _grouped(table: Table, caption: str) -> dict[str, Any]:
    """Returns a table whose first column becomes a line above the rows that share it."""
    groups: list[dict[str, Any]] = []
    for name, *row in table.rows:
        if not groups or groups[-1]["name"] != name:
            groups.append({"name": name, "rows": []})
        groups[-1]["rows"].append(row)
    return {"caption": caption, "header": table.header[1:], "groups": groups}


def _without(table: Table, column: str) -> Table:
    """Returns a table without one of its columns."""
    place = table.header.index(column)
    header, *rows = ([*row[:place], *row[place + 1 :]] for row in (table.header, *table.rows))
    return Table(header, rows)


def _run(results: Results, text: Text) -> list[tuple[str, str]]:
    """Returns date, machine and everything else that a reader needs to judge or repeat the run."""
    run = results.settings.run
    return [
        ("date", run.date),
        ("machine", f"{run.processor}, {run.cores} cores, device {results.settings.device}"),
        ("threads", str(run.threads)),
        ("commit", run.commit),
        ("command", run.command),
        ("versions", ", ".join(f"{name} {version}" for name, version in results.settings.versions.items())),
        *(("origin", origin) for origin in text.origins),
    ]


# --- charts -----------------------------------------------------------------------------------------------------------


def _overview(results: Results, text: Text) -> Any:
    """Returns the chart in which defences are compared."""
    groups = [
        (defense, [charts.mark_of(row, results.count) for row in results.rows if row.defense == defense])
        for defense in results.defenses
    ]
    return _safe(charts.defences(groups, "Share of images right for each defence and radius. " + text.finding))


def _colours(results: Results) -> dict[str, str]:
    """Returns the style sheet's variable of each gradient in all drawings; the bare network's is ink."""
    variables = charts.GRADIENT_COLOURS
    named = {name: variables[number % len(variables)] for number, name in enumerate(results.gradients)}
    return {"bare network": "ink", **named}


def _legend(results: Results) -> list[dict[str, Any]]:
    """Returns a sample of each gradient's line and its name."""
    return [
        {"swatch": _safe(charts.swatch(number, colour)), "name": name}
        for number, (name, colour) in enumerate(_colours(results).items())
    ]


def _losses(results: Results) -> list[dict[str, Any]]:
    """Returns, for each defence, a chart of each attack at the largest radius."""
    groups = []
    for defense in results.defenses:
        drawn = [_loss_chart(results, defense, attack) for attack in results.settings.attacks]
        if any(drawn):
            groups.append({"name": defense, "charts": [chart for chart in drawn if chart]})
    return groups


def _loss_chart(results: Results, defense: str, attack: str) -> dict[str, Any] | None:
    """Returns the loss of an attack on a defence at each step; None for attacks without a loss."""
    cells = [
        (cell.gradient or "bare network", cell)
        for cell in results.select(defense, results.settings.eps[-1], attack=attack)
        if cell.threat in ("white-box", "adaptive") and len(cell.curve) > 2
    ]
    if not cells:
        return None
    ends = ", ".join(f"{name} from {cell.curve[0]:.3g} to {cell.curve[-1]:.3g}" for name, cell in cells)
    label = f"Loss of {attack} on {defense} at each step: {ends}"
    return {"name": attack, "svg": _safe(charts.losses(cells, _colours(results), label))}


# --- pictures ---------------------------------------------------------------------------------------------------------


def _scale(results: Results) -> str:
    """Returns how difference images are to be read."""
    if results.settings.norm == "linf":
        return f"In a difference, grey is no change, black −{_largest(results)} and white +{_largest(results)}."
    return "In a difference, grey is no change; its largest change is black or white."


def _largest(results: Results) -> str:
    return results.settings.eps[-1]


def _pictures(results: Results) -> list[dict[str, Any]]:
    """Returns the pictures of each defence at the largest radius."""
    groups = []
    for defense in results.defenses:
        cells = [cell for cell in results.select(defense, _largest(results)) if cell.pictures]
        strips = []
        for place in range(len(cells[0].pictures) if cells else 0):
            # The attack with the largest margin on this image.
            index = cells[0].pictures[place].index
            cell = max(cells, key=lambda cell, index=index: cell.margin[index])  # type: ignore[misc]
            strips.append(_strip(results, cell, cell.pictures[place]))
        if strips:
            groups.append({"name": defense, "strips": strips})
    return groups


def _strip(results: Results, cell: Cell, picture: Picture) -> dict[str, Any]:
    """Returns the pictures of one image, each with its reading by the network that it enters."""
    index = picture.index
    by = f"{cell.attack} through {cell.gradient}" if cell.gradient else str(cell.attack)
    label = int(results.images.labels[index])
    bare = results.clean("none")
    panels = [
        _panel("clean", picture.clean, "bare", _class(results, bare.predicted[index]), _verdict(bare, index)),
        _panel(f"adversarial, by {by}", picture.adversarial, "bare", *_bare_reading(results, picture, label)),
        _panel("difference", _difference(results, picture)),
    ]
    if cell.defense != "none":
        before = results.clean(cell.defense)
        panels += [
            _panel(
                "clean, behind the layer",
                picture.clean_defended,
                "defended",
                _class(results, before.predicted[index]),
                _verdict(before, index),
            ),
            _panel(
                "adversarial, behind the layer",
                picture.defended,
                "defended",
                _class(results, cell.predicted[index]),
                _verdict(cell, index),
            ),
        ]
    return {"title": f"{results.images.names[index]}, {_class(results, label)}", "panels": panels}


def _panel(name: str, image: Tensor, reader: str = "", seen: str = "", verdict: str = "") -> dict[str, str]:
    return {"name": name, "png": png(image), "reader": reader, "seen": seen, "verdict": verdict}


def _difference(results: Results, picture: Picture) -> Tensor:
    """Returns the change of an image around grey: the radius, or the largest change in L2, is black or white."""
    change = picture.adversarial.short() - picture.clean.short()
    linf = results.settings.norm == "linf"
    whole = 255 * float(parse_eps(_largest(results))) if linf else float(change.abs().max())
    return (127.5 + 127.5 * change / max(whole, 1e-9)).round().clamp(0, 255).to(torch.uint8)


def _class(results: Results, index: int) -> str:
    """Returns the name of a class with its number."""
    names: Sequence[str] = results.images.classes
    if index < 0:
        return "no class (NaN)"
    return f"{names[index]} ({index})" if index < len(names) else f"class {index}"


def _bare_reading(results: Results, picture: Picture, label: int) -> tuple[str, str]:
    return _class(results, picture.bare), "right" if picture.bare == label else "wrong"


def _verdict(cell: Cell, index: int) -> str:
    """Returns whether the first draw of a cell is right about an image, and the share of draws where they differ."""
    share = float(rights(cell)[index])
    return f"right in {percent(share)} % of draws" if 0 < share < 1 else "right" if share else "wrong"
