"""The protocol: ``evaluate``, from its arguments to its report.

``judging`` says what a *cell* is, one judged experiment, and what counts as success; ``threats`` and ``controls`` say
which experiments there are. A *job* makes cells of one batch of images. Batches are consecutive images, the same ones
whatever the number of processes; processes share the batches, and each finished pair of job and batch is stored. So
neither the number of processes nor being killed and started again changes a figure.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdjpeg import attacks as attack_library
from fdjpeg.attacks import Attack, format_eps, parse_eps
from fdjpeg.defenses import GRADIENTS, Defended, of_module, parse_defense
from fdjpeg.sources.image_set import ImageSet, lattice_quality, to_bytes
from fdjpeg.sources.networks import Network, check_logits, evaluating

from .cells import Cell, join
from .controls import control_jobs
from .judging import Evaluation, Job
from .memory import in_batches
from .report import Report, versions
from .store import Store
from .threats import GRADIENT_FREE, threat_jobs
from .world import World

#: Called with the work done, the whole work (in images of all jobs) and what is being done now.
Progress = Callable[[int, int, str], None]

#: What ``evaluate`` takes as a defence.
AnyDefense = str | nn.Module | Defended

#: Images that are tried for traces of JPEG compression.
LATTICE_IMAGES = 50

#: Draws of a randomised defence in each gradient, and in each verdict.
DRAWS = 20


def evaluate(
    model: nn.Module | Network,
    data: ImageSet | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]],
    *,
    defenses: Sequence[AnyDefense] | Mapping[str, Sequence[str]] = ("jpeg:75", "jpeg:50", "jpeg:25"),
    attacks: Sequence[str | Attack] = ("pgd",),
    eps: Sequence[str | float | Fraction] = ("1/255", "2/255"),
    norm: str = "linf",
    gradients: Sequence[str] = GRADIENTS,
    transfer: Sequence[nn.Module | Network] = (),
    draws: int = DRAWS,
    checks: bool = True,
    batch_size: int = 5,
    pictures: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
    merge: Iterable[str | Path] = (),
    world: World | None = None,
    only_finished: bool = False,
    progress: Progress | None = None,
) -> Report:
    """What defences before a network are worth, under attacks that know nothing, something and all of them.

    For each radius the bare network is attacked; those images are judged on the bare network (white-box) and behind
    every defence (gray-box), as are those of other networks (transfer). Then every defence is attacked through each of
    its gradients (adaptive), and by attacks that only ask for outputs (black-box). Random noise of the same radius and
    the sanity checks stand beside them.

    Args:
        model: maps images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``; normalisation belongs inside it. It
            runs in evaluation mode, and where its parameters are; neither they nor its mode are changed.
        data: the images with their classes: an ``ImageSet``, a pair of tensors, or an iterable of batches.
        defenses: names such as "jpeg:75" (see ``parse_defense``), modules (see ``of_module``) or ``Defended`` objects;
            or a mapping from names to the gradients that an adaptive attacker tries on each.
        attacks: names (``attacks.NAMES``) or objects.
        eps: radii, in units of the images' range; strings such as "2/255" are read exactly.
        norm: "linf" or "l2", of named attacks.
        gradients: those that an adaptive attacker tries on layers of fdjpeg's, where ``defenses`` is no mapping.
        transfer: other networks, attacked without any defence.
        draws: of a randomised defence, in each gradient and in each verdict.
        checks: whether to run the sanity checks that need attacks of their own.
        batch_size: images at once; halved when the device runs out of memory. The figures belong to this batch size:
            another one may change the last bits of a network's arithmetic.
        pictures: images of the first batch that the report shows for each defence.
        seed: of all that is random.
        out: a folder for finished work, from which a stopped run goes on; None keeps nothing.
        merge: more such folders to take finished work from, those of shards.
        world: the processes that share the work; those of ``torchrun`` if None. Shards report on what they have.
        only_finished: compute nothing; report on the experiments that are finished.
        progress: called after every batch.

    Returns:
        The report, the same in each process of ``torchrun``; ``report.save(folder)`` writes it.

    Raises:
        ValueError: for values out of range, images outside [0, 1], no images, a model whose output cannot be logits
            of these classes, a device without memory for one image, or a folder that cannot be written.
        TypeError: for arguments of another type.
    """
    network, images = Network.of(model), ImageSet.of(data)
    world = World.here() if world is None else world
    chosen = [
        item if isinstance(item, Attack) else attack_library.from_name(item, norm=norm, seed=seed) for item in attacks
    ]
    if not chosen:
        raise ValueError("attacks should hold at least one, got none")
    if len({attack.norm for attack in chosen}) > 1:
        raise ValueError(f"attacks should share one norm, got {', '.join(f'{a.name} in {a.norm}' for a in chosen)}")
    if len({attack.name for attack in chosen}) < len(chosen):
        raise ValueError(f"attacks should be different, got {', '.join(attack.name for attack in chosen)}")
    radii = sorted({parse_eps(value, chosen[0].norm) for value in eps})
    if not radii:
        raise ValueError("eps should hold at least one, got none")
    for name, value, least in (("batch_size", batch_size, 1), ("draws", draws, 1), ("pictures", pictures, 0)):
        if value < least:
            raise ValueError(f"{name} should be at least {least}, got {value}")
    with evaluating(network.module):
        _check_network(network, images, batch_size)
        layers = _defenses(defenses, gradients, network.module, images.images[:1].to(network.device))
        run = Evaluation(
            network,
            images,
            layers,
            chosen,
            radii,
            [Network.of(item) for item in transfer],
            draws,
            checks,
            batch_size,
            pictures,
            seed,
        )
        store = Store(None if out is None else Path(out), world.name, [Path(folder) for folder in merge])
        numbers = world.mine(range(len(run.batch_indices)))
        cells, open_jobs = _run(run, store, numbers, only_finished, progress)
    gathered = join(world.gather(cells))
    done = sorted({index for cell in gathered for index in cell.indices})
    settings = _settings(run, images, chosen, radii, layers, open_jobs)
    return Report(settings=settings, cells=_placed(gathered, done), images=images.select(done))


def _check_network(network: Network, images: ImageSet, batch_size: int) -> None:
    """Raises what ``check_logits`` does for the first images, or if the device does not hold one of them."""
    first = torch.arange(len(images))[:batch_size]
    with torch.no_grad():
        found = in_batches(lambda part: network.module(images.images[part].to(network.device)), first, batch_size)
        check_logits(torch.cat([logits for _, logits in found]), images.labels)


def _defenses(
    given: Sequence[AnyDefense] | Mapping[str, Sequence[str]],
    gradients: Sequence[str],
    network: nn.Module,
    image: Tensor,
) -> list[Defended]:
    """All defences but the bare network, on the device of ``image``; given modules are not changed.

    Raises:
        ValueError: for an unknown name, or the same name twice.
    """
    pairs = given.items() if isinstance(given, Mapping) else [(item, gradients) for item in given]
    found = []
    for item, tried in pairs:
        if isinstance(item, str):
            found.append(parse_defense(item, tried, network, image))
        elif isinstance(item, Defended):
            found.append(item)
        else:
            # A copy, because its mode and its place change.
            layer = copy.deepcopy(item).to(image.device).eval()
            found.append(of_module(layer, type(item).__name__, tried, image))
    found = [defense for defense in found if defense.gradients]  # the bare network is always there
    if len({defense.name for defense in found}) < len(found):
        raise ValueError(f"defenses should be different, got {', '.join(defense.name for defense in found)}")
    return found


def _run(
    run: Evaluation, store: Store, numbers: Sequence[int], only_finished: bool, progress: Progress | None
) -> tuple[list[Cell], list[str]]:
    """The cells of these batches from the store, or computed, and the names of jobs that are not finished."""
    jobs = [*threat_jobs(run), *(control_jobs(run) if run.checks else ())]
    common = {
        "network": run.network.digest(),
        "seed": run.seed,
        "pictures": run.pictures,
        "draws": run.draws,
        "versions": {name: version for name, version in versions().items() if name in ("fdjpeg", "torch")},
    }
    digests = {number: run.images.digest(run.batch_indices[number]) for number in numbers}
    sizes = {number: len(run.batch_indices[number]) for number in numbers}
    done, total = 0, sum(sizes.values()) * len(jobs)
    cells: list[Cell] = []
    unfinished: list[str] = []

    def key(job: Job, number: int) -> str:
        depends = {**common, **job.settings, "images": [run.batch_indices[number].tolist(), digests[number]]}
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]

    for job in jobs:
        if only_finished and not all(key(job, number) in store for number in numbers):
            unfinished.append(job.name)
            continue
        for number in numbers:
            if progress is not None:
                progress(done, total, job.name)
            made = store.load(key(job, number))
            if made is None:
                made = job.compute(run.batch(number))
                store.save(key(job, number), made)
            run.found.setdefault(number, []).extend(made)
            cells += made
            done += sizes[number]
    if progress is not None:
        progress(done, total, "done")
    if not cells:
        raise ValueError("out should hold finished work where only that is reported, but the clean accuracy is open")
    return cells, unfinished


def _placed(cells: list[Cell], indices: list[int]) -> list[Cell]:
    """Cells whose indices are places among ``indices``, the images of this report."""
    place = {index: number for number, index in enumerate(indices)}
    return [
        replace(
            cell,
            indices=[place[index] for index in cell.indices],
            pictures=[replace(picture, index=place[picture.index]) for picture in cell.pictures],
        )
        for cell in cells
    ]


def _settings(
    run: Evaluation,
    images: ImageSet,
    attacks: Sequence[Attack],
    radii: Sequence[Fraction],
    layers: Sequence[Defended],
    open_jobs: list[str],
) -> dict[str, Any]:
    """All that a reader needs to run this again, as plain values."""
    tried = range(min(len(images), LATTICE_IMAGES))
    lattice = {images.names[i]: lattice_quality(to_bytes(images.images[i])) for i in tried}
    return {
        "images": {
            "count": len(images),
            "source": images.source,
            "terms": images.terms,
            "digest": images.digest(),
            "tried for a JPEG lattice": len(tried),
            "on a JPEG lattice": {name: quality for name, quality in lattice.items() if quality is not None},
        },
        "model": {
            "name": run.network.name,
            "source": run.network.source,
            "terms": run.network.terms,
            "digest": run.network.digest(),
        },
        "attacks": {attack.name: attack.settings() for attack in attacks},
        "gradient-free": [attack.name for attack in attacks if isinstance(attack, GRADIENT_FREE)],
        "defenses": {layer.name: list(layer.gradients) for layer in layers},
        "randomised": [layer.name for layer in layers if run.random[layer.name]],
        "draws": run.draws,
        "transfer": {network.name: network.source for network in run.transfer},
        "norm": run.norm,
        "eps": [format_eps(radius) for radius in radii],
        "batch_size": run.batch_size,
        "images at once": run.at_once,
        "pictures": run.pictures,
        "seed": run.seed,
        "checks": run.checks,
        "open": open_jobs,
        "device": str(run.network.device),
        "versions": versions(),
    }
