"""Batches that halve when a device runs out of memory."""

from __future__ import annotations

import pytest
import torch
from support.classifiers import Tiny
from torch import Tensor

from fdjpeg.attacks import PGD
from fdjpeg.evaluation.memory import in_batches
from fdjpeg.sources import ImageSet

EPS = 8 / 255


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_batches_halve_where_memory_ends_and_results_stay(kind: str, photographs: ImageSet) -> None:
    model, x, y, sizes = Tiny().eval(), photographs.images, photographs.labels, list[int]()

    def compute(part: Tensor) -> Tensor:
        sizes.append(len(part))
        if len(part) > 2:
            if kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return PGD(3, until_fooled=False)(model, x[part], y[part], EPS, indices=part)

    parts = list(in_batches(compute, torch.arange(5), 5))
    assert sizes == [5, 2, 2, 1]
    assert [part.tolist() for part, _ in parts] == [[0, 1], [2, 3], [4]]
    whole = PGD(3, until_fooled=False)(model, x[:5], y[:5], EPS)
    torch.testing.assert_close(torch.cat([found for _, found in parts]), whole, rtol=0, atol=1e-6)


def test_what_is_no_lack_of_memory_is_raised_and_one_image_that_does_not_fit_is_said() -> None:
    def fail(part: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    def never(part: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_batches(fail, torch.arange(3), 2))
    with pytest.raises(ValueError, match=r"^batch_size must fit into memory, got 1, which does not"):
        list(in_batches(never, torch.arange(3), 4))
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0"):
        list(in_batches(never, torch.arange(3), 0))
    assert list(in_batches(never, torch.arange(0), 4)) == []
