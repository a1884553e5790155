"""Merging over ranks, where a rank's samples come from, and models that ranks hold in parts."""

from lightning_interp.distributed.merging import (
    Collective,
    Gather,
    Maximum,
    Minimum,
    PeerError,
    Sum,
    Sums,
    all_ranks,
    alone,
    over_ranks,
    rank_in,
    settled,
    world_size,
)
from lightning_interp.distributed.positions import SamplePositions, Selection

__all__ = [
    "Gather",
    "Maximum",
    "Minimum",
    "PeerError",
    "Collective",
    "Sum",
    "Sums",
    "all_ranks",
    "alone",
    "rank_in",
    "over_ranks",
    "settled",
    "world_size",
    "SamplePositions",
    "Selection",
]
