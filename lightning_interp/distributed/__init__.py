"""Merging over ranks, where a rank's samples come from, and models that ranks hold in parts."""

from lightning_interp.distributed.merging import (
    Gather,
    Maximum,
    Minimum,
    PeerError,
    Steps,
    Sum,
    Sums,
    agree,
    rank_in,
    run,
    settled,
    world_size,
)
from lightning_interp.distributed.positions import SamplePositions, Selection

__all__ = [
    "Gather",
    "Maximum",
    "Minimum",
    "PeerError",
    "Steps",
    "Sum",
    "Sums",
    "agree",
    "rank_in",
    "run",
    "settled",
    "world_size",
    "SamplePositions",
    "Selection",
]
