"""Defensive distillation (Papernot et al., arXiv 1511.04508) on Fashion-MNIST.

    python benchmarks/papers/defensive_distillation.py WORK

The paper's network for MNIST, at each temperature: accuracy against the same network without distillation; JSMA as
published (source and target class, pairs of features, +1, probabilities at T = 1, at most 112 of 784 features); the
amplitude of the gradients; then JSMA on logits / T, a margin, and Carlini and Wagner's L2 attack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from experiment import Experiment, fashion, logits, number, options, percent, right, share, to_train_on
from small_networks import PAPERNOT, trained
from torch import Tensor, nn

from fdjpeg import defenses
from fdjpeg.attacks import JSMA, CarliniWagner, from_name
from fdjpeg.defenses import defensive_distillation
from fdjpeg.defenses.training.images import Images

SETTINGS = defensive_distillation.Config(widths=(32, 64, 200), training=PAPERNOT)
TEMPERATURES = (1, 2, 5, 10, 20, 30, 50, 100)

#: Epochs of the networks that are trained longer, to see whether the training is what costs accuracy at T = 100.
LONGER = 15

SEEDS = {1: (0, 1, 2), 20: (0, 1, 2), 100: (0, 1, 2)}

#: The paper's budget of JSMA for MNIST.
FEATURES = 112

#: The radius of the attacks in L∞.
EPS = 0.1


def distilled(temperature: int, seed: int, images: Images, work: Path, epochs: int | None = None) -> nn.Module:
    """Returns the network distilled at a temperature, as it is deployed; ``epochs`` replaces those of its schedule."""
    schedule = replace(PAPERNOT, epochs=epochs or PAPERNOT.epochs)
    settings = replace(SETTINGS, temperature=float(temperature), seed=seed, training=schedule)
    out = work / f"distilled-{temperature}-{seed}{f'-{epochs}-epochs' if epochs else ''}"
    defense = defenses.train("defensive-distillation", images, out, settings=settings, device="cpu", quiet=True)
    return defense.deployed(nn.Identity())


def chosen(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the first images that a model gets right, and their classes."""
    rows = right(model, images, labels).nonzero().flatten()[:count]
    return images[rows], labels[rows]


def saliency(model: nn.Module, images: Tensor, labels: Tensor, attack: JSMA) -> dict[str, Any]:
    """Attacks every image towards all nine other classes."""
    turns = torch.arange(1, 10)
    targets = (labels[:, None] + turns).remainder(10).flatten()
    found = [
        attack.run(model, x, y, FEATURES).distance
        for x, y in zip(images.repeat_interleave(9, 0).split(90), targets.split(90), strict=True)
    ]
    changed = torch.cat([part for part in found if part is not None])
    least = changed.view(-1, 9).amin(dim=1)
    return {
        "success": share(changed.isfinite()),
        "images": share(least.isfinite()),
        "features": float(changed[changed.isfinite()].mean()) if bool(changed.isfinite().any()) else None,
        # Where no target was reached, at least the budget is needed.
        "least": float(least.clamp_max(FEATURES).mean()),
    }


def gradients(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Measures the derivatives of all probabilities by all samples, at T = 1 in float32."""
    sums, zeros, total = 0.0, 0, 0
    for part in images.split(100):
        x = part.clone().requires_grad_()
        probabilities = model(x).softmax(dim=1)
        for label in range(probabilities.shape[1]):
            (found,) = torch.autograd.grad(probabilities[:, label].sum(), x, retain_graph=True)
            sums, zeros, total = (
                sums + float(found.abs().double().sum()),
                zeros + int((found == 0).sum()),
                total + found.numel(),
            )
    return {"amplitude": sums / total, "zero": 100 * zeros / total}


def saturating(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Takes twenty signed steps along the cross-entropy as float32 computes it, without any repair."""
    point = x
    for _ in range(20):
        point = point.detach().requires_grad_()
        (found,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        point = (x + (point + EPS / 8 * found.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    return point.detach()


def others(model: nn.Module, temperature: int, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Attacks that do not follow the saturated softmax, and one that does."""
    tempered = nn.Sequential(model, defensive_distillation.Tempered(temperature))
    least = CarliniWagner(steps=60, searches=4, step=0.02).run(model, images, labels, 3.0).distance
    assert least is not None
    return {
        "cross-entropy": share(~right(model, saturating(model, images, labels), labels)),
        "tempered": share(~right(model, saturating(tempered, images, labels), labels)),
        "margin": share(~right(model, from_name("pgd-margin-20")(model, images, labels, EPS), labels)),
        "CW": share(least < 2.0),
        "CW median": float(least.median()),
    }


def cells_of(
    run: Experiment, name: str, model: Callable[[], nn.Module], temperature: int, count: int, few: bool
) -> None:
    """Computes all cells of one network."""
    test = fashion("test", 2000)

    def some() -> tuple[Tensor, Tensor]:
        return chosen(model(), test.images, test.labels, count)

    published, broken = JSMA(target="given"), JSMA(target="given", temperature=float(temperature))
    run.cell(f"{name}: accuracy", lambda: {"right": share(right(model(), test.images, test.labels))})
    run.cell(f"{name}: JSMA", lambda: saliency(model(), *some(), published))
    if temperature > 1:
        run.cell(f"{name}: JSMA on logits / T", lambda: saliency(model(), *some(), broken))
    run.cell(f"{name}: gradients", lambda: gradients(model(), test.images[:100]) | gaps(model(), test.images[:1000]))
    if not few:
        run.cell(f"{name}: other attacks", lambda: others(model(), temperature, *some()))


def gaps(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Measures how far the largest logit is above the next: beyond about 100 the softmax has no gradient in float32."""
    top = logits(model, images).topk(2, dim=1).values
    return {"gap": float((top[:, 0] - top[:, 1]).median())}


def as_published(run: Experiment, key: str, bare: str) -> list[str]:
    """Returns a network's row of the paper's figures; its accuracy is compared with that of the network ``bare``."""
    accuracy, reference = run.get(f"{key}: accuracy", "right"), run.get(f"{bare}: accuracy", "right")
    change = f"{accuracy['percent'] - reference['percent']:+.1f}" if accuracy and reference else "not run yet"
    jsma, slopes = run.cells.get(f"{key}: JSMA", {}), run.cells.get(f"{key}: gradients", {})
    figures = [jsma.get("least"), *(slopes.get(name) for name in ("amplitude", "zero", "gap"))]
    return [key, percent(accuracy), change, percent(jsma.get("success")), *map(number, figures)]


def as_broken(run: Experiment, key: str) -> list[str]:
    """Returns a network's row of the attacks that do not follow its softmax."""
    other = run.cells.get(f"{key}: other attacks", {})
    distilled_hot = not key.startswith(("none", "T = 1,"))
    undone = percent(run.get(f"{key}: JSMA on logits / T", "success")) if distilled_hot else "–"
    names = ("cross-entropy", "tempered", "margin", "CW")
    return [key, percent(run.get(f"{key}: JSMA", "success")), undone, *(percent(other.get(name)) for name in names)]


def report(run: Experiment) -> None:
    """Writes tables and plot."""
    trained_alike = [("none", seed) for seed in (0, 1, 2)]
    distilled_ones = [(f"T = {t}", seed) for t in TEMPERATURES for seed in SEEDS.get(t, (0,))]
    keys = {f"{name}, seed {seed}": f"none, seed {seed}" for name, seed in (*trained_alike, *distilled_ones)}
    longer = f"none, {LONGER} epochs"
    head = [
        *("network", "accuracy", "change, points", "JSMA success", "least features", "mean gradient", "zero, %"),
        "median gap of logits",
    ]
    run.write(
        [
            ("As published", head, [as_published(run, key, bare) for key, bare in keys.items()]),
            (
                f"The break: share of attacks that succeed (L∞ of {EPS}, CW within L2 of 2)",
                ["network", "JSMA, T = 1", "JSMA, logits / T", "cross-entropy, T = 1", "cross-entropy, logits / T",
                 "margin", "CW L2"],
                [as_broken(run, key) for key in keys],
            ),
            (
                f"Trained for {LONGER} epochs instead of {PAPERNOT.epochs}",
                head,
                [as_published(run, key, longer) for key in (longer, f"T = 100, {LONGER} epochs")],
            ),
        ]
    )  # fmt: skip

    def draw(axes: Any) -> None:
        for label, end in (("JSMA as published", "JSMA"), ("JSMA on logits / T", "JSMA on logits / T")):
            found = [(t, run.get(f"T = {t}, seed 0: {end}", "success")) for t in TEMPERATURES]
            found = [(t, value) for t, value in found if value]
            axes[0].plot([t for t, _ in found], [value["percent"] for _, value in found], "o-", label=label)
        axes[0].set(xscale="log", xlabel="temperature", ylabel="success, %", ylim=(0, 100))
        axes[0].legend()
        found = [(t, run.get(f"T = {t}, seed 0: gradients", "amplitude")) for t in TEMPERATURES]
        found = [(t, value) for t, value in found if value]
        axes[1].plot([t for t, _ in found], [value for _, value in found], "o-")
        axes[1].set(xscale="log", yscale="log", xlabel="temperature", ylabel="mean |gradient| of the probabilities")

    run.plot(draw, panels=2)


def main() -> None:
    parser = options(__doc__, images=20)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[100, 20, 1, 2, 5, 10, 30, 50])
    parser.add_argument("--few", action="store_true", help="Without margin and CW.")
    given = parser.parse_args()
    run = Experiment.of("defensive_distillation", "Defensive distillation (arXiv 1511.04508) on Fashion-MNIST", given)
    if not given.report:
        images = to_train_on(given.train)
        # Networks are trained for the first cell that lacks a figure, and not where none does.
        for seed in range(given.seeds):
            bare = cache(lambda seed=seed: trained("Papernot", images, given.work, seed).module)
            cells_of(run, f"none, seed {seed}", bare, 1, given.images, given.few)
        for temperature in given.temperatures:
            for seed in SEEDS.get(temperature, (0,))[: given.seeds]:
                model = cache(partial(distilled, temperature, seed, images, given.work))
                cells_of(run, f"T = {temperature}, seed {seed}", model, temperature, given.images, given.few)
        longer = cache(lambda: trained("Papernot", images, given.work, epochs=LONGER).module)
        cells_of(run, f"none, {LONGER} epochs", longer, 1, given.images, few=True)
        longest = cache(partial(distilled, 100, 0, images, given.work, LONGER))
        cells_of(run, f"T = 100, {LONGER} epochs", longest, 100, given.images, few=True)
    report(run)


if __name__ == "__main__":
    main()
