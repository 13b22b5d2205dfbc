"""The settings that many tests run over, and the errors that they allow; torch is the only package needed."""

from __future__ import annotations

import torch

#: Sampling factors of luma against chroma (horizontal, vertical): ITU-T T.81, A.1.1, and the usual names for them.
FACTORS = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2), "4:4:0": (1, 2), "4:1:1": (4, 1)}

#: The subsamplings that Pillow writes, with the number that its ``subsampling`` argument takes.
PILLOW = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}

#: The largest error of a gradient, as a part of the largest gradient, by the dtype of the image: for summing in another
#: order, and for rounding to the dtype.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-5, torch.float64: 1e-12}
