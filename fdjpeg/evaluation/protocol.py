"""The protocol: ``evaluate``, from its arguments to its report.

``plan`` holds the settings. ``judging`` defines a *cell*, one judged experiment, and what counts as success.
``threats`` and ``controls`` list the experiments. A *job* makes cells of one batch of images. Batches are consecutive
images, the same ones for any number of processes. Processes share the batches, and each finished pair of job and batch
is stored. So neither the number of processes nor being killed and started again changes a figure.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fdjpeg._calls import check_weights, logits_of
from fdjpeg._checks import check_callable, check_path
from fdjpeg._fingerprint import described
from fdjpeg.attacks import format_eps
from fdjpeg.defenses import UNDEFENDED, Defended, of_module, parse_defense
from fdjpeg.defenses.base import copied
from fdjpeg.sources import External, ImageSet, Network
from fdjpeg.sources.image_set import LATTICE_IMAGES, AnyImages, lattice_quality, to_bytes
from fdjpeg.sources.networks import check_logits, evaluating

from .cells import Cell, join
from .certified import certificate_jobs, lacking
from .controls import control_jobs
from .judging import Evaluation, Job
from .memory import in_batches
from .plan import AnyDefense, Plan
from .report import Report
from .results import versions
from .settings import ImageOrigin, NetworkOrigin, RunSettings
from .store import Store
from .threats import GRADIENT_FREE, ON_COEFFICIENTS, threat_jobs, transfer_party
from .world import World

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .plan import PlanSettings

_LOG = logging.getLogger(__name__)

#: Called with the finished work, the whole work (both in images of all jobs) and the name of the current job.
Progress = Callable[[int, int, str], None]


def evaluate(
    model: nn.Module | Network,
    data: AnyImages,
    plan: Plan | None = None,
    *,
    out: str | Path | None = None,
    merge: Iterable[str | Path] = (),
    world: World | None = None,
    only_finished: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[PlanSettings],
) -> Report:
    """Measures defences before a network under attackers who know nothing, something or everything about them.

    For each radius the bare network is attacked. The resulting images are judged on the bare network (white-box) and
    behind every defence (gray-box), as are those made on other networks (transfer). Then every defence is attacked
    through each of its gradients (adaptive), and by attacks that only ask for outputs (black-box). Random noise of the
    same radius and the sanity checks complete the report, and certificates if the plan asks for them: images that no
    attack of the radius can break.

    Args:
        model: maps images ``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``; normalisation belongs inside it. It
            runs in evaluation mode on the device of its parameters; neither they nor its mode are changed.
        data: the images with their classes: an ``ImageSet``, a pair of tensors, arrays or lists, or a loader or data
            set of such pairs, see ``ImageSet.of``.
        plan: the settings; `Plan`'s defaults if None.
        out: a folder for finished work, from which a stopped run resumes; None keeps nothing.
        merge: more folders of finished work to read, those of shards.
        world: the processes that share the work; those of ``torchrun`` if None. Shards report on what they have.
        only_finished: compute nothing; report on the experiments that are finished.
        progress: called after every batch.
        settings: fields of `Plan`, in place of those of ``plan``: ``defenses``, ``attacks``, ``eps``, ``norm``,
            ``gradients``, ``transfer``, ``draws``, ``checks``, ``certify``, ``batch_size``, ``pictures``, ``seed``.

    Returns:
        The report, the same in each process of ``torchrun``; ``report.save(folder)`` writes it.

    Raises:
        ValueError: for values out of range, images outside [0, 1], no images, a model that does not take these images,
            changes them in place, or whose output cannot be logits of these classes, a device without memory for one
            image, or a folder that cannot be written.
        TypeError: for arguments of another type.

    Example::

        report = evaluate(model, loader, defenses=["jpeg:75"], attacks=["pgd-50"], eps=["2/255", "4/255"], out="run")
        report.save("run")
    """
    _check_arguments(plan, out, merge, world, only_finished, progress)
    network, images = Network.of(model), ImageSet.of(data)
    plan = replace(Plan() if plan is None else plan, **settings)
    world = World.here() if world is None else world
    # Attacks differentiate, whatever mode the caller is in.
    with torch.inference_mode(False), torch.enable_grad(), evaluating(network.module):
        images = _outside(images)
        _check_network(network, images, plan.batch_size)
        layers = _defenses(plan, network.module, images.images[:1].to(network.device))
        run = Evaluation(network, images, layers, plan)
        for other in run.others:
            with evaluating(other.module):
                _check_network(other, images, plan.batch_size, transfer_party(other))
        store = Store(None if out is None else Path(out), world.name, _folders(merge))
        numbers = world.mine(range(len(run.batch_indices)))
        if not numbers and not world.together:
            raise ValueError(
                f"world must leave each shard a batch, got {world.name} of {len(run.batch_indices)} batches of "
                f"{plan.batch_size} images: lower the batch size or the number of shards"
            )
        cells, open_jobs = _run(run, store, numbers, only_finished, progress)
    gathered = join(world.gather(cells))
    done = sorted({index for cell in gathered for index in cell.indices})
    return Report(_settings(run, open_jobs), _placed(gathered, done), images.select(done))


def _outside(images: ImageSet) -> ImageSet:
    """Returns images that autograd can keep: a copy of those that were made in inference mode."""
    if not (images.images.is_inference() or images.labels.is_inference()):
        return images
    return replace(images, images=images.images.clone(), labels=images.labels.clone())


def _folders(merge: Iterable[str | Path]) -> list[Path]:
    """Returns folders as paths."""
    folders = list(merge)
    for folder in folders:
        check_path("merge", folder)
    return [Path(folder) for folder in folders]


def _check_arguments(
    plan: object, out: object, merge: object, world: object, only_finished: object, progress: object
) -> None:
    """Refuses arguments of ``evaluate`` of another type."""
    if not (plan is None or isinstance(plan, Plan)):
        raise TypeError(f"plan must be a Plan or None, got {plan!r}")
    if out is not None:
        check_path("out", out)
    if isinstance(merge, (str, bytes)) or not isinstance(merge, Iterable):
        raise TypeError(f"merge must be a list of folders, got {merge!r}")
    if not (world is None or isinstance(world, World)):
        raise TypeError(f"world must be a World or None, got {world!r}")
    if not isinstance(only_finished, bool):
        raise TypeError(f"only_finished must be True or False, got {only_finished!r}")
    check_callable("progress", progress)


def _check_network(network: Network, images: ImageSet, batch_size: int, party: str = "model") -> None:
    """Raises the errors of ``check_logits`` for the first images, or a ValueError if the device cannot hold one."""
    check_weights(network.module, party)
    first = torch.arange(len(images), device="cpu")[:batch_size]
    with torch.no_grad():
        found = in_batches(
            lambda part: logits_of(network.module, images.images[part].to(network.device), party), first, batch_size
        )
        check_logits(torch.cat([logits for _, logits in found]), images.labels, party)


def _defenses(plan: Plan, network: nn.Module, image: Tensor) -> list[Defended]:
    """Returns all defences but the bare network, on the device of ``image``; given modules are not changed.

    Raises:
        ValueError: for an unknown name, or the same name twice.
    """
    given = plan.defenses
    pairs: Iterable[tuple[AnyDefense, Sequence[str]]]
    pairs = given.items() if isinstance(given, Mapping) else [(item, plan.gradients) for item in given]
    found = []
    for item, tried in pairs:
        if isinstance(item, str):
            found.append(parse_defense(item, tried, network, image))
        elif isinstance(item, Defended):
            found.append(item)
        else:
            check_weights(item, f"defense {type(item).__name__}")
            # A copy, because its mode and its place change.
            layer = copied(item).to(image.device).eval()
            found.append(of_module(layer, type(item).__name__, tried, image))
    found = [defense for defense in found if defense.gradients]  # the bare network is always there
    names = [defense.name for defense in found]
    if len(set(names)) < len(names) or UNDEFENDED.name in names:
        raise ValueError(
            f"defenses must be different, and not named {UNDEFENDED.name!r}, the bare network's name, got "
            f"{', '.join(names)}"
        )
    return found


def _run(
    run: Evaluation, store: Store, numbers: Sequence[int], only_finished: bool, progress: Progress | None
) -> tuple[list[Cell], list[str]]:
    """Returns the cells of these batches, stored or computed, and the names of jobs that are not finished."""
    jobs = [
        *threat_jobs(run),
        *(certificate_jobs(run) if run.plan.certify else ()),
        *(control_jobs(run) if run.plan.checks else ()),
    ]
    common = {
        "network": run.network.digest(),
        "seed": run.plan.seed,
        "pictures": run.plan.pictures,
        "draws": run.plan.draws,
        "versions": {name: version for name, version in versions().items() if name in ("fdjpeg", "torch")},
    }
    digests = {number: run.images.digest(run.batch_indices[number]) for number in numbers}
    sizes = {number: len(run.batch_indices[number]) for number in numbers}
    done = 0
    cells: list[Cell] = []
    unfinished: list[str] = []

    def key(job: Job, number: int) -> str:
        depends = {**common, **job.settings, "images": [run.batch_indices[number].tolist(), digests[number]]}
        return hashlib.sha256(json.dumps(depends, sort_keys=True, default=described).encode()).hexdigest()[:32]

    if only_finished:
        whole = [job for job in jobs if all(key(job, number) in store for number in numbers)]
        unfinished = [job.name for job in jobs if job not in whole]
        jobs = whole
    total = sum(sizes.values()) * len(jobs)
    for job in jobs:
        for number in numbers:
            if progress is not None:
                progress(done, total, job.name)
            made = store.load(key(job, number))
            _LOG.info("%s, batch %d: %s", job.name, number + 1, "computed" if made is None else "finished before")
            if made is None:
                made = job.compute(run.batch(number))
                store.save(key(job, number), made)
            run.found.setdefault(number, []).extend(made)
            cells += made
            done += sizes[number]
    if progress is not None:
        progress(done, total, "done")
    if not cells:
        raise ValueError("out must hold finished work where only that is reported, got none of the clean accuracy")
    return cells, unfinished


def _is_black_box(defense: Defended, network: nn.Module) -> bool:
    """Returns whether a defence, or the bare network, holds a function outside of torch."""
    module = network if defense.name == UNDEFENDED.name else defense.module
    return module is not None and any(isinstance(part, External) for part in module.modules())


def _placed(cells: list[Cell], indices: list[int]) -> list[Cell]:
    """Returns cells whose indices are places among ``indices``, the images of this report."""
    place = {index: number for number, index in enumerate(indices)}
    return [
        replace(
            cell,
            indices=[place[index] for index in cell.indices],
            pictures=[replace(picture, index=place[picture.index]) for picture in cell.pictures],
        )
        for cell in cells
    ]


def _settings(run: Evaluation, open_jobs: list[str]) -> RunSettings:
    """Returns everything that a reader needs to run this again."""
    plan, images, network = run.plan, run.images, run.network
    layers = run.defenses[1:]
    tried = range(min(len(images), LATTICE_IMAGES))
    lattice = {images.names[i]: lattice_quality(to_bytes(images.images[i])) for i in tried}
    return RunSettings(
        images=ImageOrigin(
            count=len(images),
            source=images.source,
            terms=images.terms,
            digest=images.digest(),
            lattice_tried=len(tried),
            on_lattice={name: quality for name, quality in lattice.items() if quality is not None},
        ),
        model=NetworkOrigin(network.name, network.source, network.terms, network.digest()),
        attacks={attack.name: attack.settings() for attack in plan.chosen},
        gradient_free=[attack.name for attack in plan.chosen if isinstance(attack, GRADIENT_FREE)],
        on_coefficients=[attack.name for attack in plan.chosen if isinstance(attack, ON_COEFFICIENTS)],
        exposed=[layer.name for layer in layers if layer.exposes is not None],
        defenses={layer.name: list(layer.gradients) for layer in layers},
        randomised=[layer.name for layer in layers if run.random[layer.name]],
        draws=plan.draws,
        transfer={other.name: other.source for other in plan.others},
        black_boxes=[layer.name for layer in run.defenses if _is_black_box(layer, network.module)],
        norm=plan.ball,
        eps=[format_eps(radius) for radius in plan.radii],
        batch_size=plan.batch_size,
        at_once=run.at_once,
        pictures=plan.pictures,
        seed=plan.seed,
        checks=plan.checks,
        certify=plan.certify,
        uncertified=lacking(run) if plan.certify else {},
        first_pass=[layer.name for layer in layers if layer.first is not None],
        open=open_jobs,
        device=str(network.device),
        versions=versions(),
    )
