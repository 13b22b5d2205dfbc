"""JPEG ensemble: a table favoured by networks, one copy of the classifier tuned for each level of it, a majority vote.

Source: Zhang & Gao, arXiv 2106.13394, known to us by its abstract: a quantization table designed from an analysis of
the frequency coefficients, the pre-trained model tuned on images of different compression levels, a majority vote.

Ours, because the abstract leaves it open: a band's importance is the mean |∂loss/∂coefficient| (or its standard
deviation) at 4:4:4; the steps of the standard table are dealt out by importance, the smallest to the most important, so
that the mean step is the standard table's; the levels are that table × {0.5, 1, 2}; each member sees its own level; of
equal votes the class of the higher summed softmax wins.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fdjpeg
from fdjpeg import QuantTables

from .base import JPEGDefense, load_state


class JPEGEnsemble(JPEGDefense):
    """Copies of one classifier, each behind its own level of a table, that vote.

    The verdict is the vote: what ``wrap`` returns. An attacker climbs the mean log-probability through every branch:
    what ``for_attack(gradient).wrap`` returns.

    Args:
        luma, chroma: ``(8, 8)``, the table of level 1.
        levels: what the table is multiplied by for each member; steps are rounded and clamped to 1…255.
        members: the state dict of each member, None for members that are the classifier itself.

    Raises:
        ValueError: no level, a level that is not positive, tables of another shape, or another number of members.
    """

    kind = "jpeg-ensemble"

    def __init__(
        self,
        luma: Tensor | list[list[float]],
        chroma: Tensor | list[list[float]],
        levels: Sequence[float] = (0.5, 1.0, 2.0),
        members: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.luma, self.chroma = (torch.as_tensor(table, dtype=torch.float32) for table in (luma, chroma))
        for name, table in (("luma", self.luma), ("chroma", self.chroma)):
            if table.shape != (8, 8):
                raise ValueError(f"{name} must have shape (8, 8), got {tuple(table.shape)}")
        if not levels or not all(math.isfinite(level) and level > 0 for level in levels):
            raise ValueError(f"levels must be positive numbers, at least one, got {levels!r}")
        if members is not None and len(members) != len(levels):
            raise ValueError(f"members must be {len(levels)} state dicts, one for each level, got {len(members)}")
        self.levels = tuple(float(level) for level in levels)
        self.members = None if members is None else [dict(member) for member in members]

    def layer(self, level: float) -> fdjpeg.JPEG:
        """The compression that the member of a level sees."""
        tables = QuantTables(self.luma * level, self.chroma * level).integer()
        return fdjpeg.JPEG(tables=tables, subsampling="4:4:4", gradient=self.surrogate)

    def wrap(self, classifier: nn.Module) -> nn.Module:
        """See `Defense.wrap`. Copies the classifier once for each member that holds weights of its own."""
        device = next((tensor.device for tensor in classifier.state_dict().values()), torch.device("cpu"))
        branches = []
        for number, level in enumerate(self.levels):
            member = classifier
            if self.members is not None:
                member = copy.deepcopy(classifier)
                load_state(
                    member, self.members[number], f"the classifier given, for member {number + 1} of the ensemble"
                )
            branches.append(nn.Sequential(self.layer(level).to(device), member))
        return (Vote if self.gradient is None else MeanLogProbability)(branches).eval()

    def config(self) -> dict[str, Any]:
        """See `Defense.config`."""
        return {"luma": self.luma.tolist(), "chroma": self.chroma.tolist(), "levels": list(self.levels)}

    def tensors(self) -> dict[str, Tensor]:
        """See `Defense.tensors`: the members' weights under their number."""
        return {
            f"{number}.{name}": tensor
            for number, member in enumerate(self.members or [])
            for name, tensor in member.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Defense.load_tensors`."""
        members: list[dict[str, Tensor]] = [{} for _ in self.levels]
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            if not number.isdecimal() or int(number) >= len(members):
                raise ValueError(f"checkpoint should hold weights of {len(members)} members, got {key!r}")
            members[int(number)][name] = tensor
        self.members = members if tensors else None


class Vote(nn.Module):
    """The majority vote of classifiers, the summed softmax deciding between equal votes.

    Args:
        branches: each maps images to logits of the same classes.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, classes)``: votes for each class, plus the members' mean softmax, which never outweighs a vote."""
        logits = torch.stack([branch(images) for branch in self.branches])
        votes = F.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
        return votes + logits.softmax(dim=2).mean(dim=0)


class MeanLogProbability(nn.Module):
    """The mean of the branches' log-probabilities, differentiable through every branch.

    Args:
        branches: each maps images to logits of the same classes.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, classes)``."""
        return torch.stack([branch(images).log_softmax(dim=1) for branch in self.branches]).mean(dim=0)
