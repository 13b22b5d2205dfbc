"""Several processes that share a batch: its images, and the statistics of batch normalisation; without starting any."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.defense_data import SEED
from torch import Tensor, nn

from fdjpeg.defenses.training import batch_statistics
from fdjpeg.defenses.training import run as engine
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.images import StoredImages
from fdjpeg.defenses.training.run import Run
from fdjpeg.defenses.training.stage import Stage
from fdjpeg.sources import ImageSet

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

COUNT = 27

#: Images that hold their own index: each is constant, index / 100.
NUMBERED = StoredImages.of(
    ImageSet(
        (torch.arange(COUNT) / 100).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone(),
        torch.arange(COUNT) % 4,
        tuple(map(str, range(COUNT))),
    )
)


def shared(run: Run, rank: int, world: int) -> Run:
    """Makes a run that of one process of several, without any other."""
    run.fabric = SimpleNamespace(global_rank=rank, world_size=world, device=torch.device("cpu"))
    return run


def test_processes_share_batches_without_rest(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, quiet=True)
    batch = torch.randperm(12)
    shares = [shared(run, rank, 3)._share(batch).tolist() for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert sorted(index for share in shares for index in share) == list(range(12))
    run._check(12, 0, Schedule(batch_size=12))
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, got 10"):
        run._check(12, 0, Schedule(batch_size=10))
    with pytest.raises(ValueError, match="batch_size must be at most the 11 images to train on, got 12"):
        run._check(11, 0, Schedule(batch_size=12))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_statistics_come_from_batches_that_do_not_depend_on_the_processes(world: int, tmp_path: Path) -> None:
    run, found = Run(tmp_path, {}, quiet=True), {}
    for rank in range(world):
        for number, pixels, labels in shared(run, rank, world).mine(NUMBERED, 5):
            assert number not in found
            found[number] = (pixels[:, 0, 0, 0] * 100).round().int().tolist()
            assert labels.tolist() == [index % 4 for index in found[number]]
    everything = list(range(COUNT))
    assert found == {number: everything[5 * number : 5 * number + 5] for number in range(6)}


class Together:
    """Threads in the place of processes, whose tensors are summed once all of them have come."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=60)
        self.given: dict[int, Tensor] = {}

    def all_reduce(self, tensor: Tensor) -> None:
        self.given[threading.get_ident()] = tensor.clone()
        self.barrier.wait()
        total = torch.stack([self.given[name] for name in sorted(self.given)]).sum(dim=0)
        self.barrier.wait()
        tensor.copy_(total)
        self.barrier.wait()
        self.given.clear()
        self.barrier.wait()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Iterator[Together]:
    made = Together(2)
    monkeypatch.setattr(torch.distributed, "all_reduce", made.all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: made.world)
    return made  # type: ignore[return-value]


def test_losses_are_means_and_counts_are_sums_over_processes(together: Together, tmp_path: Path) -> None:
    run, found, given = Run(tmp_path, {}, quiet=True), {}, (torch.tensor(1.0), torch.tensor(4.0))
    assert torch.equal(run._mean(given[1]), given[1])
    assert torch.equal(run.total(given[1]), given[1])
    run.fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"))

    def work(rank: int) -> None:
        mean = float(run._mean(given[rank]))
        found[rank] = mean, float(run.total(given[rank].clone()))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: (2.5, 5.0), 1: (2.5, 5.0)}
    assert [float(loss) for loss in given] == [1.0, 4.0]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_two_processes_normalise_by_the_whole_batch(momentum: float | None, together: Together) -> None:
    generator = torch.Generator().manual_seed(SEED)
    x, weights = (torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    one = nn.BatchNorm2d(3, momentum=momentum).double()
    with torch.no_grad():
        one.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
    shares = [nn.BatchNorm2d(3, momentum=momentum).double() for _ in range(2)]
    for share in shares:
        share.load_state_dict(one.state_dict())
    whole_x = x.clone().requires_grad_()
    expected = one(whole_x)
    (expected * weights).sum().backward()
    results: dict[int, tuple[Tensor, Tensor]] = {}

    def work(rank: int) -> None:
        mine = x[rank::2].clone().requires_grad_()
        with batch_statistics.of_all_processes(shares[rank]):
            out = shares[rank](mine)
        (out * weights[rank::2]).sum().backward()
        assert mine.grad is not None
        results[rank] = out.detach(), mine.grad

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole_x.grad is not None
    for rank in range(2):
        out, grad = results[rank]
        torch.testing.assert_close(out, expected.detach()[rank::2], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad, whole_x.grad[rank::2], rtol=1e-9, atol=1e-9)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(shares[rank].state_dict()[name], value, rtol=1e-9, atol=1e-9)
    for name, parameter in one.named_parameters():
        total = sum(dict(share.named_parameters())[name].grad for share in shares)  # type: ignore[misc]
        torch.testing.assert_close(total, parameter.grad, rtol=1e-9, atol=1e-9)


def test_two_values_have_the_variance_of_a_sample(together: Together) -> None:
    """The least that a batch may hold: one value of each channel in each of two processes."""
    x = torch.tensor([[1.0, -2.0], [4.0, 2.0]], dtype=torch.float64)
    shares = [nn.BatchNorm1d(2, momentum=1.0).double() for _ in range(2)]

    def work(rank: int) -> None:
        with batch_statistics.of_all_processes(shares[rank]):
            shares[rank](x[rank : rank + 1])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for share in shares:
        assert share.running_mean is not None
        assert share.running_var is not None
        assert share.running_mean.tolist() == [2.5, 0.0]
        assert share.running_var.tolist() == [4.5, 8.0]  # divided by 2 − 1


class Other(nn.BatchNorm2d):
    """A layer that may do more than normalise."""


def test_layers_derived_from_batch_normalisation_are_left_as_they_are() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), Other(2), nn.BatchNorm3d(2), nn.Linear(2, 2))
    with batch_statistics.of_all_processes(module):
        assert ["forward" in vars(part) for part in module] == [True, False, True, False]
    assert not any("forward" in vars(part) for part in module)


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    objective = nn.Module()
    objective.trained = nn.Linear(1, 1)
    stage: Any = Stage("stage", objective, Schedule())  # type: ignore[arg-type]
    run = Run(tmp_path, {}, quiet=True)
    shared(run, 1, 2)._store(stage)
    assert os.listdir(tmp_path) == ["run.json"]
    shared(run, 0, 2)._store(stage)
    assert os.listdir(tmp_path / "stages") == ["stage.safetensors"]
    assert engine.CHECKPOINT_SECONDS == 600


@pytest.mark.parametrize(
    ("environment", "devices", "nodes"),
    [
        ({}, 1, 1),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4, 2),
        ({"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}, 3, 1),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, 1),
    ],
)
def test_processes_are_those_that_torchrun_started(
    environment: dict[str, str], devices: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Fabric:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def launch(self) -> None:
            made.append({"launched": True})

    spy = SimpleNamespace(Fabric=Fabric, DDPStrategy=lambda **settings: settings)
    monkeypatch.setattr(engine, "required", lambda *_: spy)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    engine._fabric("cpu", "bf16-mixed")
    assert made == [
        {
            "accelerator": "cpu",
            "devices": devices,
            "num_nodes": nodes,
            "strategy": {"broadcast_buffers": False} if environment else "auto",
            "precision": "bf16-mixed",
        },
        {"launched": True},
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine._fabric("cuda", "32-true")
    assert made[2]["accelerator"] == "cuda"
    engine._fabric("auto", "32-true")
    assert made[4]["accelerator"] == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine._fabric("auto", "32-true")
    assert made[6]["accelerator"] == "cpu"
    with pytest.raises(ValueError, match='device must be "auto", "cpu" or, where torch has it, "cuda", got \'cuda\''):
        engine._fabric("cuda", "32-true")
