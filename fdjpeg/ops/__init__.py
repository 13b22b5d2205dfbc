"""The ops, each on a page with its whole contract: schema, fallback, fake kernel, vmap rule and autograd.

The ops themselves are not differentiable. Functions such as `round_trip` wrap them in a `torch.autograd.Function`,
which works under `torch.func.grad`, `jacrev` and `vmap(grad)` as well as under `torch.compile`.
"""

from fdjpeg.ops import coefficients as coefficients  # has ops only, no functions
from fdjpeg.ops.blocks import block_dct, block_idct
from fdjpeg.ops.by_steps import exact_by_steps, rounded
from fdjpeg.ops.exact import round_trip, round_trip_by_block
from fdjpeg.ops.packed_steps import standard_steps, steps_of_map, steps_of_number, steps_of_tables
from fdjpeg.ops.pieces import blocks_image, image_blocks
from fdjpeg.ops.real import real_round_trip
from fdjpeg.ops.registration import SCHEMAS, Setting, once_differentiable, wants_autograd

__all__ = [
    "SCHEMAS",
    "Setting",
    "block_dct",
    "block_idct",
    "blocks_image",
    "exact_by_steps",
    "image_blocks",
    "once_differentiable",
    "real_round_trip",
    "round_trip",
    "round_trip_by_block",
    "rounded",
    "standard_steps",
    "steps_of_map",
    "steps_of_number",
    "steps_of_tables",
    "wants_autograd",
]
