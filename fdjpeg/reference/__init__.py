"""The oracle: JPEG in plain torch, slow and obvious, on any device.

Two arithmetics share one geometry. The integer functions (`exact`) are libjpeg-turbo's, step by step and bit by bit.
Those named ``real_…`` (`real`) are the same steps in real numbers. `real_pipeline` has gradients by autograd.
`exact_with_surrogate` (`gradients`) joins the two: the integers' values, the real numbers' derivatives. A function with
an op's name has that op's signature and serves it wherever no kernel is registered.

Shapes: a component is ``(N, height, width)``; blocks are ``(N, rows, columns, 8, 8)``, indexed by [vertical frequency,
horizontal frequency] once they are transformed. Integers are int32 tensors, whose arithmetic wraps around.
"""

from fdjpeg.reference.conversions import from_bytes, real_dtype, to_bytes
from fdjpeg.reference.exact import decode, encode, fdct, rgb_to_ycbcr, round_trip, round_trip_by_block
from fdjpeg.reference.geometry import to_blocks
from fdjpeg.reference.gradients import (
    differential,
    exact_with_surrogate,
    round_trip_backward,
    straight_through_tangent,
    surrogate_backward,
    surrogate_tangent,
    table_tangent,
)
from fdjpeg.reference.pieces import (
    blocks_image,
    blocks_image_backward,
    blocks_image_tangent,
    image_blocks,
    image_blocks_backward,
    image_blocks_tangent,
    round_trip_by_steps,
    rounded_backward,
    scaled_backward,
    standard_curvatures,
    standard_slopes,
    standard_steps,
    standard_steps_backward,
    sum_blocks,
    surrogate,
)
from fdjpeg.reference.real import (
    PLAIN,
    Transforms,
    block_dct,
    block_idct,
    components_of,
    quantize_channels,
    real_dct,
    real_idct,
    real_pipeline,
    real_rgb_to_ycbcr,
    real_round_trip,
    real_round_trip_backward,
    real_second_gradient,
    real_tangent,
    real_ycbcr_to_rgb,
)
from fdjpeg.reference.tables import integer_tables, real_tables, standard_tables, tables_by_block

__all__ = [
    "PLAIN",
    "Transforms",
    "block_dct",
    "block_idct",
    "blocks_image",
    "blocks_image_backward",
    "blocks_image_tangent",
    "components_of",
    "decode",
    "differential",
    "encode",
    "exact_with_surrogate",
    "fdct",
    "from_bytes",
    "image_blocks",
    "image_blocks_backward",
    "image_blocks_tangent",
    "integer_tables",
    "quantize_channels",
    "real_dct",
    "real_dtype",
    "real_idct",
    "real_pipeline",
    "real_rgb_to_ycbcr",
    "real_round_trip",
    "real_round_trip_backward",
    "real_second_gradient",
    "real_tables",
    "real_tangent",
    "real_ycbcr_to_rgb",
    "rgb_to_ycbcr",
    "round_trip",
    "round_trip_backward",
    "round_trip_by_block",
    "round_trip_by_steps",
    "rounded_backward",
    "scaled_backward",
    "standard_curvatures",
    "standard_slopes",
    "standard_steps",
    "standard_steps_backward",
    "standard_tables",
    "straight_through_tangent",
    "sum_blocks",
    "surrogate",
    "surrogate_backward",
    "surrogate_tangent",
    "table_tangent",
    "tables_by_block",
    "to_blocks",
    "to_bytes",
]
