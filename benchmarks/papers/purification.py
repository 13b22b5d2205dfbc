"""Distillation-based purification (Koo, Chae, Lee, Appl. Sci. 13, 11313, 2023) on Fashion-MNIST."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from experiment import fashion, options, right, share, to_train_on
from small_networks import trained

from fdjpeg.defenses import checkpoint, load, purifier
from fdjpeg.defenses.purifier import AdversarialTeacher, NormalTeacher, Purifier, Student
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import Network

SHORT = Schedule(epochs=2, batch_size=128, learning_rate=1e-3, augment="none")
SETTINGS = purifier.Config(
    widths=(16, 32, 32),
    attack_steps=3,
    classification=0.01,
    normal=replace(SHORT, epochs=6, learning_rate=3e-3),
    adversarial=SHORT,
    student=SHORT,
)

#: The ablation: the weights of the normal and the adversarial teacher's lesson.
LESSONS = {"both": (0.5, 0.5), "normal": (0.5, 0.0), "adversarial": (0.0, 0.5), "none": (0.0, 0.0)}

#: Images of the trainings that attack their network in each step.
ATTACKED = 10_000


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


def main() -> None:
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    images, test = to_train_on(), fashion("test", 2000)
    network = trained("ResNet-like", images, given.work)
    for name, student in students(network, images, given.work, 0).items():
        print(name, share(right(student.deployed(network.module), test.images, test.labels)), flush=True)


if __name__ == "__main__":
    main()
