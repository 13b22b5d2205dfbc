"""Distillation-based purification (Koo, Chae, Lee, Appl. Sci. 13, 11313, 2023) on Fashion-MNIST.

    python benchmarks/papers/purification.py WORK

The purifiers: the student of both teachers, of each alone and of none, before the ResNet-like network.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from experiment import Experiment, clean_cell, fashion, legend_above, options, percent, right, share, to_train_on
from small_networks import trained
from torch import Tensor

from fdjpeg.attacks import from_name
from fdjpeg.defenses import checkpoint, load, purifier
from fdjpeg.defenses.purifier import AdversarialTeacher, NormalTeacher, Purifier, Student
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import ImageSet, Network

SHORT = Schedule(batch_size=128, learning_rate=1e-3, augment="none")
SETTINGS = purifier.Config(
    widths=(16, 32, 32),
    attack_steps=3,
    classification=0.01,
    normal=replace(SHORT, epochs=12, learning_rate=3e-3),
    adversarial=replace(SHORT, epochs=3),
    student=replace(SHORT, epochs=5),
)

#: The ablation: the weights of the normal and the adversarial teacher's lesson.
LESSONS = {"both": (0.5, 0.5), "normal": (0.5, 0.0), "adversarial": (0.0, 0.5), "none": (0.0, 0.0)}

EPS = 8 / 255
ATTACKS = ("fgsm", "bim-10", "pgd-20")

#: Images of the trainings that attack their network in each step.
ATTACKED = 20_000


def students(network: Network, images: Images, work: Path, seed: int) -> dict[str, Purifier]:
    """Returns the student of both teachers, of each alone and of none; they share their teachers."""
    out = work / f"purifier-{seed}"
    files = {name: out / f"{name}.safetensors" for name in LESSONS}
    if not (out / "training.json").exists():
        settings = replace(SETTINGS, seed=seed)
        depends = {"config": asdict(settings), "images": images.digest, "network": network.digest()}
        run = Run(out, depends, seed=seed, device="cpu", quiet=True)
        _train(run, network, images, settings, files)
        run.complete(depends)
    return {name: load(file) for name, file in files.items()}  # type: ignore[misc]


def _train(run: Run, network: Network, images: Images, settings: purifier.Config, files: dict[str, Path]) -> None:
    run.start("normal")
    normal = Purifier(1, settings.widths)
    run.fit("normal", NormalTeacher(normal.autoencoder, settings.noise), images, settings.normal)
    fewer = images.select(range(min(ATTACKED, len(images))))
    # Copies now: as a teacher the network is frozen.
    adversary, learners = copy.deepcopy(normal), {name: copy.deepcopy(normal) for name in LESSONS}
    teaching = AdversarialTeacher(adversary.autoencoder, network.module, settings)
    run.fit("adversarial", teaching, fewer, settings.adversarial)
    for name, (of_normal, of_adversary) in LESSONS.items():
        student = learners[name]
        chosen = replace(settings, normal_lesson=of_normal, adversarial_lesson=of_adversary)
        learning = Student(student.autoencoder, normal.autoencoder, adversary.autoencoder, network.module, chosen)
        run.fit(f"student-{name}", learning, fewer, settings.student)
        checkpoint.save(student, files[name])


def attacked(network: Network, student: Purifier, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Attacks the bare network, and both together; returns what the classifier gets right on purified images."""
    deployed, found = (
        student.deployed(network.module),
        {"clean": share(right(student.deployed(network.module), images, labels))},
    )
    for name in ATTACKS:
        unaware = replace(from_name(name), until_fooled=False)  # type: ignore[type-var]
        x_adv = unaware(network.module, images, labels, EPS)
        found[f"gray-box {name}"] = share(right(deployed, x_adv, labels))
        found[f"bare {name}"] = share(right(network.module, x_adv, labels))
    worst = right(deployed, images, labels)
    for gradient in student.gradients:
        for name in ("pgd-20", "pgd-margin-20"):
            x_adv = (
                from_name(name)
                .run(student.attacked(network.module, gradient), images, labels, EPS, judge=deployed)
                .x_adv
            )
            left = right(deployed, x_adv, labels)
            worst &= left
            found[f"{gradient} {name}"] = share(left)
    return found | {"adaptive": share(worst)}


def cells_of(
    run: Experiment, key: str, network: Network, student: Callable[[], Purifier], test: ImageSet, count: int
) -> None:
    """Computes both cells of a student: all clean images, and some of them under attack."""

    def clean() -> dict[str, Any]:
        return {"right": share(right(student().deployed(network.module), test.images, test.labels))}

    run.cell(f"{key}: clean", clean)
    run.cell(f"{key}: attacked", lambda: attacked(network, student(), test.images[:count], test.labels[:count]))


def report(run: Experiment) -> None:
    """Writes table and plot."""
    rows = []
    for seed in (0, 1, 2):
        for lesson in LESSONS:
            clean = run.get(f"{lesson}, seed {seed}: clean", "right")
            cell = run.cells.get(f"{lesson}, seed {seed}: attacked", {})
            bare = run.get("bare", "right")
            change = f"{clean['percent'] - bare['percent']:+.1f}" if clean and bare else "not run yet"
            columns = ("gray-box fgsm", "gray-box bim-10", "gray-box pgd-20", "adaptive")
            rows.append(
                [f"{lesson}, seed {seed}", percent(clean), change, *(percent(cell.get(name)) for name in columns)]
            )
    head = ["student of, seed", "clean", "change, points", "gray-box FGSM", "gray-box BIM-10", "gray-box PGD-20"]
    some = run.cells.get("both, seed 0: attacked", {})
    bare = [["none (white-box)", percent(run.get("bare", "right")), "–"]
            + [percent(some.get(f"bare {name}")) for name in ATTACKS] + ["–"]]  # fmt: skip
    run.write([("Right on purified images, ε = 8/255", [*head, "adaptive, worst"], bare + rows)])

    def draw(axes: Any) -> None:
        for place, (name, label) in enumerate(
            (("clean", "clean"), ("gray-box pgd-20", "gray-box PGD-20"), ("adaptive", "adaptive"))
        ):
            found = [(lesson, run.get(f"{lesson}, seed 0: attacked", name)) for lesson in LESSONS]
            values = [value["percent"] if value else 0 for _, value in found]
            axes.bar([at + 0.25 * place for at in range(len(LESSONS))], values, 0.25, label=label)
        axes.set_xticks([at + 0.25 for at in range(len(LESSONS))], list(LESSONS))
        axes.set(xlabel="student of these teachers", ylabel="right on purified images, %", ylim=(0, 100))
        legend_above(axes)

    run.plot(draw)


def main() -> None:
    given = options(__doc__, images=300).parse_args()
    title = "Distillation-based purification (Appl. Sci. 13, 11313) on Fashion-MNIST"
    run = Experiment.of("purification", title, given)
    if not given.report:
        images, test = to_train_on(given.train), fashion("test", 2000)
        network = trained("ResNet-like", images, given.work)
        clean_cell(run, "bare", network.module, test)
        # Students are trained for the first cell that lacks a figure, and not where none does.
        of_seed = cache(partial(students, network, images, given.work))
        for seed, name in itertools.product(range(given.seeds), LESSONS):
            cells_of(run, f"{name}, seed {seed}", network, lambda n=name, s=seed: of_seed(s)[n], test, given.images)
    report(run)


if __name__ == "__main__":
    main()
