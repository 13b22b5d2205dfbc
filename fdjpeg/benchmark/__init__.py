"""fdjpeg beside Pillow and every peer, measured side by side in one run: time, memory and fidelity."""

from fdjpeg.benchmark.measure import Measurement, Results, run
from fdjpeg.benchmark.peers import PEERS, Peer
from fdjpeg.benchmark.report import save

__all__ = ["PEERS", "Measurement", "Peer", "Results", "run", "save"]
