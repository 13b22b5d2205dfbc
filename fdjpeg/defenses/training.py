"""The engine that all trainings share: processes, precision, batches, what is kept to go on from, progress.

All chance is drawn from the seed, the stage, the epoch and the image's index. So a run that was stopped goes on to the
result that it would have had, and several processes draw what one would.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fdjpeg.evaluation.attacks import draw

from .checkpoint import read_tensors, whole_file, write_tensors
from .config import Schedule
from .data import Images, Item
from .packages import required

#: Precisions of the arithmetic, by Fabric's names: float32, or bfloat16 where that is safe.
PRECISIONS = ("32-true", "bf16-mixed")

#: Between two checkpoints within an epoch. One is also written at the end of each epoch.
CHECKPOINT_SECONDS = 600.0


class Chance:
    """Random numbers for a batch, which depend on each image's index but not on the batch it is in.

    Args:
        seed: of the run.
        moment: the stage and the epoch.
        indices: ``(N,)``, int64, on the CPU: the index of each image.
        device: where the numbers go.
    """

    def __init__(self, seed: int, moment: str, indices: Tensor, device: torch.device) -> None:
        self.seed = seed
        self.moment = moment
        self.indices = indices
        self.device = device

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Numbers in [0, 1), ``(N, *shape)``; the same for the same purpose."""
        return draw(torch.Size(shape), self.indices, self.seed, f"{self.moment}/{purpose}").to(self.device)

    def number(self, purpose: str) -> int:
        """A seed that does not depend on the image."""
        return number(self.seed, f"{self.moment}/{purpose}")

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Normally distributed numbers, ``(N, *shape)``."""
        return torch.special.ndtri(self.uniform(shape, purpose).clamp(1e-6, 1 - 1e-6))


class Batch:
    """A batch on its way through Fabric, which would round the images of a plain tensor to half precision.

    Args:
        images, labels, chance: as for `Objective.loss`.
    """

    def __init__(self, images: Tensor, labels: Tensor, chance: Chance) -> None:
        self.images = images
        self.labels = labels
        self.chance = chance


def number(seed: int, purpose: str) -> int:
    """A seed for one purpose."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "big") >> 1


class Objective(nn.Module):
    """A loss with the network that it trains and those that it only uses.

    Args:
        trained: the network; its parameters that require a gradient are trained.
        frozen: other networks of the loss; they stay in evaluation mode and do not change.
    """

    def __init__(self, trained: nn.Module, frozen: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.trained = trained
        self.frozen = nn.ModuleList(frozen)
        self.frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> Objective:
        """Training mode for the trained network only."""
        super().train(False)
        self.trained.train(mode)
        return self

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self.loss(batch.images, batch.labels, batch.chance)

    def loss(self, images: Tensor, labels: Tensor, chance: Chance) -> Tensor:
        """The mean loss over a batch, 0-dim.

        Args:
            images: ``(N, C, H, W)``, float32 in [0, 1].
            labels: ``(N,)``, int64.
            chance: all that may be drawn.
        """
        raise NotImplementedError


@dataclass
class Standing:
    """How far a stage has come.

    Attributes:
        epoch, step: what comes next.
        loss: the sum of the losses of this epoch's steps, as the first process had them.
        history: one entry for each finished epoch.
        best: the least loss on the images held out; NaN before the first.
        stale: epochs since then.
        finished: whether the stage is over.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.inf
    stale: int = 0
    finished: bool = False

    def metadata(self) -> dict[str, Any]:
        """As plain values; JSON knows no infinity."""
        return {**vars(self), "best": None if math.isinf(self.best) else self.best}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Standing:
        """What ``metadata`` gave."""
        return cls(**{**metadata, "best": math.inf if metadata["best"] is None else metadata["best"]})


class Run:
    """A training run in a folder.

    Args:
        out: the folder. Stages that are over, and the one that is under way, are kept there until the run is complete.
        settings: all that the result depends on; a run in this folder with other settings is refused.
        seed: of all chance.
        validation: the share of the images that is held out, 0 … 0.5; drawn from the seed.
        device: "auto", "cpu" or "cuda".
        precision: one of ``PRECISIONS``.
        workers: processes that read images, for each training process.
        quiet: without progress bars.

    Raises:
        ValueError: a value out of range, a device that is not there, or a folder that cannot be written or that holds
            another run.
        MissingPackage: lightning-fabric is not installed.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        validation: float = 0.0,
        device: str = "auto",
        precision: str = "32-true",
        workers: int = 0,
        quiet: bool = False,
    ) -> None:
        if not 0 <= validation <= 0.5:
            raise ValueError(f"validation should be in 0…0.5, got {validation}")
        if workers < 0:
            raise ValueError(f"workers should be at least 0, got {workers}")
        self.out = out
        self.seed = seed
        self.validation = validation
        self.workers = workers
        self.fabric = _fabric(device, precision)
        self.quiet = quiet or self.fabric.global_rank != 0
        self.history: dict[str, list[dict[str, float]]] = {}
        plain = json.loads(json.dumps(settings))
        complaint = self._claim(plain) if self.fabric.global_rank == 0 else None
        complaint = self.fabric.broadcast(complaint)
        if complaint is not None:
            raise ValueError(complaint)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.fabric.device
        return device

    # --- the folder ----------------------------------------------------------------------------------------------

    def _claim(self, settings: dict[str, Any]) -> str | None:
        """Notes the settings in the folder, or says why it cannot be used."""
        file = self.out / "run.json"
        try:
            found = json.loads(file.read_text()) if file.exists() else None
            if found is None:
                with whole_file(file) as draft:
                    draft.write_text(json.dumps(settings, indent=1) + "\n")
        except (OSError, ValueError) as error:
            return f"out should be a folder that can be written, got {str(self.out)!r}: {error}"
        if found is None or found == settings:
            return None
        before, now = _flat(found), _flat(settings)
        key = next(key for key in (*now, *before) if before.get(key) != now.get(key))
        return (
            f"out should be a folder without another run, got {str(self.out)!r}, where {key} is {before.get(key)!r}, "
            f"not {now.get(key)!r}"
        )

    def _file(self, stage: str) -> Path:
        return self.out / "stages" / f"{stage}.safetensors"

    def _stored(self, stage: str) -> tuple[dict[str, Tensor], Standing] | None:
        """What the first process finds of a stage, for all processes."""
        stored = None
        if self.fabric.global_rank == 0 and self._file(stage).exists():
            tensors, metadata = read_tensors(self._file(stage))
            stored = tensors, Standing.of(metadata)
        stored = self.fabric.broadcast(stored)
        return stored

    def _store(self, stage: str, standing: Standing, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keeps a stage; the first process writes."""
        if self.fabric.global_rank == 0:
            tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
            write_tensors(self._file(stage), tensors, standing.metadata())

    def complete(self, report: Mapping[str, Any]) -> None:
        """Writes training.json and removes what was kept to go on from."""
        if self.fabric.global_rank == 0:
            with whole_file(self.out / "training.json") as draft:
                draft.write_text(json.dumps({**report, "history": self.history}, indent=1) + "\n")
            for file in (self.out / "stages").glob("*"):
                file.unlink()
            if (self.out / "stages").is_dir():
                (self.out / "stages").rmdir()
        self.fabric.barrier()

    # --- images --------------------------------------------------------------------------------------------------

    def split(self, images: Images) -> tuple[Tensor, Tensor]:
        """Indices of the images to train on and of those held out."""
        order = torch.randperm(len(images), generator=self._generator("split"))
        held_out = round(self.validation * len(images))
        return order[held_out:], order[:held_out].sort().values

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(number(self.seed, purpose))

    def start(self, stage: str) -> None:
        """Seeds torch's own generator, from which a new network draws its weights."""
        torch.manual_seed(number(self.seed, f"{stage}/start"))

    def read(self, images: Images, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of indices as images (float32 in [0, 1]), classes, both on the device, and the indices.

        Raises:
            ValueError: an image cannot be read.
        """
        loader = DataLoader(
            images,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        for found in loader:
            if isinstance(found, ValueError):
                raise found
            pixels, labels, indices = found
            pixels = pixels.to(self.device, non_blocking=True)
            pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
            yield pixels, labels.to(self.device, non_blocking=True), indices

    def mine(self, images: Images, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Every so many-th batch of all images, with its number, its images and its classes.

        Batches are the same however many processes share them, so sums in their order are too.
        """
        batches = torch.arange(len(images)).split(batch_size)
        numbers = range(self.fabric.global_rank, len(batches), self.fabric.world_size)
        with self.bar("statistics", len(numbers)) as advance:
            found = self.read(images, [batches[number] for number in numbers])
            for number, (pixels, labels, _) in zip(numbers, found, strict=True):
                yield number, pixels, labels
                advance("")

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        tensor = tensor.to(self.device)
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor.cpu()

    # --- training ------------------------------------------------------------------------------------------------

    def fit(self, stage: str, objective: Objective, images: Images, schedule: Schedule) -> None:
        """Trains ``objective.trained`` in place; goes on where this stage was left.

        Args:
            stage: its name, unique in the run.
            objective: the loss.
            images: to train on, those held out included.
            schedule: how.

        Raises:
            ValueError: fewer images than a batch, a batch that the processes cannot share, patience without images held
                out, an image that cannot be read, or a loss that is no number.
        """
        chosen, held_out = self.split(images)
        self._check(len(chosen), len(held_out), schedule)
        objective.to(self.device)
        parameters = [parameter for parameter in objective.trained.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        best: dict[str, Tensor] = {}
        standing = Standing()
        if (stored := self._stored(stage)) is not None:
            tensors, standing = stored
            objective.trained.load_state_dict(_group(tensors, "model"))
            _load_optimizer(optimizer, _group(tensors, "optimizer"))
            best = _group(tensors, "best")
        self.history[stage] = standing.history
        if standing.finished:
            objective.eval()
            return
        wrapped, stepper = self.fabric.setup(objective, optimizer)
        steps = len(chosen) // schedule.batch_size

        def store() -> None:
            groups = {
                "model": objective.trained.state_dict(),
                "optimizer": {} if standing.finished else _optimizer_tensors(optimizer),
                "best": {} if standing.finished else best,
            }
            self._store(stage, standing, groups)

        with self.bar(stage, steps * schedule.epochs, standing.epoch * steps + standing.step) as advance:
            while standing.epoch < schedule.epochs and not standing.stale >= (schedule.patience or math.inf):
                epoch, saved = standing.epoch, time.monotonic()
                moment = f"{stage}/{epoch}"
                order = chosen[torch.randperm(len(chosen), generator=self._generator(moment))]
                batches = order[: steps * schedule.batch_size].split(schedule.batch_size)
                objective.train()
                loss_sum = torch.tensor(standing.loss, dtype=torch.float64, device=self.device)
                shares = [self._share(batch) for batch in batches[standing.step :]]
                for pixels, labels, indices in self.read(images, shares):
                    # Dropout draws from torch's own generator, so each step sets it.
                    torch.manual_seed(number(self.seed, f"{moment}/{standing.step}/{self._rank}"))
                    chance = Chance(self.seed, moment, indices, self.device)
                    for group in optimizer.param_groups:
                        group["lr"] = _learning_rate(schedule, epoch * steps + standing.step, steps)
                    loss = wrapped(Batch(augment(pixels, schedule.augment, chance), labels, chance))
                    stepper.zero_grad()
                    self.fabric.backward(loss)
                    stepper.step()
                    loss_sum += loss.detach()
                    standing.step += 1
                    advance(f"epoch {epoch + 1}")
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        standing.loss, saved = float(loss_sum), time.monotonic()
                        store()
                entry = {"loss": float(self.total(loss_sum)) / steps / self.fabric.world_size}
                if not math.isfinite(entry["loss"]):
                    raise ValueError(f"{stage} should have a finite loss, got {entry['loss']}: lower learning_rate")
                if len(held_out) > 0:
                    entry["held out"] = self._validate(objective, images, held_out, stage, schedule.batch_size)
                    if entry["held out"] < standing.best:
                        standing.best, standing.stale = entry["held out"], 0
                        best = {name: value.clone() for name, value in objective.trained.state_dict().items()}
                    else:
                        standing.stale += 1
                standing.history.append(entry)
                standing.epoch, standing.step, standing.loss = epoch + 1, 0, 0.0
                store()
        if schedule.patience is not None:
            objective.trained.load_state_dict(best)
        standing.finished = True
        store()
        objective.eval()
        self.fabric.barrier()

    @property
    def _rank(self) -> int:
        rank: int = self.fabric.global_rank
        return rank

    def _check(self, count: int, held_out: int, schedule: Schedule) -> None:
        world = self.fabric.world_size
        if schedule.batch_size % world:
            raise ValueError(f"batch_size should be a multiple of the {world} processes, got {schedule.batch_size}")
        if count < schedule.batch_size:
            raise ValueError(f"batch_size should be at most the {count} images to train on, got {schedule.batch_size}")
        if schedule.patience is not None and held_out == 0:
            raise ValueError("patience needs images held out: set validation above 0")

    def _share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch of indices."""
        return batch[self.fabric.global_rank :: self.fabric.world_size]

    def _validate(self, objective: Objective, images: Images, held_out: Tensor, stage: str, batch_size: int) -> float:
        """The mean loss over the images held out, in evaluation mode, of all processes."""
        objective.eval()
        total = torch.zeros(2, dtype=torch.float64)
        batches = [share for batch in held_out.split(batch_size) if len(share := self._share(batch)) > 0]
        with torch.no_grad(), self.fabric.autocast():
            for pixels, labels, indices in self.read(images, batches):
                chance = Chance(self.seed, f"{stage}/held out", indices, self.device)
                loss = objective.loss(pixels, labels, chance)
                total += torch.tensor([float(loss) * len(labels), len(labels)], dtype=torch.float64)
        loss_sum, count = self.total(total).tolist()
        return float(loss_sum / count)

    @contextmanager
    def bar(self, name: str, total: int, completed: int = 0) -> Iterator[typing.Callable[[str], None]]:
        """A progress bar on standard error; the block gets a function that advances it by one."""
        columns = (TextColumn(name), BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), disable=self.quiet) as progress:
            task = progress.add_task("", total=total, completed=completed)
            yield lambda text: progress.update(task, advance=1, description=text)


def augment(images: Tensor, kind: str, chance: Chance) -> Tensor:
    """Images changed at random as `Schedule.augment` says."""
    if kind == "none":
        return images
    flipped = chance.uniform((1, 1, 1), "flip") < 0.5
    images = torch.where(flipped, images.flip(-1), images)
    if kind == "flip":
        return images
    height, width = images.shape[-2:]
    reach = (height // 8, width // 8)
    padded = nn.functional.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    moves = (chance.uniform((2,), "crop").cpu() * (2 * torch.tensor(reach) + 1)).long().tolist()
    return torch.stack(
        [
            image[:, down : down + height, right : right + width]
            for image, (down, right) in zip(padded, moves, strict=True)
        ]
    )


def _learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """A cosine from the schedule's rate to 0 over all ``steps`` of all epochs."""
    return schedule.learning_rate * (1 + math.cos(math.pi * step / (steps * schedule.epochs))) / 2


def _collate(items: Iterable[Item]) -> tuple[Tensor, Tensor, Tensor] | ValueError:
    """Items as a batch, or the first thing that went wrong."""
    images, labels, indices = [], [], []
    for item in items:
        if isinstance(item, ValueError):
            return item
        images.append(item[0])
        labels.append(item[1])
        indices.append(item[2])
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of one group, by their names in it."""
    return {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{group}/")}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state of an optimizer; its settings come from the schedule."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": value for index, values in state.items() for key, value in values.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by their full names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def _fabric(device: str, precision: str) -> Any:
    """Lightning Fabric for this process: one of those that torchrun started, or the only one."""
    lightning = required("lightning_fabric", "lightning-fabric")
    strategies = required("lightning_fabric.strategies", "lightning-fabric")
    if precision not in PRECISIONS:
        raise ValueError(f"precision should be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f'device should be "auto", "cpu" or, where torch has it, "cuda", got {device!r}')
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = lightning.Fabric(
        accelerator="auto" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device,
        devices=local,
        num_nodes=world // local,
        # Batch statistics are each process's own; those of the first are kept.
        strategy=strategies.DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric
