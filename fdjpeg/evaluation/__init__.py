"""What a layer before a classifier is worth: threat models, exact judging, sanity checks and a report.

``evaluate`` is the whole of it; its parts are here for those who want to combine them otherwise.
"""

from .cells import Cell, wilson
from .checks import Check
from .protocol import Progress, evaluate
from .report import Report, Row
from .world import World

__all__ = ["Cell", "Check", "Progress", "Report", "Row", "World", "evaluate", "wilson"]
