"""S2SNets (Folz et al., arXiv 1803.07994) on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from experiment import fashion, options, right, share, to_train_on
from small_networks import trained

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


def main() -> None:
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    images, test = to_train_on(), fashion("test", 2000)
    network = trained("ResNet-like", images, given.work)
    for name, net in stages(network, images, given.work, 0).items():
        print(name, share(right(net.deployed(network.module), test.images, test.labels)), flush=True)


if __name__ == "__main__":
    main()
