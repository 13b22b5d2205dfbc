"""The protocol: which attack meets which defended network, and what counts as success.

A *cell* is one judged experiment: a defence, a threat, a radius. Two rules hold everywhere. The verdict is the exact
forward pass of the defended network, whatever gradient the attacker used. And an attacker may leave an image alone: an
image counts as right in a cell only if it is also right without any attack.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fdjpeg

from .attacks import PGD, Attack, Noise, format_eps, margin, parse_eps
from .data import SUBSAMPLINGS, ImageSet, lattice_quality, pillow_codec, to_bytes, to_pillow, to_tensor
from .models import Network, check_logits, evaluating
from .report import Cell, Picture, Report, versions

#: Called with the work done, the whole work (in images under attack) and what is being done now.
Progress = Callable[[int, int, str], None]

#: Images that are tried for traces of JPEG compression.
LATTICE_IMAGES = 50

GRADIENTS = ("identity", "straight-through", "cubic")


@dataclass(frozen=True)
class Defense:
    """A layer before the network.

    Attributes:
        name: as reports print it.
        layer: makes the layer that the attacker differentiates, by the name of its gradient. The forward pass must be
            the same for all.
        gradients: the names that ``layer`` takes, those that an adaptive attacker tries; empty where there is no layer.
        oracle: the same forward pass by other means, uint8 ``(N, C, H, W)`` to uint8, as a check; or None.
    """

    name: str
    layer: Callable[[str], nn.Module]
    gradients: tuple[str, ...]
    oracle: Callable[[Tensor], Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """What the layer makes of images."""
        return self.layer(self.gradients[0])(images) if self.gradients else images

    def before(self, network: nn.Module, gradient: str | None = None) -> nn.Module:
        """The defended network, differentiable as ``gradient`` says (the first that there is, if None)."""
        if not self.gradients:
            return network
        return nn.Sequential(self.layer(gradient or self.gradients[0]), network)


UNDEFENDED = Defense("none", lambda gradient: nn.Identity(), ())


def jpeg_defense(quality: int, subsampling: str = "4:2:0", gradients: Sequence[str] = GRADIENTS) -> Defense:
    """JPEG compression by ``fdjpeg.JPEG``, checked against Pillow's."""

    def oracle(images: Tensor) -> Tensor:
        return torch.stack([to_tensor(pillow_codec(to_pillow(image), quality, subsampling)[0]) for image in images])

    return Defense(
        name=f"jpeg:{quality}" + ("" if subsampling == "4:2:0" else f",{subsampling}"),
        layer=lambda gradient: fdjpeg.JPEG(quality, subsampling=subsampling, gradient=gradient),
        gradients=tuple(gradients),
        oracle=oracle,
    )


def parse_defense(text: str, gradients: Sequence[str] = GRADIENTS) -> Defense:
    """A defence by its name: "none", "jpeg:75" or "jpeg:75,4:4:4".

    Raises:
        ValueError: for an unknown name, a quality that is no integer 1…100, or a subsampling that Pillow does
            not write.
    """
    kind, _, rest = text.partition(":")
    if text == "none":
        return UNDEFENDED
    if kind != "jpeg":
        raise ValueError(f'defense should be "none" or "jpeg:QUALITY", got {text!r}')
    quality, _, subsampling = rest.partition(",")
    if not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise ValueError(f'quality in a defense such as "jpeg:75" should be an integer 1…100, got {text!r}')
    if subsampling and subsampling not in SUBSAMPLINGS:
        raise ValueError(f"subsampling in a defense should be one of {', '.join(SUBSAMPLINGS)}, got {text!r}")
    return jpeg_defense(int(quality), subsampling or "4:2:0", gradients)


@dataclass
class Judgement:
    """What the exact forward pass says of a batch: one row for each image."""

    predicted: list[int]
    margin: list[float]
    differing: int = 0  # samples that the oracle gives otherwise


class CellStore:
    """Finished cells in a folder, one JSON file each, so that a run that was stopped goes on where it was.

    Cells of a run with other settings, images, weights or versions are not taken: their fingerprint differs.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder = None if folder is None else folder / "cells"
        self.fingerprint = fingerprint
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                probe = self.folder / ".probe"
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise ValueError(f"out should be a folder that can be written, got {str(folder)!r}: {error}") from error

    def _file(self, job: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{''.join(c if c.isalnum() else '-' for c in job)}.json"

    def load(self, job: str) -> list[Cell] | None:
        """The cells of a job that this very run has finished before, else None."""
        if self.folder is None or not self._file(job).exists():
            return None
        try:
            stored = json.loads(self._file(job).read_text())
        except json.JSONDecodeError:
            return None
        if stored.get("fingerprint") != self.fingerprint:
            return None
        return [Cell.from_json(cell) for cell in stored["cells"]]

    def save(self, job: str, cells: list[Cell]) -> None:
        """Stores the cells of a finished job; the file appears whole or not at all."""
        if self.folder is None:
            return
        file = self._file(job)
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps({"fingerprint": self.fingerprint, "cells": [cell.to_json() for cell in cells]}))
        os.replace(draft, file)


class Evaluation:
    """One run: the network, the images, and how cells are computed from them."""

    def __init__(self, network: Network, images: ImageSet, batch_size: int, pictures: int, seed: int) -> None:
        self.network = network
        self.images = images
        self.batch_size = batch_size
        self.pictures = pictures
        self.noise = Noise(seed)
        self.clean: dict[str, Cell] = {}

    def judge(self, defense: Defense, images: Tensor) -> Judgement:
        """The exact forward pass of the defended network over images ``(N, C, H, W)`` on the CPU."""
        model, device = defense.before(self.network.module), self.network.device
        verdict = Judgement([], [])
        labels = self.images.labels
        with torch.no_grad():
            for indices in self.images.batches(self.batch_size):
                batch = images[indices].to(device)
                logits = model(batch).float()
                verdict.predicted += logits.argmax(dim=1).tolist()
                verdict.margin += margin(logits, labels[indices].to(device)).tolist()
                if defense.oracle is not None:
                    ours = to_bytes(defense.forward(batch)).cpu()
                    verdict.differing += int((ours != defense.oracle(to_bytes(batch).cpu())).sum())
        return verdict

    def right(self, cell: Cell) -> Tensor:
        """Which images the network gets right in a cell, ``(N,)`` bool."""
        return torch.tensor(cell.predicted) == self.images.labels

    def cell(
        self, defense: Defense, threat: str, gradient: str | None, eps: Fraction | None, x_adv: Tensor, seconds: float
    ) -> Cell:
        """Judges adversarial images and keeps the first few that were right without an attack as pictures."""
        verdict = self.judge(defense, x_adv)
        pictures: list[Picture] = []
        if threat in ("white-box", "adaptive"):
            shown = self.right(self.clean[defense.name]).nonzero().flatten()[: self.pictures]
            with torch.no_grad():
                defended = defense.forward(x_adv[shown].to(self.network.device)).cpu()
            pictures = [
                Picture(index, to_bytes(before), to_bytes(after))
                for index, before, after in zip(shown.tolist(), x_adv[shown], defended, strict=True)
            ]
        return Cell(
            defense=defense.name,
            threat=threat,
            gradient=gradient,
            eps=None if eps is None else format_eps(eps),
            predicted=verdict.predicted,
            margin=[round(value, 4) for value in verdict.margin],
            distance=float((x_adv - self.images.images).abs().max()),
            differing_from_oracle=None if defense.oracle is None else verdict.differing,
            seconds=round(seconds, 2),
            pictures=pictures,
        )

    def attack(
        self, attack: Attack, model: nn.Module, eps: Fraction, chosen: Tensor, advance: Callable[[int], None]
    ) -> Tensor:
        """Adversarial images of the whole set; images that are not ``chosen`` stay as they are."""
        x_adv, device = self.images.images.clone(), self.network.device
        for indices in torch.split(chosen.nonzero().flatten(), self.batch_size):
            x, y = self.images.images[indices].to(device), self.images.labels[indices].to(device)
            found = attack(model, x, y, float(eps), indices=indices)
            if found.shape != x.shape or not bool(((found >= 0) & (found <= 1)).all()):
                raise ValueError(f"attack {attack.name} should return images like its input in [0, 1]; it did not")
            x_adv[indices] = found.detach().to("cpu", torch.float32)
            advance(len(indices))
        return x_adv


def evaluate(
    model: nn.Module | Network,
    data: ImageSet | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    defenses: Sequence[str | Defense] = ("jpeg:75", "jpeg:50", "jpeg:25"),
    eps: Sequence[str | float | Fraction] = ("1/255", "2/255"),
    gradients: Sequence[str] = GRADIENTS,
    attack: Attack | None = None,
    batch_size: int = 5,
    pictures: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """What defences before a network are worth against gray-box and adaptive attackers.

    For each radius the bare network is attacked once; those images are judged on the bare network (white-box) and
    behind every defence (gray-box). Then every defence is attacked through each gradient (adaptive). Random noise of
    the same radius stands beside them.

    Args:
        model: maps images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``; normalisation belongs inside it. It
            runs in evaluation mode, and where its parameters are; neither they nor its mode are changed.
        data: the images with their classes: an ``ImageSet``, a pair of tensors, or an iterable of batches.
        defenses: names such as "jpeg:75" (see ``parse_defense``), or ``Defense`` objects.
        eps: L∞ radii, in units of the images' range; strings such as "2/255" are read exactly.
        gradients: those that an adaptive attacker tries on named defences.
        attack: ``PGD(seed=seed)`` if None. For the gray-box row a ``PGD`` does not stop at its first success on
            the bare network.
        batch_size: images at once. Results do not depend on it but for the rounding of the network's own arithmetic.
        pictures: images of each defence that the report shows.
        seed: of all that is random.
        out: a folder for finished cells, from which a stopped run goes on; None keeps nothing.
        progress: called after every batch.

    Returns:
        The report; ``report.save(folder)`` writes it.

    Raises:
        ValueError: for values out of range, images outside [0, 1], no images, a model whose output cannot be logits
            of these classes, or a folder that cannot be written.
        TypeError: for arguments of another type.
    """
    network, images = Network.of(model), ImageSet.of(data)
    layers = [item if isinstance(item, Defense) else parse_defense(item, gradients) for item in defenses]
    layers = [layer for layer in layers if layer.gradients]  # the undefended network is always there
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError(f"defenses should be different, got {', '.join(layer.name for layer in layers)}")
    for layer in layers:
        for gradient in layer.gradients:
            layer.layer(gradient)  # raises for an unknown name before any work is done
    radii = sorted({parse_eps(value) for value in eps})
    if not radii:
        raise ValueError("eps should hold at least one radius, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size should be at least 1, got {batch_size}")
    attack = PGD(seed=seed) if attack is None else attack
    tried = range(min(len(images), LATTICE_IMAGES))
    lattice = {images.names[i]: lattice_quality(to_bytes(images.images[i])) for i in tried}
    settings: dict[str, Any] = {
        "images": {
            "count": len(images),
            "source": images.source,
            "terms": images.terms,
            "digest": images.digest(),
            "tried for a JPEG lattice": len(tried),
            "on a JPEG lattice": {name: quality for name, quality in lattice.items() if quality is not None},
        },
        "model": {
            "name": network.name,
            "source": network.source,
            "terms": network.terms,
            "digest": network.digest(),
        },
        "attack": {"name": attack.name, **(asdict(attack) if is_dataclass(attack) else {})},
        "defenses": {layer.name: list(layer.gradients) for layer in layers},
        "norm": "L-infinity",
        "eps": [format_eps(radius) for radius in radii],
        "batch_size": batch_size,
        "pictures": pictures,
        "seed": seed,
        "device": str(network.device),
        "versions": versions(),
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    store = CellStore(None if out is None else Path(out), fingerprint)
    run = Evaluation(network, images, batch_size, pictures, seed)
    transfer = replace(attack, until_fooled=False) if isinstance(attack, PGD) else attack

    done, doing = 0, "clean accuracy"
    total = len(images) * len(radii) * (1 + sum(len(layer.gradients) for layer in layers))

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total, doing)

    def finished(job: str, compute: Callable[[], list[Cell]], work: int) -> list[Cell]:
        """The cells of a job, stored or computed; ``work`` is what they count in the progress."""
        nonlocal doing
        doing, before = job, done
        cells = store.load(job)
        if cells is None:
            cells = compute()
            store.save(job, cells)
        advance(work - (done - before))
        return cells

    def clean() -> list[Cell]:
        return [run.cell(layer, "clean", None, None, images.images, 0.0) for layer in (UNDEFENDED, *layers)]

    def gray_box(radius: Fraction) -> list[Cell]:
        start = time.perf_counter()
        everything = torch.ones(len(images), dtype=torch.bool)
        x_adv = run.attack(transfer, network.module, radius, everything, advance)
        seconds = time.perf_counter() - start
        noisy = run.attack(run.noise, network.module, radius, everything, lambda count: None)
        return [
            run.cell(UNDEFENDED, "white-box", None, radius, x_adv, seconds),
            *(run.cell(layer, "gray-box", None, radius, x_adv, 0.0) for layer in layers),
            *(run.cell(layer, "noise", None, radius, noisy, 0.0) for layer in (UNDEFENDED, *layers)),
        ]

    def adaptive(layer: Defense, gradient: str, radius: Fraction) -> list[Cell]:
        start = time.perf_counter()
        defended = layer.before(network.module, gradient)
        x_adv = run.attack(attack, defended, radius, run.right(run.clean[layer.name]), advance)
        return [run.cell(layer, "adaptive", gradient, radius, x_adv, time.perf_counter() - start)]

    with evaluating(network.module):
        with torch.no_grad():
            first = images.images[:batch_size].to(network.device)
            check_logits(network.module(first), images.labels)
        cells = finished("clean", clean, 0)
        run.clean = {cell.defense: cell for cell in cells}
        for radius in radii:
            cells += finished(f"bare network at {format_eps(radius)}", partial(gray_box, radius), len(images))
        for layer in layers:
            for gradient in layer.gradients:
                for radius in radii:
                    job = f"{layer.name} through {gradient} at {format_eps(radius)}"
                    cells += finished(job, partial(adaptive, layer, gradient, radius), len(images))
    return Report(settings=settings, cells=cells, images=images)
