"""The engine of all trainings: processes, precision, batches, checkpoints, progress."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from fdjpeg._packages import required

from ..checkpoint import FILE, read_tensors, remove_drafts, whole_file, write_tensors
from . import batch_statistics
from .config import Schedule
from .images import Images, Item, in_unit_range
from .objective import Batch, Chance, Objective, augment, seed_for
from .stage import Position, Stage

_LOG = logging.getLogger(__name__)

#: Precisions of the arithmetic, by Fabric's names: float32, or bfloat16 where that is safe.
PRECISIONS = ("32-true", "bf16-mixed")

#: Time between two checkpoints within an epoch. One is also written at the end of each epoch.
CHECKPOINT_SECONDS = 600.0


class Run:
    """A training run in a folder.

    Args:
        out: the folder. It keeps finished stages and the current one until the run is complete.
        settings: all that the result depends on; a run in this folder with other settings is refused.
        seed: of all chance.
        validation: the share of the images that is held out, 0 … 0.5; drawn from the seed.
        device: "auto", "cpu" or "cuda".
        precision: one of ``PRECISIONS``.
        workers: number of processes that read images, for each training process.
        quiet: without progress bars.

    Raises:
        ValueError: a value out of range, a device that is not there, or a folder that cannot be written or that holds
            another run.
        MissingPackage: lightning-fabric is not installed.

    Example::

        run = Run(Path("out"), {"seed": 0})
        run.start("network")
        network = make_network()  # its weights follow from the seed and the stage
        run.fit("network", HardLabels(network, temperature=1.0), images, Schedule(epochs=10))
        run.complete({"seed": 0})
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
            raise ValueError(f"validation must be in 0…0.5, got {validation}")
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
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
        """The device of this process."""
        device: torch.device = self.fabric.device
        return device

    # --- the folder ----------------------------------------------------------------------------------------------

    def _claim(self, settings: dict[str, Any]) -> str | None:
        """Writes the settings to the folder, or returns the reason why it cannot be used."""
        file = self.out / "run.json"
        try:
            found = json.loads(file.read_text()) if file.exists() else None
        except (OSError, ValueError) as error:
            return f"out must be a folder whose run.json can be read, got {str(self.out)!r}: {error}"
        if not isinstance(found, dict | None):
            return f"out must be a folder whose run.json holds a run's settings, got {str(self.out)!r}: {found!r}"
        try:
            remove_drafts(self.out, self.out / "stages")
            if found is None or not self._begun():
                with whole_file(file) as draft:
                    draft.write_text(json.dumps(settings, indent=1) + "\n")
                return None
        except ValueError as error:
            return str(error)
        if found == settings:
            return None
        before, now = _flat(found), _flat(settings)
        key = next(key for key in (*now, *before) if before.get(key) != now.get(key))
        return (
            f"out must be a folder without another run, got {str(self.out)!r}, where {key} is {before.get(key)!r}, "
            f"not {now.get(key)!r}"
        )

    def _begun(self) -> bool:
        """Returns whether the folder holds anything of a run in addition to its settings."""
        whole = (self.out / FILE, self.out / "training.json")
        return any(file.exists() for file in whole) or any((self.out / "stages").glob("*.safetensors"))

    def _file(self, stage: str) -> Path:
        return self.out / "stages" / f"{stage}.safetensors"

    def _restore(self, stage: Stage) -> None:
        """Restores a stage in all processes from the checkpoint that the first process finds, if there is one."""
        stored = None
        if self.fabric.global_rank == 0 and self._file(stage.name).exists():
            stored = read_tensors(self._file(stage.name))
        stored = self.fabric.broadcast(stored)
        if stored is not None:
            tensors, metadata = stored
            try:
                stage.restore(tensors, Position.of(metadata))
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                file = str(self._file(stage.name))
                raise ValueError(f"out must hold checkpoints of this run only, got {file!r}: {error}") from error

    def _store(self, stage: Stage) -> None:
        """Writes a checkpoint of a stage, in the first process."""
        if self.fabric.global_rank == 0:
            write_tensors(self._file(stage.name), stage.tensors(), stage.position.metadata())

    def complete(self, report: Mapping[str, Any]) -> None:
        """Writes training.json and removes the checkpoints."""
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
        """Returns the indices of the images to train on and of those held out."""
        order = torch.randperm(len(images), generator=self._generator("split"), device="cpu")
        held_out = round(self.validation * len(images))
        return order[held_out:], order[:held_out].sort().values

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_for(self.seed, purpose))

    def start(self, stage: str) -> None:
        """Seeds torch's global generator, from which a new network draws its weights."""
        torch.manual_seed(seed_for(self.seed, f"{stage}/start"))

    def read(self, images: Images, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Reads batches: images (float32 in [0, 1]) and classes, both on the device, and the given indices.

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
            pixels = in_unit_range(pixels.to(self.device, non_blocking=True))
            yield pixels, labels.to(self.device, non_blocking=True), indices

    def mine(self, images: Images, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Reads this process's batches of all images, each with its number, its images and its classes.

        The batches do not depend on the number of processes that share them, so sums in their order do not either.
        """
        batches = torch.arange(len(images), device="cpu").split(batch_size)
        numbers = range(self.fabric.global_rank, len(batches), self.fabric.world_size)
        with self.bar("statistics", len(numbers)) as advance:
            found = self.read(images, [batches[number] for number in numbers])
            for number, (pixels, labels, _) in zip(numbers, found, strict=True):
                yield number, pixels, labels
                advance("")

    def total(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes, on the CPU."""
        tensor = tensor.to(self.device)
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor.cpu()

    def _mean(self, tensor: Tensor) -> Tensor:
        """Returns the mean of a tensor over all processes, on the device."""
        if self.fabric.world_size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
            tensor /= self.fabric.world_size
        return tensor

    # --- training ------------------------------------------------------------------------------------------------

    def fit(self, name: str, objective: Objective, images: Images, schedule: Schedule) -> None:
        """Trains ``objective.trained`` in place; resumes where this stage was stopped.

        Args:
            name: the stage's, unique in the run.
            objective: the loss with its network.
            images: to train on, those held out included.
            schedule: of the training.

        Raises:
            ValueError: fewer images than a batch, a batch that the processes cannot share, patience without images held
                out, an image that cannot be read, or a loss that is not finite.
        """
        chosen, held_out = self.split(images)
        self._check(len(chosen), len(held_out), schedule)
        stage = Stage(name, objective.to(self.device), schedule)
        self._restore(stage)
        _LOG.info("%s begins at epoch %d, step %d", name, stage.position.epoch + 1, stage.position.step + 1)
        position, steps = stage.position, len(chosen) // schedule.batch_size
        self.history[name] = position.history
        if not position.finished:
            wrapped = self.fabric.setup(objective, stage.optimizer)
            together = batch_statistics.of_all_processes(objective) if self.fabric.world_size > 1 else nullcontext()
            total, done = steps * schedule.epochs, position.epoch * steps + position.step
            with together, self.bar(name, total, done) as advance:
                while stage.unfinished:
                    entry = {"loss": self._epoch(stage, wrapped, images, chosen, advance)}
                    if len(held_out) > 0:
                        entry["held out"] = self._validate(stage, images, held_out)
                    stage.end_epoch(entry)
                    _LOG.info("%s, epoch %d: %s", name, position.epoch, entry)
                    self._store(stage)
            stage.finish()
            self._store(stage)
            self.fabric.barrier()
        objective.eval()

    def _epoch(
        self, stage: Stage, wrapped: Any, images: Images, chosen: Tensor, advance: Callable[[str], None]
    ) -> float:
        """Trains for the rest of an epoch, and returns the mean loss of the whole epoch.

        Args:
            stage: its position gives the first step.
            wrapped: the objective and the optimizer as Fabric has them.
            images, chosen: those to train on, and their indices.
            advance: called after each step.
        """
        module, optimizer = wrapped
        position, size, saved = stage.position, stage.schedule.batch_size, time.monotonic()
        moment, steps = f"{stage.name}/{position.epoch}", len(chosen) // size
        order = chosen[torch.randperm(len(chosen), generator=self._generator(moment), device="cpu")]
        shares = [self._share(batch) for batch in order[: steps * size].split(size)[position.step :]]
        loss_sum = torch.tensor(position.loss, dtype=torch.float64, device=self.device)
        stage.objective.train()
        for pixels, labels, indices in self.read(images, shares):
            # Dropout draws from torch's global generator, so each step seeds it.
            torch.manual_seed(seed_for(self.seed, f"{moment}/{position.step}/{self.fabric.global_rank}"))
            chance = Chance(self.seed, moment, indices, self.device)
            stage.set_learning_rate(steps)
            loss = module(Batch(augment(pixels, stage.schedule.augment, chance), labels, chance))
            optimizer.zero_grad()
            self.fabric.backward(loss)
            optimizer.step()
            loss_sum += self._mean(loss.detach())
            position.step += 1
            advance(f"epoch {position.epoch + 1}")
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                position.loss, saved = float(loss_sum), time.monotonic()
                stage.check_losses({"loss": position.loss})
                self._store(stage)
        return float(loss_sum) / steps

    def _check(self, count: int, held_out: int, schedule: Schedule) -> None:
        world = self.fabric.world_size
        if schedule.batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {schedule.batch_size}")
        if count < schedule.batch_size:
            raise ValueError(f"batch_size must be at most the {count} images to train on, got {schedule.batch_size}")
        if schedule.patience is not None and held_out == 0:
            raise ValueError(f"validation must hold out images where patience is given, got {self.validation}")

    def _share(self, batch: Tensor) -> Tensor:
        """Returns this process's part of a batch of indices."""
        return batch[self.fabric.global_rank :: self.fabric.world_size]

    def _validate(self, stage: Stage, images: Images, held_out: Tensor) -> float:
        """Returns the mean loss over all images held out, in evaluation mode, from all processes."""
        stage.objective.eval()
        total = torch.zeros(2, dtype=torch.float64, device="cpu")
        batches = held_out.split(stage.schedule.batch_size)
        shares = [share for batch in batches if len(share := self._share(batch)) > 0]
        with torch.no_grad(), self.fabric.autocast():
            for pixels, labels, indices in self.read(images, shares):
                chance = Chance(self.seed, f"{stage.name}/held out", indices, self.device)
                loss = stage.objective.loss(pixels, labels, chance)
                total += torch.tensor([float(loss) * len(labels), len(labels)], dtype=torch.float64, device="cpu")
        loss_sum, count = self.total(total).tolist()
        return float(loss_sum / count)

    @contextmanager
    def bar(self, name: str, total: int, completed: int = 0) -> Iterator[Callable[[str], None]]:
        """Shows a progress bar on standard error; the block gets a function that advances it by one."""
        columns = (TextColumn(name), BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), disable=self.quiet) as progress:
            task = progress.add_task("", total=total, completed=completed)
            yield lambda text: progress.update(task, advance=1, description=text)


def _collate(items: Iterable[Item]) -> tuple[Tensor, Tensor, Tensor] | ValueError:
    """Returns items as a batch, or the first error among them."""
    images, labels, indices = [], [], []
    for item in items:
        if isinstance(item, ValueError):
            return item
        images.append(item[0])
        labels.append(item[1])
        indices.append(item[2])
    return torch.stack(images), torch.tensor(labels, device="cpu"), torch.tensor(indices, device="cpu")


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns nested settings by their full names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def _fabric(device: str, precision: str) -> Any:
    """Returns Lightning Fabric for this process: one of those that torchrun started, or the only one."""
    lightning = required("lightning_fabric", "lightning-fabric", "train")
    strategies = required("lightning_fabric.strategies", "lightning-fabric", "train")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f'device must be "auto", "cpu" or, where torch has it, "cuda", got {device!r}')
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = lightning.Fabric(
        accelerator="auto" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device,
        devices=local,
        num_nodes=world // local,
        # All processes see the same batch statistics; of any other buffers, the first process's are kept.
        strategy=strategies.DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric
