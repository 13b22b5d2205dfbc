"""NumPy's numbers are taken as Python's are, where torch or JSON would refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import fdjpeg
from fdjpeg import attacks, augmentations, defenses, learning, sources
from fdjpeg.evaluation import Plan


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    """In every setting of an attack and of a plan, in a defence's file and in learning; torch and JSON refuse them."""
    steps: Any = np.int64(2)
    image, label = torch.rand(1, 3, 8, 8), torch.tensor([0])
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()
    size: Any = np.float32(0.5)
    attack = attacks.PGD(steps=steps, step=size, seed=steps, restarts=steps)
    assert attack == attacks.PGD(steps=2, step=0.5, seed=2, restarts=2)
    assert torch.equal(
        attack(network, image, label, size), attacks.PGD(2, 2, step=0.5, seed=2)(network, image, label, 0.5)
    )
    for name in ("flip", "square-3", "cw", "cw-linf", "deepfool", "jsma", "noise", "apgd-ce", "fab", "ddn"):
        assert type(attacks.from_name(name, seed=steps, norm=None).seed) is int
    plan = Plan(batch_size=steps, draws=steps, seed=steps, pictures=steps)
    assert all(type(value) is int for value in (plan.batch_size, plan.draws, plan.seed, plan.pictures))


def test_defences_and_learning_take_numbers_of_numpy(tmp_path: Path) -> None:
    number: Any = np.int64(50)
    defenses.save(defenses.JPEG(number), tmp_path / "jpeg")
    assert defenses.load(tmp_path / "jpeg").config() == defenses.JPEG(50).config()
    levels: Any = np.array([0.5, 1.0])
    table = fdjpeg.QuantTables.standard(50).luma
    assert defenses.JPEGEnsemble(table, table, levels=levels).levels == (0.5, 1.0)
    few: Any = np.int64(1)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    learned = learning.learn_tables(images, torch.tensor([99, 99]), iterations=few, batch_size=few, seed=few)
    assert learned == learning.learn_tables(images, torch.tensor([99, 99]), iterations=1, batch_size=1, seed=1)
    bits, curve = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 1.0], [2.0, 4.0]])
    wanted = learning.bits_ratio(bits, bits, curve, curve, resamples=1, seed=1)
    assert learning.bits_ratio(bits, bits, curve, curve, resamples=few, seed=few) == wanted
    mean: Any = np.full(3, 0.5)
    assert sources.Normalized(torch.nn.Identity(), mean, mean)(torch.ones(1, 3, 8, 8)).unique().tolist() == [1]
    shift: Any = np.array([1, 2])
    assert augmentations.DoubleJPEG(shift=shift).shift == (1, 2)
    assert augmentations.Recompress(scale=levels, restore=True).scale == (0.5, 1.0)
