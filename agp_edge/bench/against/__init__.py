"""Other ways to score the same frames, side by side with ours: `agp-edge bench --against`."""

from agp_edge.bench.against.side_by_side import SideBySide, side_by_side
from agp_edge.bench.against.ways import NAMES, open_ways

__all__ = ["NAMES", "SideBySide", "open_ways", "side_by_side"]
