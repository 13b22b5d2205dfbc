"""Feature distillation (Liu et al., arXiv 1803.05787) on the ResNet-18 that pyautoattack carries, and CIFAR-10.

    python benchmarks/papers/feature_distillation.py WORK --data cifar10.npz

cifar10.npz holds train_images, train_labels, test_images and test_labels, lossless. Attacks are on the bare network
(gray-box), as in the paper; two passes meet images that went through the first. Cells are written in the order of
their cost, the cheap ones first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experiment import Experiment, logits, number, options, percent, right, share
from torch import Tensor, nn

from fdjpeg import QuantTables, sources
from fdjpeg.attacks import PGD, CarliniWagner, CarliniWagnerL0, CarliniWagnerLinf, DeepFool, Flip, from_name
from fdjpeg.defenses import BitDepth, Defended, FeatureDistillation, FeatureSqueezing, Median, parse_defense
from fdjpeg.defenses.checkpoint import read_tensors, write_tensors
from fdjpeg.defenses.feature_distillation import BandStatistics

STEPS = (1, 10, 20, 30, 40, 50, 60, 80, 100)
FINE = (0, 1, 3, 6, 10, 15, 21, 28, 36, 64)

#: The columns of the paper's comparison, and filters and tables more; total variation needs scikit-image.
ONE_PASS = (
    *("none", "bit-depth:5", "median:2", "total-variation:0.05", "jpeg:90"),
    *("feature-distillation:paper", "feature-distillation:uniform(30)"),
)
TWO_PASSES = (
    "feature-distillation:paper,passes=2,entry=after",
    "feature-distillation:uniform(30),passes=2,entry=after",
)


#: The gradients through which an attacker who knows the defence climbs, besides the search of coefficients.
AWARE = ("straight-through", "cubic")


def attack(name: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Returns an attack by its name in the tables; minimum-norm attacks have no radius."""
    kind, _, levels = name.partition(" ")
    if kind in ("FGSM", "BIM"):
        made = replace(from_name("fgsm" if kind == "FGSM" else "bim-10"), until_fooled=False)  # type: ignore[type-var]
        return lambda model, x, y: made(model, x, y, int(levels) / 255)
    least: Any = {
        "DeepFool": DeepFool(steps=20, candidates=3, norm="l2"),
        "CW2": CarliniWagner(steps=40, searches=3, step=0.02),
        "CW0": CarliniWagnerL0(steps=20, rounds=15, step=0.1),
        "CWi": CarliniWagnerLinf(steps=20, rounds=12, step=0.02),
    }[kind]
    widest = {"l2": 60.0, "l0": 3072.0, "linf": 1.0}[least.norm]
    return lambda model, x, y: least(model, x, y, widest)


#: With the number of images, of those that the network gets right.
ATTACKS = {
    "FGSM 2": 100,
    "FGSM 8": 100,
    "BIM 2": 100,
    "BIM 8": 100,
    "DeepFool": 60,
    "CWi": 20,
    "CW2": 20,
    "CW0": 20,
}


def adversarial(network: nn.Module, name: str, x: Tensor, y: Tensor, file: Path) -> Tensor:
    """Returns an attack's images, which are kept in a file."""
    if not file.exists():
        made = [attack(name)(network, *part) for part in zip(x.split(20), y.split(20), strict=True)]
        write_tensors(file, {"images": torch.cat(made)}, {})
    return read_tensors(file)[0]["images"]


def of_step(network: nn.Module, table: QuantTables, sets: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Returns what is right behind a table, for each set of images."""
    deployed = FeatureDistillation(steps=table.luma).deployed(network)
    return {name: share(right(deployed, x, y)) for name, (x, y) in sets.items()}


def judged(network: nn.Module, name: str, x: Tensor, y: Tensor, work: Path) -> dict[str, Any]:
    """Attacks once for all defences of one pass, and judges behind each."""
    x_adv = adversarial(network, name, x, y, work / f"{name}-{len(x)}.safetensors")
    return {defence: share(right(parse_defense(defence).deployed(network), x_adv, y)) for defence in ONE_PASS}


def judged_after(network: nn.Module, name: str, defended: Defended, x: Tensor, y: Tensor, work: Path) -> dict[str, Any]:
    """Attacks images behind the first of two passes, and judges behind the second."""
    placed = defended.entered(x)
    short = defended.name.partition(",")[0].rpartition(":")[2]
    x_adv = adversarial(network, name, placed, y, work / f"{name}-{len(x)}-{short}.safetensors")
    return {"clean": share(right(network, placed, y)), "right": share(right(defended.deployed(network), x_adv, y))}


def detector(network: nn.Module, held_out: Tensor) -> FeatureSqueezing:
    """Returns feature squeezing with 5 bits and the median, which refuses 5 % of clean images."""
    return FeatureSqueezing(network, [BitDepth(5), Median(2)]).calibrated(held_out, 0.05, at_once=100)


def detected(made: FeatureSqueezing, x_adv: Tensor, y: Tensor, clean: Tensor) -> dict[str, Any]:
    """Returns which of the images that fool the network are refused, and which clean ones."""
    out, plain = logits(made, x_adv), logits(made, clean)
    fooled = out[:, :-1].argmax(dim=1) != y
    refused = out.argmax(dim=1) == out.shape[1] - 1
    return {
        "detected": share(refused[fooled]),
        "through": share(fooled & ~refused),
        "false alarms": share(plain.argmax(dim=1) == plain.shape[1] - 1),
        "threshold": made.threshold,
    }


def adaptive(made: FeatureSqueezing, levels: int, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Aims at the likeliest wrong class through the detector, so that the score is in the loss."""
    aims = logits(made.network, x).scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    attack = PGD(steps=40, loss="margin", aim="given")
    parts = zip(x.split(50), aims.split(50), strict=True)
    return detected(made, torch.cat([attack(made, *part, levels / 255) for part in parts]), y, x)


def aware(network: nn.Module, defended: Defended, levels: int, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Attacks network and defence together: PGD through each gradient, and the quantized coefficients."""
    placed, deployed, eps = defended.entered(x), defended.deployed(network), levels / 255
    found = {"clean": share(right(deployed, placed, y))}
    worst = right(deployed, placed, y)
    for gradient in AWARE:
        model = defended.attacked(network, gradient)
        left = right(deployed, from_name("pgd-20").run(model, placed, y, eps, judge=deployed).x_adv, y)
        found[f"PGD-20, {gradient}"], worst = share(left), worst & left
    left = right(deployed, Flip(steps=20).run(defended.exposed(network), placed, y, eps, judge=deployed).x_adv, y)
    return found | {"Flip-20": share(left), "worst": share(worst & left)}


def mean(found: list[dict[str, Any] | None]) -> float | None:
    """Returns the mean share, or None where one is missing."""
    return None if None in found or not found else sum(one["percent"] for one in found if one) / len(found)


def report(run: Experiment) -> None:
    """Writes tables and plot."""
    defences = {name: [run.get(f"attack {one}", name) for one in ATTACKS] for name in ONE_PASS}
    for name in TWO_PASSES:
        defences[name] = [run.get(f"attack {one} on {name}", "right") for one in ATTACKS]
    rows = []
    for name, found in defences.items():
        clean = run.get("clean", name)
        some = [one for one in found if one]
        average = number(mean(found)) if None not in found else f"{number(mean(some))} of {len(some)} attacks"
        rows.append([name, percent(clean), *map(percent, found), average if some else "not run yet"])
    steps = [[str(step), *(percent(run.get(f"step {step}", kind)) for kind in ("clean", "BIM 2", "BIM 8", "DeepFool"))]
             for step in STEPS]  # fmt: skip
    fine = [
        [str(n), percent(run.get(f"fine bands {n}", "clean")), percent(run.get(f"fine bands {n}", "BIM 2"))]
        for n in FINE
    ]
    bands = run.get("bands", "largest") or []
    deviations = [
        [f"row {down}", *(f"{value:.1f}" for value in row)]
        for down, row in enumerate(run.get("deviations", "rows") or [])
    ]
    alarms = [
        [name, *(percent(run.get(f"detector, {name}", kind)) for kind in ("detected", "through", "false alarms"))]
        for name in ("FGSM 8", "BIM 8", "DeepFool", "adaptive 2", "adaptive 8")
    ]
    shown = (*(f"PGD-20, {gradient}" for gradient in AWARE), "Flip-20", "worst")
    known = [
        [f"{name}, {levels}/255", *(percent(run.get(f"aware {levels}, {name}", one)) for one in ("clean", *shown))]
        for name in (*ONE_PASS[-2:], *TWO_PASSES)
        for levels in (2, 8)
    ]
    run.write(
        [
            ("Right against an attacker who knows the defence", ["defence", "clean", *shown], known),
            (
                "Feature squeezing's detector (5 bits, median 2 × 2)",
                ["attack", "refused of those that fool", "fool and pass", "clean refused"],
                alarms,
            ),
            ("Right on attacked images, gray-box", ["defence", "clean", *ATTACKS, "mean, %"], rows),
            ("Against the step of a uniform table", ["step", "clean", "BIM 2/255", "BIM 8/255", "DeepFool"], steps),
            ("Against the number of fine bands (step 1; 40 elsewhere)", ["n", "clean", "BIM 2/255"], fine),
            ("Deviation of each band", ["", *(f"column {across}" for across in range(8))], deviations),
            ("The 15 bands of largest deviation", ["row, column", "deviation"],
             [[f"{down}, {across}", f"{value:.1f}"] for down, across, value in bands]),
        ]
    )  # fmt: skip

    def draw(axes: Any) -> None:
        for kind in ("clean", "BIM 2", "BIM 8", "DeepFool"):
            found = [(step, run.get(f"step {step}", kind)) for step in STEPS]
            found = [(step, value["percent"]) for step, value in found if value]
            axes[0].plot([step for step, _ in found], [value for _, value in found], "o-", label=kind)
        axes[0].set(xlabel="step", ylabel="right, %", ylim=(0, 100))
        axes[0].legend()
        found = [(n, run.get(f"fine bands {n}", "clean")) for n in FINE]
        axes[1].plot([n for n, value in found if value], [value["percent"] for _, value in found if value], "o-")
        axes[1].set(xlabel="bands with step 1", ylabel="right, clean, %")

    run.plot(draw, panels=2)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", default="cifar10.npz", help="The file cifar10.npz.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    title = "Feature distillation (arXiv 1803.05787), ResNet-18, CIFAR-10, gray-box"
    run = Experiment("feature_distillation", title, given.out, given.only)
    if not given.report:
        network = sources.load_network("resnet18-cifar10").module
        statistics = BandStatistics.none()
        statistics.add(sources.load_images(f"{given.data}:train").images)
        test = sources.load_images(f"{given.data}:test")
        seen, held_out = slice(0, 200), test.images[200:600]
        experiment(run, network, statistics, test.images[seen], test.labels[seen], held_out, given.work)
    report(run)


def experiment(
    run: Experiment,
    network: nn.Module,
    statistics: BandStatistics,
    images: Tensor,
    labels: Tensor,
    held_out: Tensor,
    work: Path,
) -> None:
    """Computes all cells; ``held_out`` are clean images for the detector's threshold."""
    run.cell("bands", lambda: {"largest": largest(statistics)})
    run.cell(
        "deviations", lambda: {"rows": [[round(float(value), 2) for value in row] for row in statistics.deviation]}
    )
    rows = right(network, images, labels).nonzero().flatten()
    run.cell("network", lambda: {"right": share(right(network, images, labels))})

    def first(count: int) -> tuple[Tensor, Tensor]:
        return images[rows[:count]], labels[rows[:count]]

    clean_names = [*ONE_PASS, *TWO_PASSES]
    run.cell("clean", lambda: {name: clean(network, parse_defense(name), images, labels) for name in clean_names})
    for name in ("FGSM 2", "FGSM 8", "BIM 2", "BIM 8", "DeepFool"):
        run.cell(f"attack {name}", lambda name=name: judged(network, name, *first(ATTACKS[name]), work))
    sets = {"clean": (images, labels)}
    for name in ("BIM 2", "BIM 8", "DeepFool"):
        x, y = first(ATTACKS[name])
        file = work / f"{name}-{len(x)}.safetensors"
        if file.exists():
            sets[name] = (adversarial(network, name, x, y, file), y)
    for step in STEPS:
        run.cell(f"step {step}", lambda step=step: of_step(network, QuantTables.flat(step), sets))
    fewer = {name: sets[name] for name in ("clean", "BIM 2") if name in sets}
    for n in FINE:
        table = QuantTables.feature_distillation(statistics.deviation, n, 1, 40)
        run.cell(f"fine bands {n}", lambda table=table: of_step(network, table, fewer))
    made = detector(network, held_out)
    for name in ("FGSM 8", "BIM 8", "DeepFool"):
        x, y = first(ATTACKS[name])
        file = work / f"{name}-{len(x)}.safetensors"
        run.cell(
            f"detector, {name}",
            lambda n=name, x=x, y=y, f=file: detected(made, adversarial(network, n, x, y, f), y, x),
        )
    for levels in (2, 8):
        run.cell(f"detector, adaptive {levels}", lambda levels=levels: adaptive(made, levels, *first(50)))
    for name in ("CWi", "CW2", "CW0"):
        run.cell(f"attack {name}", lambda name=name: judged(network, name, *first(ATTACKS[name]), work))
    for name, count in ATTACKS.items():
        for two in TWO_PASSES:
            defended = parse_defense(two)
            run.cell(
                f"attack {name} on {two}",
                lambda name=name, count=count, d=defended: judged_after(network, name, d, *first(count), work),
            )
    for name in (*ONE_PASS[-2:], *TWO_PASSES):
        for levels in (2, 8):
            known = parse_defense(name)
            run.cell(f"aware {levels}, {name}", lambda d=known, levels=levels: aware(network, d, levels, *first(50)))


def clean(network: nn.Module, defended: Defended, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Returns what is right without an attack."""
    return share(right(defended.deployed(network), defended.entered(images), labels))


def largest(statistics: BandStatistics) -> list[tuple[int, int, float]]:
    """Returns row, column and deviation of the 15 strongest bands."""
    values, places = statistics.deviation.flatten().topk(15)
    return [
        (int(place) // 8, int(place) % 8, round(float(value), 2)) for value, place in zip(values, places, strict=True)
    ]


if __name__ == "__main__":
    main()
