"""S2SNets (Folz et al., arXiv 1803.07994) on Fashion-MNIST.

    python benchmarks/papers/s2snet.py WORK

Both stages before the ResNet-like network; then how networks of four kinds lie to each other.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from experiment import Experiment, clean_cell, fashion, number, options, percent, right, share, to_train_on
from small_networks import NETWORKS, trained
from torch import Tensor, nn

from fdjpeg.attacks import PGD, from_name, margin
from fdjpeg.defenses import S2SNet, checkpoint, load
from fdjpeg.defenses import s2snet as recipe
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import Images
from fdjpeg.defenses.training.run import Run
from fdjpeg.sources import Network

SHORT = Schedule(epochs=2, batch_size=128, learning_rate=1e-3, augment="none")
SETTINGS = recipe.Config(
    architecture="small", reconstruction=SHORT, signal=replace(SHORT, epochs=1, learning_rate=3e-4)
)

STAGES = ("reconstruction", "signal")

EPS = 8 / 255


def stages(network: Network, images: Images, work: Path, seed: int) -> dict[str, S2SNet]:
    """Returns the autoencoder after each of its two stages."""
    out = work / f"s2snet-{seed}"
    files = {name: out / f"{name}.safetensors" for name in STAGES}
    if not (out / "training.json").exists():
        settings = replace(SETTINGS, seed=seed)
        depends = {"config": asdict(settings), "images": images.digest, "network": network.digest()}
        run = Run(out, depends, seed=seed, device="cpu", quiet=True)
        run.start("autoencoder")
        net = S2SNet(settings.architecture, 1)
        run.fit("reconstruction", recipe.Reconstruction(net.autoencoder), images, settings.reconstruction)
        checkpoint.save(net, files["reconstruction"])
        run.fit("signal", recipe.Signal(net.autoencoder, network.module), images, settings.signal)
        checkpoint.save(net, files["signal"])
        run.complete(depends)
    return {name: load(file) for name, file in files.items()}  # type: ignore[misc]


def shift(network: Network, net: S2SNet, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Measures the gradients through the autoencoder: their cosine with the bare ones, and how much the class decides.

    The share of class-dependent signal is the part of the squared length of the logits' gradients by which they differ
    from their mean over the classes.
    """
    deployed = net.attacked(network.module, "end-to-end")
    cosine = torch.cat(
        [
            recipe.gradient_cosine(deployed, network.module, x, y)
            for x, y in zip(images.split(100), labels.split(100), strict=True)
        ]
    )
    return {
        "cosine": float(cosine.median()),
        "class-dependent": dependent(deployed, images),
        "class-dependent, bare": dependent(network.module, images),
        "length": length(deployed, images, labels) / length(network.module, images, labels),
    }


def dependent(model: nn.Module, images: Tensor) -> float:
    """Returns the median share of class-dependent signal in the logits' gradients."""
    shares = []
    for part in images.split(100):
        x = part.clone().requires_grad_()
        out = model(x)
        each = [torch.autograd.grad(out[:, label].sum(), x, retain_graph=True)[0] for label in range(out.shape[1])]
        stacked = torch.stack(each).flatten(2)
        own = (stacked - stacked.mean(dim=0)).square().sum(dim=(0, 2))
        shares.append(own / stacked.square().sum(dim=(0, 2)).clamp_min(1e-30))
    return float(torch.cat(shares).median())


def length(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the median length of the margin's gradient."""
    x = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(margin(model(x), labels).sum(), x)
    return float(found.flatten(1).norm(dim=1).median())


def attacked(network: Network, net: S2SNet, second: S2SNet | None, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Attacks from outside and from inside."""
    deployed, found = net.deployed(network.module), {}
    worst = right(deployed, images, labels)
    found["clean"] = share(worst)
    unaware = PGD(steps=20, until_fooled=False)
    sources = {"gray-box": network.module}
    if second is not None:
        sources["second S2SNet"] = second.attacked(network.module, "end-to-end")
    for name, source in sources.items():
        found[name] = share(right(deployed, unaware(source, images, labels, EPS), labels))
    found["bare"] = share(right(network.module, unaware(network.module, images, labels, EPS), labels))
    for gradient in net.gradients:
        left = torch.ones_like(worst)
        for name in ("pgd-20", "pgd-margin-20"):
            model = net.attacked(network.module, gradient)
            left &= right(deployed, from_name(name).run(model, images, labels, EPS, judge=deployed).x_adv, labels)
        found[gradient] = share(left)
        worst = worst & left
    return found | {"adaptive": share(worst)}


def lies(networks: dict[str, Network], images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Attacks each network, and judges the images by all: the share fooled of those that all get right."""
    rows = torch.stack([right(network.module, images, labels) for network in networks.values()]).all(dim=0)
    x, y = images[rows], labels[rows]
    matrix = {}
    for name, network in networks.items():
        x_adv = PGD(steps=10, until_fooled=False)(network.module, x, y, EPS)
        matrix[name] = {other: share(~right(judge.module, x_adv, y)) for other, judge in networks.items()}
    return {"matrix": matrix, "images": int(rows.sum())}


def report(run: Experiment) -> None:
    """Writes tables and plot."""
    bare, rows = run.get("bare", "right"), []
    columns = ("gray-box", "second S2SNet", "end-to-end", "identity", "adaptive")
    for seed in (0, 1, 2):
        for stage in STAGES:
            key = f"{stage}, seed {seed}"
            clean, cell = run.get(f"{key}: clean", "right"), run.cells.get(f"{key}: attacked", {})
            moved = run.cells.get(f"{key}: gradients", {})
            change = f"{clean['percent'] - bare['percent']:+.1f}" if clean and bare else "not run yet"
            rows.append([f"after {key}", percent(clean), change, number(moved.get("cosine")),
                         number(moved.get("class-dependent")), number(moved.get("class-dependent, bare")),
                         *(percent(cell.get(name)) for name in columns)])  # fmt: skip
    head = ["stage, seed", "clean", "change, points", "cosine", "class-dependent share", "of the bare network"]
    white = percent(run.cells.get("signal, seed 0: attacked", {}).get("bare"))
    tables = [(f"Right at ε = 8/255 (bare network: clean {percent(bare)}, PGD-20 {white})", [*head, *columns], rows)]
    matrix = run.get("how networks lie", "matrix") or {}
    names = list(NETWORKS)
    fooled = [[f"from {name}", *(percent(matrix.get(name, {}).get(other)) for other in names)] for name in names]
    tables.append(("Share fooled at ε = 8/255 by PGD-10 from another network", ["", *names], fooled))
    run.write(tables)

    def draw(axes: Any) -> None:
        values = [
            [matrix.get(name, {}).get(other, {}).get("percent", float("nan")) for other in names] for name in names
        ]
        axes.imshow(values, vmin=0, vmax=100, cmap="viridis")
        axes.set_xticks(range(4), [f"fools\n{name}" for name in names], fontsize=6)
        axes.set_yticks(range(4), [f"from {name}" for name in names], fontsize=6)
        for down, row in enumerate(values):
            for across, value in enumerate(row):
                axes.text(across, down, f"{value:.0f} %", ha="center", va="center", color="white")

    run.plot(draw)


def main() -> None:
    given = options(__doc__, images=200).parse_args()
    run = Experiment.of("s2snet", "S2SNets (arXiv 1803.07994) on Fashion-MNIST", given)
    if not given.report:
        images, test = to_train_on(given.train), fashion("test", 2000)
        network = trained("ResNet-like", images, given.work)
        clean_cell(run, "bare", network.module, test)
        x, y = test.images[: given.images], test.labels[: given.images]
        made = {seed: stages(network, images, given.work, seed) for seed in range(given.seeds)}
        for seed, nets in made.items():
            second = made[(seed + 1) % len(made)]["signal"] if len(made) > 1 else None
            for name, net in nets.items():
                key = f"{name}, seed {seed}"
                clean_cell(run, f"{key}: clean", net.deployed(network.module), test)
                run.cell(f"{key}: gradients", lambda net=net: shift(network, net, x, y))
                run.cell(f"{key}: attacked", lambda net=net, second=second: attacked(network, net, second, x, y))
        if "how networks lie" not in run.cells:
            networks = {name: trained(name, images, given.work) for name in NETWORKS}
            run.cell("how networks lie", lambda: lies(networks, test.images[:500], test.labels[:500]))
    report(run)


if __name__ == "__main__":
    main()
