"""The table of docs/defenses.md: every defence of `fdjpeg.defenses` under attack, before a network for CIFAR-10.

    python benchmarks/defenses.py cifar10.npz OUT                              # a small network, trained here
    python benchmarks/defenses.py cifar10.npz OUT --network resnet18-cifar10   # the one that pyautoattack carries

cifar10.npz holds train_images, train_labels, test_images and test_labels, lossless. Everything that is finished stays
in OUT: a run that was stopped, or killed, goes on where it was, and --report writes what there is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from fdjpeg import defenses, evaluation
from fdjpeg.defenses import Defense, data, defensive_distillation, jpeg_ensemble, purifier, s2snet
from fdjpeg.defenses.checkpoint import read_tensors, write_tensors
from fdjpeg.defenses.config import Schedule
from fdjpeg.defenses.train import RECIPES
from fdjpeg.defenses.training import Run
from fdjpeg.evaluation import Network, Normalized, Report
from fdjpeg.evaluation.cells import Cell, rights, wilson
from fdjpeg.evaluation.layers import of_module

ATTACKS = ("fgsm", "bim-10", "deepfool-50x3", "pgd-20", "pgd-margin-20")

#: The columns: a name, and the threat and the attacks whose worst case it shows (of all attacks, if none is named).
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gray FGSM": ("gray-box", ("FGSM",)),
    "gray BIM": ("gray-box", ("BIM-10",)),
    "gray DeepFool": ("gray-box", ("DeepFool",)),
    "gray PGD": ("gray-box", ("PGD-20",)),
    "transfer": ("transfer", ()),
    "adaptive": ("adaptive", ()),
}

#: What two cores can train in minutes, on some thousand images.
SCHEDULE = Schedule(epochs=12, batch_size=64, augment="flip")
SETTINGS = {
    "feature-distillation": RECIPES["feature-distillation"].config(),
    "jpeg-ensemble": jpeg_ensemble.Config(tuning=replace(SCHEDULE, epochs=3, learning_rate=2e-4)),
    "purifier": purifier.Config(attack_steps=5, teacher=replace(SCHEDULE, epochs=6), student=SCHEDULE),
    "s2snet": s2snet.Config(architecture="small", reconstruction=SCHEDULE, signal=replace(SCHEDULE, epochs=3)),
    "defensive-distillation": defensive_distillation.Config(temperature=20, training=replace(SCHEDULE, epochs=40)),
}


def convolutions() -> nn.Module:
    """A network for CIFAR-10 that a core trains in minutes: six convolutions, 0.3 M parameters."""
    widths, layers, before = (32, 32, 64, 64, 128, 128), [], 3
    for place, width in enumerate(widths):
        stride = 2 if place in (2, 4) else 1
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return Normalized(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)), [0.5] * 3, [0.25] * 3
    )


def small(images: data.Images, out: Path, seed: int) -> Network:
    """The small network, trained on all images."""
    file = out / "network.safetensors"
    module = convolutions()
    if not file.exists():
        run = Run(out, {"network": "convolutions", "images": images.digest, "seed": seed}, seed=seed)
        run.start("network")
        module = convolutions()
        schedule = Schedule(epochs=40, batch_size=64, learning_rate=3e-3, weight_decay=0.02, augment="flip-crop")
        run.fit("network", defensive_distillation.HardLabels(module, 1.0), images, schedule)
        write_tensors(file, module.state_dict(), {})
        run.complete({"seed": seed})
    module.load_state_dict(read_tensors(file)[0])
    return Network(module.eval(), f"six convolutions (seed {seed})", source="trained by benchmarks/defenses.py")


def layers(network: Network, images: data.Images, out: Path, chosen: list[str]) -> dict[str, Defense]:
    """The defences by the names of the table; those that need it are trained."""
    made: dict[str, Defense] = {
        "jpeg:75": defenses.JPEG(75),
        "jpeg:50": defenses.JPEG(50),
        "feature-distillation:paper": defenses.FeatureDistillation("paper"),
        "feature-distillation:paper, two passes": defenses.FeatureDistillation("paper", passes=2),
        "feature-distillation:code": defenses.FeatureDistillation("code"),
        "feature-distillation:code, two passes": defenses.FeatureDistillation("code", passes=2),
        "feature-distillation:uniform(30)": defenses.FeatureDistillation("uniform(30)"),
    }
    for kind, settings in SETTINGS.items():
        if not chosen or kind in chosen:
            given = None if kind in ("feature-distillation", "defensive-distillation") else network
            name = "feature-distillation:derived" if kind == "feature-distillation" else kind
            made[name] = defenses.train(kind, images, out / kind, settings=settings, network=given)
    if isinstance(ensemble := made.get("jpeg-ensemble"), defenses.JPEGEnsemble):
        made["jpeg-ensemble, not tuned"] = defenses.JPEGEnsemble(ensemble.luma, ensemble.chroma, ensemble.levels)
    return {name: defense for name, defense in made.items() if not chosen or name.split(":")[0].split(",")[0] in chosen}


def left(report: Report, name: str, cells: list[Cell]) -> str:
    """Images right under all of the cells, as a count; a dash where there are none."""
    if not cells:
        return "–"
    every = torch.stack([rights(cell) for cell in (report.clean(name), *cells)])
    return f"{float(every.amin(dim=0).sum()):g}"


def row(report: Report, name: str, eps: str) -> list[str]:
    """One line of the table."""
    cells = [cell for cell in report.select(name, eps) if cell.threat != "noise"]
    figures = [f"{float(rights(report.clean(name)).sum()):g}"]
    for threat, attacks in COLUMNS.values():
        # What is gray-box for a defence is white-box for the bare network.
        wanted = "white-box" if (name, threat) == ("none", "gray-box") else threat
        chosen = [cell for cell in cells if cell.threat == wanted]
        figures.append(left(report, name, [cell for cell in chosen if not attacks or cell.attack in attacks]))
    worst = left(report, name, cells)
    low, high = wilson(float(worst), report.count)
    return [name, eps, *figures, worst, f"{100 * low:.0f}–{100 * high:.0f} %"]


def through(report: Report, name: str, eps: str) -> list[list[str]]:
    """How many images each adaptive attack leaves, a line for each gradient."""
    adaptive = report.select(name, eps, threat="adaptive")
    lines = []
    for gradient in dict.fromkeys(cell.gradient for cell in adaptive):
        by_attack = {cell.attack: cell for cell in adaptive if cell.gradient == gradient}
        attacks = report.settings["attacks"]
        figures = [left(report, name, [by_attack[attack]] if attack in by_attack else []) for attack in attacks]
        lines.append([name, eps, str(gradient), *figures])
    return lines


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10.npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="small", help="small, or a name that fdjpeg evaluate takes")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", nargs="+", default=["2/255", "8/255"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--only", nargs="+", default=[], help="kinds of defences; all if not given")
    parser.add_argument("--train", action="store_true", help="train, and stop there")
    parser.add_argument("--report", action="store_true", help="attack nothing more")
    options = parser.parse_args()
    train, console = data.load(f"{options.data}:train"), Console(stderr=True)
    out = options.out / options.network
    if options.network == "small":
        network, other = (small(train, options.out / f"network-{seed}", seed) for seed in (0, 1))
        transfer = [other]
    else:
        network, transfer = evaluation.load_network(options.network), [small(train, options.out / "network-0", 0)]
    made = layers(network, train, out, options.only)
    if options.train:
        return
    images = evaluation.load_images(f"{options.data}:test", count=options.images)
    rows: dict[tuple[str, str], list[str]] = {}
    details, unfinished = [], []
    for name, defense in made.items():
        with console.status("") as status:
            report = evaluation.evaluate(
                network,
                images,
                defenses=[of_module(defense, name, image=images.images[:1])],
                attacks=options.attacks,
                eps=options.eps,
                transfer=transfer,
                checks=False,
                batch_size=50,
                pictures=0,
                out=out / "evaluation",
                only_finished=options.report,
                progress=lambda done, total, doing, status=status: status.update(f"{doing}: {done}/{total}"),
            )
        unfinished += report.settings["open"]
        for eps in report.settings["eps"]:
            rows |= {(line, eps): row(report, line, eps) for line in ("none", name)}
            details += through(report, name, eps)
    attacks = report.settings["attacks"]
    text = markdown(["defence", "ε", "clean", *COLUMNS, "worst case", "95 % interval"], list(rows.values()))
    text += "\n" + markdown(["defence", "ε", "gradient", *attacks], details)
    (out / "table.md").write_text(f"{network.name}, {len(images)} images\n\n{text}")
    (out / "table.json").write_text(json.dumps({"rows": list(rows.values()), "gradients": details, "open": unfinished}))
    print(text)


if __name__ == "__main__":
    main()
