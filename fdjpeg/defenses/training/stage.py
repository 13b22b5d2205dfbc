"""A stage of a training: one network on its way through a schedule, and its position, as checkpoints keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .config import Schedule
from .objective import Objective


@dataclass
class Position:
    """The position of a stage in its training.

    Attributes:
        epoch, step: the next ones, from 0.
        loss: the sum of the losses of this epoch's steps.
        history: one entry for each finished epoch.
        best: the least loss on the images held out; infinite before the first.
        stale: number of epochs since then.
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
        """Returns plain values; JSON has no infinity, so ``best`` becomes None."""
        return {**vars(self), "best": None if math.isinf(self.best) else self.best}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Position:
        """Returns the position from the values that ``metadata`` returned."""
        return cls(**{**metadata, "best": math.inf if metadata["best"] is None else metadata["best"]})


class Stage:
    """A network on its way through a schedule, with all that a checkpoint keeps of it.

    Args:
        name: unique in a run.
        objective: the loss with its network, on its device.
        schedule: of the training.

    Raises:
        ValueError: the network has no parameters that require a gradient.
    """

    def __init__(self, name: str, objective: Objective, schedule: Schedule) -> None:
        self.name = name
        self.objective = objective
        self.schedule = schedule
        trained = [parameter for parameter in objective.trained.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError(f"model must have parameters to train, got none for {name}")
        self.optimizer = torch.optim.AdamW(trained, schedule.learning_rate, weight_decay=schedule.weight_decay)
        self.position = Position()
        self.best: dict[str, Tensor] = {}

    @property
    def unfinished(self) -> bool:
        """Whether there is another epoch."""
        patience = self.schedule.patience or math.inf
        return self.position.epoch < self.schedule.epochs and self.position.stale < patience

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors from which the stage can resume; only the weights where it is over."""
        groups = {"model": self.objective.trained.state_dict()}
        if not self.position.finished:
            state = self.optimizer.state_dict()["state"]
            groups["optimizer"] = {f"{index}/{key}": value for index in state for key, value in state[index].items()}
            groups["best"] = self.best
        return {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def restore(self, tensors: Mapping[str, Tensor], position: Position) -> None:
        """Takes the tensors that ``tensors`` returned."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "best": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = tensor
        self.objective.trained.load_state_dict(groups["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in groups["optimizer"].items():
            index, _, name = key.partition("/")
            state.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.best, self.position = groups["best"], position

    def set_learning_rate(self, steps: int) -> None:
        """Sets the rate: a cosine from the schedule's rate to 0 over all epochs of ``steps`` steps."""
        along = (self.position.epoch * steps + self.position.step) / (steps * self.schedule.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * (1 + math.cos(math.pi * along)) / 2

    def check_losses(self, entry: Mapping[str, float]) -> None:
        """Refuses losses that are not finite.

        Raises:
            ValueError: naming the stage and its losses.
        """
        if not all(map(math.isfinite, entry.values())):
            losses = ", ".join(f"{kind} {loss}" for kind, loss in entry.items())
            raise ValueError(f"{self.name} must have a finite loss, got {losses}: lower learning_rate")

    def end_epoch(self, entry: dict[str, float]) -> None:
        """Notes the losses of an epoch, and the weights if they are the best so far.

        Raises:
            ValueError: a loss is not finite.
        """
        self.check_losses(entry)
        if entry.get("held out", math.inf) < self.position.best:
            self.position.best, self.position.stale = entry["held out"], 0
            self.best = {name: value.clone() for name, value in self.objective.trained.state_dict().items()}
        else:
            self.position.stale += 1
        self.position.history.append(entry)
        self.position.epoch, self.position.step, self.position.loss = self.position.epoch + 1, 0, 0.0

    def finish(self) -> None:
        """Takes the weights of the best epoch, if the schedule asks for them.

        Raises:
            ValueError: a weight is not finite.
        """
        if self.schedule.patience is not None:
            self.objective.trained.load_state_dict(self.best)
        for name, value in self.objective.trained.state_dict().items():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{self.name} must have finite weights, got NaN or infinity in {name}: lower learning_rate"
                )
        self.position.finished = True
