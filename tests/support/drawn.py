"""Images of any kind, drawn by hypothesis, and calls that may be refused: for tests of any call."""

from __future__ import annotations

import os
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

import fdjpeg

#: Cases of each test; ``FDJPEG_EXAMPLES`` sets more.
EXAMPLES = int(os.environ.get("FDJPEG_EXAMPLES", "60"))
ANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    suppress_health_check=list(HealthCheck),
)

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels last", "transposed", "expanded", "every second", "reversed channels")


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """An image of any shape, dtype and strides that `jpeg` takes."""
    batch = draw(st.lists(st.integers(0, 3), max_size=2))
    channels, height, width = draw(st.sampled_from((1, 3))), draw(st.integers(1, 21)), draw(st.integers(1, 21))
    layout = draw(st.sampled_from(LAYOUTS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples = torch.rand(*batch, channels, height, width, generator=generator)
    if layout == "channels last":
        samples = samples.movedim(-3, -1).contiguous().movedim(-1, -3)
    elif layout == "transposed":
        samples = samples.mT.contiguous().mT
    elif layout == "expanded":
        samples = samples[..., :1].expand(samples.shape)
    elif layout == "every second":
        samples = samples.repeat_interleave(2, -1)[..., ::2]
    elif layout == "reversed channels":
        samples = samples.flip(-3)
    dtype = draw(st.sampled_from(DTYPES))
    return (255 * samples).to(dtype) if dtype == torch.uint8 else samples.to(dtype)


def called(image: Tensor, arguments: dict[str, Any]) -> Tensor | None:
    """What a call returns; None where it refuses its arguments by name."""
    try:
        return fdjpeg.jpeg(image, **arguments)
    except (TypeError, ValueError) as error:
        if not any(word in str(error) for word in (" must ", " needs ", " take the place ")):
            raise
        return None
