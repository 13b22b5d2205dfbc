"""fdjpeg compared with Pillow and every installed peer in one run: time, memory and fidelity."""

from .measure import Measurement, Results, run
from .peers import PEERS, Peer
from .report import save

__all__ = ["PEERS", "Measurement", "Peer", "Results", "run", "save"]
