"""Fixtures of the tests of defences: classifiers, bare and trained, and images, in memory and in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import defense_data
from support.defense_data import SEED, Trained, accuracy, patterns, stored
from torch import Tensor, nn

from fdjpeg.defenses.defensive_distillation import HardLabels
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.defenses.training.run import Run


@pytest.fixture
def classifier() -> nn.Module:
    return defense_data.network().eval()


@pytest.fixture
def images() -> Tensor:
    return defense_data.patterns(6, SEED)[0]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A network that gets the patterns right, trained by the engine itself."""
    images = stored(*patterns(512, seed=0))
    classifier = defense_data.network()
    run = Run(tmp_path_factory.mktemp("classifier"), {}, seed=SEED, quiet=True)
    schedule = Schedule(epochs=8, batch_size=32, learning_rate=5e-3, augment="none")
    run.fit("classifier", HardLabels(classifier, 1.0), images, schedule)
    x, y = patterns(256, seed=1)
    assert accuracy(classifier, x, y) > 0.95
    return Trained(classifier.eval(), images, x, y)


@pytest.fixture
def npz(tmp_path: Path) -> str:
    """64 patterns in a file."""
    images, labels = patterns(64, seed=0)
    np.savez(tmp_path / "patterns.npz", train_images=(images * 255).round().byte().numpy(), train_labels=labels.numpy())
    return f"{tmp_path / 'patterns.npz'}:train"
