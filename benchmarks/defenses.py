"""The table of docs/defenses.md: every defence of `fdjpeg.defenses` under attack, before a network for CIFAR-10.

    python benchmarks/defenses.py cifar10.npz OUT                              # a small network, trained here
    python benchmarks/defenses.py cifar10.npz OUT --network resnet18-cifar10   # the one that pyautoattack carries

cifar10.npz holds train_images, train_labels, test_images and test_labels, lossless. Everything that is finished is kept
in OUT: a run that was stopped or killed resumes where it was, and --report writes a report of the finished part.

--hidden measures instead whether gradients are hidden: the cosine between each defence's gradient and the bare
network's, and attacks on an S2SNet by a second one and by queries. --bracket runs Flip and certificates only, on the
defences that show JPEG layers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fdjpeg import defenses, evaluation, sources
from fdjpeg._machine import describe_machine
from fdjpeg.defenses import Defense, defensive_distillation, jpeg_ensemble, of_module, purifier, s2snet
from fdjpeg.defenses.checkpoint import read_tensors, write_tensors
from fdjpeg.defenses.recipes import RECIPES
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images, load_training_images
from fdjpeg.defenses.training.run import Run
from fdjpeg.evaluation import Report
from fdjpeg.evaluation.cells import Cell, rights, wilson
from fdjpeg.sources import Network, Normalized

ATTACKS = ("pgd-20", "fgsm", "bim-10", "pgd-margin-20")

#: A minimum-norm attack in L∞, on the bare network and through the first gradient of each defence.
MINIMAL = ("deepfool-20x3",)

#: The columns: each has a name, and shows the worst case of a threat's attacks (of all, if none is named).
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gray FGSM": ("gray-box", ("FGSM",)),
    "gray BIM": ("gray-box", ("BIM-10",)),
    "gray DeepFool": ("gray-box", ("DeepFool-20",)),
    "gray PGD": ("gray-box", ("PGD-20",)),
    "transfer": ("transfer", ()),
    "adaptive": ("adaptive", ()),
}

#: A training of minutes on two cores, with some thousand images.
SHORT = Schedule(epochs=3, batch_size=64, augment="flip")
SETTINGS = {
    "feature-distillation": RECIPES["feature-distillation"].config(),
    "jpeg-ensemble": jpeg_ensemble.Config(tuning=replace(SHORT, epochs=2, learning_rate=3e-4)),
    "defensive-distillation": defensive_distillation.Config(temperature=20, training=SHORT),
    "s2snet": s2snet.Config(architecture="small", reconstruction=SHORT, signal=replace(SHORT, epochs=1)),
    "purifier": purifier.Config(
        attack_steps=2,
        normal=replace(SHORT, epochs=30, learning_rate=3e-3),
        adversarial=replace(SHORT, epochs=2),
        student=SHORT,
    ),
}

#: For a larger network, with a larger cross-entropy under attack: at the weight of 0.1 the purifier's adversarial
#: teacher gives up the images for it.
LARGER = SETTINGS | {
    "purifier": purifier.Config(
        attack_steps=2,
        classification=0.01,
        normal=replace(SHORT, epochs=20, learning_rate=3e-3),
        adversarial=replace(SHORT, epochs=1, learning_rate=3e-4),
        student=replace(SHORT, epochs=2),
    )
}


def convolutions() -> nn.Module:
    """Returns a network for CIFAR-10 that a core trains in minutes: five convolutions, 0.2 M parameters."""
    widths, strides = (3, 32, 48, 64, 96, 96), (1, 2, 1, 2, 1)
    layers: list[nn.Module] = []
    for before, after, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    return Normalized(network, [0.5] * 3, [0.25] * 3)


def small(images: Images, out: Path, seed: int) -> Network:
    """Returns the small network, trained on all images."""
    file = out / "network.safetensors"
    module = convolutions()
    if not file.exists():
        run = Run(out, {"network": "convolutions", "images": images.digest, "seed": seed}, seed=seed)
        run.start("network")
        module = convolutions()
        schedule = Schedule(epochs=16, batch_size=64, learning_rate=5e-3, weight_decay=0.02, augment="flip-crop")
        run.fit("network", defensive_distillation.HardLabels(module, 1.0), images, schedule)
        write_tensors(file, module.state_dict(), {})
        run.complete({"seed": seed})
    module.load_state_dict(read_tensors(file)[0])
    return Network(module.eval(), f"five convolutions (seed {seed})", source="trained by benchmarks/defenses.py")


def layers(
    network: Network, images: Images, out: Path, settings: dict[str, Any], chosen: list[str]
) -> Iterator[tuple[str, Defense]]:
    """Yields the defences by the names of the table; those that need training are trained when their turn comes."""
    ready: dict[str, Callable[[], Defense]] = {
        "feature-distillation:paper": lambda: defenses.FeatureDistillation("paper"),
        "feature-distillation:paper, two passes": lambda: defenses.FeatureDistillation("paper", passes=2),
        "defensive-distillation": lambda: trained("defensive-distillation"),
        "jpeg-ensemble": lambda: trained("jpeg-ensemble"),
        "s2snet": lambda: trained("s2snet"),
        "purifier": lambda: trained("purifier"),
        "jpeg:50": lambda: defenses.JPEG(50),
        "stochastic-jpeg": lambda: defenses.StochasticJPEG(),
        "feature-distillation:uniform(30)": lambda: defenses.FeatureDistillation("uniform(30)"),
        "feature-distillation:uniform(30), two passes": lambda: defenses.FeatureDistillation("uniform(30)", passes=2),
        "feature-distillation:derived": lambda: trained("feature-distillation"),
    }

    def trained(kind: str) -> Defense:
        given = None if kind == "feature-distillation" else network
        return defenses.train(kind, images, out / kind, settings=settings[kind], network=given)

    for name, make in ready.items():
        if not chosen or name in chosen or name.partition(":")[0] in chosen:
            yield name, make()


def tried(defense: Defense) -> list[str]:
    """Returns the gradients of a defence, JPEG's strongest first.

    The identity is left out for randomised layers, where each gradient is a mean over draws: for the fixed layers it is
    never the strongest.
    """
    names = [name for name in defense.gradients if not (defense.random and name == "identity")]
    return sorted(names, key=lambda name: name != "cubic")


def left(report: Report, name: str, cells: list[Cell]) -> str:
    """Returns the number of images that are right in all of the cells; a dash where there are no cells."""
    if not cells:
        return "–"
    every = torch.stack([rights(cell) for cell in (report.clean(name), *cells)])
    return f"{float(every.amin(dim=0).sum()):g}"


def row(report: Report, name: str, eps: str) -> list[str]:
    """Returns one line of the table."""
    cells = [cell for cell in report.select(name, eps) if cell.threat != "noise"]
    figures = [f"{float(rights(report.clean(name)).sum()):g}"]
    for threat, attacks in COLUMNS.values():
        # The gray-box attack on a defence is the white-box attack on the bare network.
        wanted = "white-box" if (name, threat) == ("none", "gray-box") else threat
        chosen = [cell for cell in cells if cell.threat == wanted]
        figures.append(left(report, name, [cell for cell in chosen if not attacks or cell.attack in attacks]))
    worst = left(report, name, cells)
    low, high = wilson(float(worst), report.count)
    return [name, eps, *figures, worst, f"{100 * low:.0f}–{100 * high:.0f} %"]


def through(report: Report, name: str, eps: str) -> list[list[Any]]:
    """Returns the number of images that each adaptive attack leaves, by its name, in a line for each gradient."""
    adaptive = report.select(name, eps, threat="adaptive")
    lines = []
    for gradient in dict.fromkeys(cell.gradient for cell in adaptive):
        figures = {cell.attack: left(report, name, [cell]) for cell in adaptive if cell.gradient == gradient}
        lines.append([name, eps, str(gradient), figures])
    return lines


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the file cifar10.npz")
    parser.add_argument("out", type=Path, help="folder of all that is trained and found")
    parser.add_argument("--network", default="small", help="small, or a network by a name that fdjpeg evaluate takes")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", nargs="+", default=["2/255", "8/255"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--only", nargs="+", default=[], help="kinds or names of defences; all if not given")
    parser.add_argument("--no-transfer", action="store_true", help="without attacks from another network")
    parser.add_argument("--train", action="store_true", help="only train")
    parser.add_argument("--hidden", action="store_true", help="only write hidden.md")
    parser.add_argument("--bracket", action="store_true", help="only write bracket.md and bracket.json")
    parser.add_argument("--report", action="store_true", help="only write a report of finished attacks")
    options = parser.parse_args()
    train, console = load_training_images(f"{options.data}:train"), Console(stderr=True)
    out = options.out / options.network
    own = options.network == "small"
    network = small(train, options.out / "network-0", 0) if own else sources.load_network(options.network)
    transfer = []
    if not options.no_transfer:
        seed = 1 if own else 0
        transfer = [small(train, options.out / f"network-{seed}", seed)]
    settings = SETTINGS if own else LARGER
    made = dict(layers(network, train, out, settings, options.only))
    if options.train:
        return
    images = sources.load_images(f"{options.data}:test", count=options.images)
    if options.hidden:
        second = None
        if "s2snet" in made:
            other = replace(settings["s2snet"], seed=1)
            second = defenses.train("s2snet", train, out / "s2snet-1", settings=other, network=network)
        (out / "hidden.md").write_text(hidden(network, images, made, second))
        return
    if options.bracket:
        bracket(network, images, made, options.eps, out)
        return
    reports = []
    for attacks, count in ((options.attacks, None), (MINIMAL, 1)):
        given = []
        for name, defense in made.items():
            layer = of_module(defense, name, image=images.images[:1])
            given.append(replace(layer, gradients=tuple(tried(defense)[:count])))
        with console.status("") as status:
            report = evaluation.evaluate(
                network,
                images,
                defenses=given,
                attacks=attacks,
                eps=options.eps,
                transfer=transfer if count is None else [],
                checks=False,
                batch_size=100,
                pictures=0,
                out=out / "evaluation",
                only_finished=options.report,
                progress=lambda done, total, doing, status=status: status.update(f"{doing}: {done}/{total}"),
            )
        reports.append(report)
    attacked, minimal = reports
    by_least = [cell for cell in minimal.cells if cell.attack == "DeepFool-20"]
    write(out, network, replace(attacked, cells=[*attacked.cells, *by_least]), attacked.settings.open)
    print((out / "table.md").read_text())


def hidden(network: Network, images: sources.ImageSet, made: dict[str, Defense], second: Defense | None) -> str:
    """Returns two tables: the median cosine for each gradient of each defence, and the S2SNet under other attacks.

    Args:
        network: bare.
        images: to attack.
        made: the defences; random ones draw once.
        second: an S2SNet of another seed; None where "s2snet" is not among the defences.
    """
    rows = []
    for name, defense in made.items():
        for gradient in tried(defense):
            attacked = defense.attacked(network.module, gradient)
            cosines = torch.cat(
                [
                    s2snet.gradient_cosine(attacked, network.module, x, y)
                    for x, y in zip(images.images.split(50), images.labels.split(50), strict=True)
                ]
            )
            low, middle, high = cosines.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
            rows.append([name, gradient, f"{middle:.2f}", f"{low:.2f} … {high:.2f}"])
    text = markdown(["defence", "gradient", "cosine, median", "5 … 95 %"], rows)
    if second is None:
        return text
    other = Network(second.deployed(network.module), "a second S2SNet", source="trained by benchmarks/defenses.py")
    report = evaluation.evaluate(
        network,
        images,
        defenses=[of_module(made["s2snet"], "s2snet", image=images.images[:1])],
        attacks=("pgd-20", "pgd-margin-20", "square-1000"),
        transfer=[other],
        checks=False,
        batch_size=100,
        pictures=0,
        eps=["2/255", "8/255"],
    )
    rows = []
    for threat in ("gray-box", "transfer", "adaptive", "black-box"):
        for eps in report.settings.eps:
            cells = report.select("s2snet", eps, threat=threat)
            for gradient in dict.fromkeys(cell.gradient for cell in cells):
                chosen = [cell for cell in cells if cell.gradient == gradient]
                named = ", ".join(dict.fromkeys(cell.attack or "" for cell in chosen))
                rows.append([threat, gradient or "–", named, eps, left(report, "s2snet", chosen)])
    return text + "\n" + markdown(["threat", "gradient", "attacks", "ε", "left"], rows)


def bracket(network: Network, images: sources.ImageSet, made: dict[str, Defense], radii: list[str], out: Path) -> None:
    """Writes bracket.md and bracket.json: images right after Flip, and certified.

    Raises:
        RuntimeError: an attack broke a certified image.
    """
    shown = {name: defense for name, defense in made.items() if defense.exposes is not None}
    report = evaluation.evaluate(
        network,
        images,
        defenses=[of_module(defense, name, image=images.images[:1]) for name, defense in shown.items()],
        attacks=("flip-20",),
        certify=True,
        checks=False,
        batch_size=100,
        pictures=0,
        eps=radii,
        out=out / "bracket",
    )
    broken = [check.figure for check in report.checks if check.stops and not check.passed]
    if broken:
        raise RuntimeError(f"an attack must break no certified image, got {broken[0]}")
    rows = []
    for row in report.rows[len(radii) :]:  # behind those of the bare network, which has no layer
        counts = (row.clean, row.attacks["flip"], row.certified)
        rows.append([row.defense, row.eps, *("–" if count is None else f"{count:g}" for count in counts)])
    text = f"{network.name}, {report.count} images\n\n"
    (out / "bracket.md").write_text(text + markdown(["defence", "ε", "clean", "Flip", "certified"], rows))
    command = f"python benchmarks/defenses.py cifar10.npz OUT --network {out.name} --bracket"
    found = {"command": command, **describe_machine(), "network": network.name, "images": report.count, "rows": rows}
    (out / "bracket.json").write_text(json.dumps(found, indent=1) + "\n")
    print((out / "bracket.md").read_text())


def write(out: Path, network: Network, report: Report, unfinished: list[str]) -> None:
    """Writes table.md and table.json."""
    pairs = [(name, eps) for name in report.defenses for eps in report.settings.eps]
    rows = [row(report, name, eps) for name, eps in pairs]
    details = [line for name, eps in pairs for line in through(report, name, eps)]
    named = sorted({attack for line in details for attack in line[3]})
    text = f"{network.name}, {report.count} images\n\n"
    text += markdown(["defence", "ε", "clean", *COLUMNS, "worst case", "95 % interval"], rows)
    lines = [[*line[:3], *(line[3].get(attack, "–") for attack in named)] for line in details]
    text += "\n" + markdown(["defence", "ε", "gradient", *named], lines)
    (out / "table.md").write_text(text)
    (out / "table.json").write_text(json.dumps({"rows": rows, "gradients": details, "open": unfinished}))


if __name__ == "__main__":
    main()
