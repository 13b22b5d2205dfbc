"""NN-favoured table, noisy training and vote (Zhang & Gao, arXiv 2106.13394) on Fashion-MNIST.

python benchmarks/papers/nn_favoured_table.py WORK
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiment import Experiment, fashion, legend_above, options, percent, right, share, to_train_on
from small_networks import trained
from torch import Tensor, nn

from fdjpeg import QuantTables, defenses
from fdjpeg.attacks import Flip, from_name
from fdjpeg.defenses import JPEGEnsemble, jpeg_ensemble
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.sources import Network

SETTINGS = jpeg_ensemble.Config(
    quality=25, tuning=Schedule(epochs=1, batch_size=128, learning_rate=3e-4, augment="none")
)
EPS = 8 / 255
ATTACKS = ("fgsm", "pgd-20")


def branches(ensemble: JPEGEnsemble, network: Network) -> dict[str, nn.Module]:
    """Returns what votes: each level before and after tuning, the vote, and the standard table for comparison."""
    plain = JPEGEnsemble(ensemble.luma, ensemble.chroma, ensemble.levels)
    standard = QuantTables.standard(SETTINGS.quality)
    kinds = {"before tuning": plain, "after tuning": ensemble}
    found: dict[str, nn.Module] = {}
    for kind, made in kinds.items():
        for level, branch in zip(made.levels, made.deployed(network.module).branches, strict=True):
            found[f"level {level:g}, {kind}"] = branch
    found["vote, before tuning"] = plain.deployed(network.module)
    found["vote, after tuning"] = ensemble.deployed(network.module)
    same = JPEGEnsemble(standard.luma, standard.chroma, ensemble.levels)
    for level, branch in zip(same.levels, same.deployed(network.module).branches, strict=True):
        found[f"level {level:g} of the standard table, before tuning"] = branch
    return found


def attacked(network: Network, judges: dict[str, nn.Module], x: Tensor, y: Tensor) -> dict[str, Any]:
    """Attacks the bare network, and judges by all."""
    found: dict[str, Any] = {}
    for name in ATTACKS:
        x_adv = replace(from_name(name), until_fooled=False)(network.module, x, y, EPS)  # type: ignore[type-var]
        found[name] = {judge: share(right(model, x_adv, y)) for judge, model in judges.items()}
    return found


def adaptive(ensemble: JPEGEnsemble, network: Network, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Attacks the mean log-probability through all branches; the vote judges, the worst gradient counts."""
    deployed = ensemble.deployed(network.module)
    left, each = right(deployed, x, y), {}
    for gradient in ensemble.gradients:
        model = ensemble.attacked(network.module, gradient)
        kept = right(deployed, from_name("pgd-20").run(model, x, y, EPS, judge=deployed).x_adv, y)
        each[gradient], left = share(kept), left & kept
    return {"gradients": each, "right": share(left)}


def flipped(ensemble: JPEGEnsemble, network: Network, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Attacks the quantized coefficients of all branches; the vote judges."""
    deployed = ensemble.deployed(network.module)
    x_adv = Flip(steps=20).run(ensemble.exposed(network.module), x, y, EPS, judge=deployed).x_adv
    return {"right": share(right(deployed, x_adv, y))}


def report(run: Experiment) -> None:
    """Writes table and plot."""
    clean = run.cells.get("clean", {}).get("right", {})
    gray = run.cells.get("gray-box", {})
    names = list(clean) or ["not run yet"]
    rows = [
        [name, percent(clean.get(name)), *(percent(gray.get(kind, {}).get(name)) for kind in ATTACKS)] for name in names
    ]
    left = (
        f"PGD-20 leaves the vote {percent(run.get('adaptive', 'right'))}, Flip-20 {percent(run.get('flip', 'right'))}"
    )
    head = ["judged by", "clean", *(f"gray-box {kind}, 8/255" for kind in ATTACKS)]
    run.write([(f"Levels and vote (adaptive at 8/255: {left})", head, rows)])

    def draw(axes: Any) -> None:
        shown = [name for name in names if name in clean]
        axes.barh(range(len(shown)), [clean[name]["percent"] for name in shown], 0.4, label="clean")
        found = [gray.get("pgd-20", {}).get(name, {}).get("percent", 0) for name in shown]
        axes.barh([at + 0.4 for at in range(len(shown))], found, 0.4, label="gray-box PGD-20")
        axes.set_yticks(range(len(shown)), shown, fontsize=5)
        axes.set(xlabel="right, %", xlim=(0, 100))
        legend_above(axes)

    run.plot(draw)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=300, help="Images to attack.")
    given = parser.parse_args()
    title = "NN-favoured table, noisy training, vote (arXiv 2106.13394) on Fashion-MNIST"
    run = Experiment.of("nn_favoured_table", title, given)
    if not given.report:
        images, test = to_train_on(given.train), fashion("test", 2000)
        network = trained("ResNet-like", images, given.work)
        out = given.work / "jpeg-ensemble-0"
        ensemble = defenses.train(
            "jpeg-ensemble", images, out, settings=SETTINGS, network=network, device="cpu", quiet=True
        )
        assert isinstance(ensemble, JPEGEnsemble)
        judges = {"bare network": network.module} | branches(ensemble, network)
        x, y = test.images[: given.images], test.labels[: given.images]
        run.cell(
            "clean",
            lambda: {"right": {name: share(right(model, test.images, test.labels)) for name, model in judges.items()}},
        )
        run.cell("gray-box", lambda: attacked(network, judges, x, y))
        run.cell("adaptive", lambda: adaptive(ensemble, network, x, y))
        run.cell("flip", lambda: flipped(ensemble, network, x, y))
    report(run)


if __name__ == "__main__":
    main()
