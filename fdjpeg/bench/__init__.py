"""fdjpeg beside Pillow and every peer, measured side by side in one run: time, memory and fidelity."""

from .measure import Measurement, Results, run
from .peers import PEERS, Peer
from .report import save

__all__ = ["PEERS", "Measurement", "Peer", "Results", "run", "save"]
