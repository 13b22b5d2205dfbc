"""Every op in Triton, by its name: for GPUs where the library holds no CUDA kernels."""

from .coefficient_launches import decode, encode
from .launches import round_trip, round_trip_backward, round_trip_by_block, surrogate_backward
from .real_launches import block_dct, block_idct, real_round_trip, real_round_trip_backward

__all__ = [
    "block_dct",
    "block_idct",
    "decode",
    "encode",
    "real_round_trip",
    "real_round_trip_backward",
    "round_trip",
    "round_trip_backward",
    "round_trip_by_block",
    "surrogate_backward",
]
