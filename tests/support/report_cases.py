"""Reports made of cells that are written down by hand, so that every figure is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fdjpeg.cli.evaluate_settings import PRESETS
from fdjpeg.evaluation import Cell, Report
from fdjpeg.evaluation.cells import Picture
from fdjpeg.evaluation.settings import ImageOrigin, NetworkOrigin, RunSettings
from fdjpeg.sources import ImageSet


def cell(defense: str, threat: str, predicted: list[int], eps: str | None = "1/255", **fields: object) -> Cell:
    """A cell of images of class 0."""
    chosen = {"right": [float(value == 0) for value in predicted], "margin": [0.0] * len(predicted), **fields}
    chosen.setdefault("attack", None if threat == "clean" else "PGD-20")
    indices = list(range(len(predicted)))
    return Cell(defense, threat, eps=eps, indices=indices, predicted=predicted, **chosen)  # type: ignore[arg-type]


CELLS = [
    cell("none", "clean", [0, 0, 0, 1], None),
    cell("jpeg:75", "clean", [0, 0, 0, 1], None),
    cell("none", "white-box", [1, 1, 1, 0]),  # the last is right only under attack: it does not count
    cell("none", "noise", [0, 0, 0, 1], attack="noise"),
    cell("jpeg:75", "noise", [0, 0, 0, 0], attack="noise"),
    cell("jpeg:75", "gray-box", [1, 0, 0, 1]),
    cell("jpeg:75", "adaptive", [0, 1, 0, 1], gradient="identity"),
    cell("jpeg:75", "adaptive", [0, 0, 0, 0], gradient="cubic"),
]


SETTINGS = RunSettings(
    images=ImageOrigin(4, source="here", terms="none", digest="", lattice_tried=4, on_lattice={}),
    model=NetworkOrigin("<net>", source="here", terms="none", digest=""),
    attacks={"PGD-20": {"steps": 20}},
    gradient_free=[],
    defenses={"jpeg:75": ["identity", "cubic"]},
    randomised=[],
    draws=20,
    transfer={},
    black_boxes=[],
    norm="linf",
    eps=["1/255"],
    batch_size=4,
    at_once=4,
    pictures=0,
    seed=0,
    checks=True,
    open=[],
    device="cpu",
    versions={"torch": "2"},
)


def made(*more: Cell, **settings: Any) -> Report:
    """Four images of class 0, right as in the cells above, so that the table is known."""
    images = ImageSet(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), ("a", "b", "c", "d"))
    return Report(replace(SETTINGS, **settings), [*CELLS, *more], images)


#: Names that break pages which do not escape them, drawings which read them as formulas, and narrow screens.
HOSTILE = "</script><img src=x onerror=alert(1)> --> $\\frac{a}$ & \x1b[31m “quoted” 'n' \udcff " + 40 * "m"


def crowded() -> Report:
    """A report as the preset "full" makes it, with pictures, certificates and hostile names: the page's worst case."""
    names = [name if isinstance(name, str) else str(name) for name in PRESETS["full"]["defense"]]
    gradients = [*PRESETS["full"]["gradient"], "a-gradient-of-the-user's-own"]
    attacks = ["PGD-100x5", "PGD-margin-100x5", "Flip-100x5", "APGD-CE-100", "APGD-T-100", "FAB-100", "Square-5000"]
    radii = PRESETS["full"]["eps"]
    defenses = {name: list(gradients) for name in [*names, f"module:{HOSTILE}"]}
    generator = torch.Generator().manual_seed(0)
    images = ImageSet(
        torch.rand(12, 3, 32, 32, generator=generator),
        torch.zeros(12, dtype=torch.int64),
        tuple(f"{HOSTILE}{number}" for number in range(12)),
        classes=(f"class {HOSTILE}", "crane"),
    )

    def judged(defense: str, threat: str, eps: str | None, **fields: Any) -> Cell:
        predicted = torch.randint(0, 2, (12,), generator=generator).tolist()
        loss = torch.rand(21, generator=generator).mul(1e5).cumsum(0).tolist()
        return cell(defense, threat, predicted, eps, **{"attacked": 12, "loss": loss, **fields})

    cells = []
    for defense in ("none", *defenses):
        cells.append(judged(defense, "clean", None, loss=[]))
        for eps in radii:
            cells.append(judged(defense, "noise", eps, attack="noise", loss=[]))
            cells.append(judged(defense, "transfer", eps, attack=attacks[0], source="other", loss=[]))
            cells.append(judged(defense, "black-box", eps, attack="Square-5000", loss=[]))
            threat = "white-box" if defense == "none" else "adaptive"
            for attack in attacks[:-1]:
                for gradient in [None] if defense == "none" else gradients:
                    shown = [_picture(index, generator) for index in range(2)] if eps == radii[-1] else []
                    cells.append(judged(defense, threat, eps, attack=attack, gradient=gradient, pictures=shown))
            if defense != "none":
                cells.append(judged(defense, "gray-box", eps, attack=attacks[0], loss=[]))
    settings = replace(
        SETTINGS,
        attacks={name: {} for name in attacks},
        gradient_free=["Square-5000"],
        defenses=defenses,
        eps=radii,
        transfer={"other": "here"},
        pictures=2,
        model=replace(SETTINGS.model, name=HOSTILE),
        run=replace(SETTINGS.run, command=f"fdjpeg evaluate --model {HOSTILE}"),
    )
    return Report(settings, cells, images)


def _picture(index: int, generator: torch.Generator) -> Picture:
    clean, defended, behind = (torch.randint(0, 256, (3, 32, 32), generator=generator).byte() for _ in range(3))
    change = torch.randint(-8, 9, (3, 32, 32), generator=generator)
    return Picture(index, clean, (clean.short() + change).clamp(0, 255).byte(), defended, behind, bare=index - 1)
