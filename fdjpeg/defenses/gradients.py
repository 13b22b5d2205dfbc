"""The gradients that an adaptive attacker tries on each kind of defence; the worst of them counts."""

from __future__ import annotations

from collections.abc import Sequence

#: On JPEG layers, whose ``gradient`` is one of the names of `fdjpeg.surrogates`.
GRADIENTS = ("identity", "straight-through", "cubic")

#: On all other layers: their own derivative, and the identity in its place (BPDA: Athalye et al. 2018, arXiv
#: 1802.00420).
OPAQUE = ("own", "identity")

#: On autoencoders that were trained as a defence: the same two, by the names that their reports carry.
AUTOENCODER = ("end-to-end", "identity")

#: The control: plain rounding, whose gradient is zero.
ZERO = "zero"


def distinct(gradients: Sequence[str], subsampling: str) -> tuple[str, ...]:
    """Leaves out "identity" at 4:4:4, where it would be the same attack as "straight-through".

    With fixed tables and full chroma the transforms and colours cancel, and the two differ only in the last clamp.

    Args:
        gradients: names, in the order in which they are tried.
        subsampling: as for `fdjpeg.jpeg`.
    """
    if subsampling == "4:4:4" and "straight-through" in gradients:
        return tuple(name for name in gradients if name != "identity")
    return tuple(gradients)
