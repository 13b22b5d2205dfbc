"""Every op in Triton, by its name: for GPUs where the library holds no CUDA kernels."""

from .coefficient_launches import decode, encode
from .launches import round_trip, round_trip_backward, round_trip_by_block, surrogate_backward
from .piece_launches import (
    blocks_image,
    blocks_image_backward,
    image_blocks,
    image_blocks_backward,
    round_trip_by_steps,
    rounded_backward,
    scaled_backward,
    standard_steps,
    standard_steps_backward,
    sum_blocks,
    surrogate,
)
from .real_launches import block_dct, block_idct, real_round_trip, real_round_trip_backward

__all__ = [
    "block_dct",
    "block_idct",
    "blocks_image",
    "blocks_image_backward",
    "decode",
    "encode",
    "image_blocks",
    "image_blocks_backward",
    "real_round_trip",
    "real_round_trip_backward",
    "round_trip",
    "round_trip_backward",
    "round_trip_by_block",
    "round_trip_by_steps",
    "rounded_backward",
    "scaled_backward",
    "standard_steps",
    "standard_steps_backward",
    "sum_blocks",
    "surrogate",
    "surrogate_backward",
]
