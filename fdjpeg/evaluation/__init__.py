"""How robust a defence before a classifier is: threat models, exact judging, sanity checks and a report.

``evaluate`` does all of it by a ``Plan``; the other modules hold its parts.
"""

from fdjpeg.sources import external

from .cells import Cell, wilson
from .checks import Check
from .plan import Plan
from .protocol import Progress, evaluate
from .report import Report
from .results import Row
from .world import World

__all__ = ["Cell", "Check", "Plan", "Progress", "Report", "Row", "World", "evaluate", "external", "wilson"]
