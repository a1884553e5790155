"""What readings cost, and how many failed."""

from lightning_interp.metrics.measure import FULL, Measure

__all__ = ["COSTS", "FAILED", "SECONDS"]


SECONDS = Measure(
    "seconds",
    "seconds a reading",
    "Time that the last reading of a callback took.",
    ("callback",),
    level=FULL,
    unit="s",
    better="lower",
    form="seconds a reading of {all}",
    bookkeeping=True,
)
FAILED = Measure(
    "failed",
    "readings dropped",
    "How many readings of a callback failed and were dropped.",
    ("callback",),
    unit="readings",
    better="lower",
    none="0 for none.",
    form="readings dropped by {all}",
    bookkeeping=True,
)

COSTS = (SECONDS, FAILED)
