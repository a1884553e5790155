"""The readings of one key, and the places where they bend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_interp.functional.knees import KneeFit

__all__ = ["Boundary", "Curve", "boundaries", "lag"]


@dataclass(frozen=True)
class Curve:
    """The readings of one key so far, steps increasing, and the knees in them.

    Args:
        steps: Optimizer steps, at least 1.
        values: The values there, finite.
        mode: ``"max"`` where more is better, ``"min"`` where less is.
        fit: The segments through the values over log10(step); ``None`` where there are too few readings for one.

    """

    steps: Sequence[int]
    values: Sequence[float]
    mode: str = "max"
    fit: KneeFit | None = None

    @property
    def sign(self) -> float:
        """1 where more is better, else -1."""
        return 1.0 if self.mode == "max" else -1.0


@dataclass(frozen=True)
class Boundary:
    """Where one phase ends and the next begins: a step with its confidence interval."""

    step: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"step {self.step:.0f} ({self.low:.0f} to {self.high:.0f})"


def boundaries(fit: KneeFit | None) -> tuple[Boundary, ...]:
    """The knees of a fit as steps, with their intervals."""
    if fit is None:
        return ()
    found = []
    for index, knee in enumerate(fit.knees):
        low, high = fit.intervals[index] if index < len(fit.intervals) else (math.nan, math.nan)
        # An interval from a bootstrap may miss the estimate; without one, low and high are the knee itself.
        low, high = (min(low, knee), max(high, knee)) if math.isfinite(low) and math.isfinite(high) else (knee, knee)
        found.append(Boundary(float(10**knee), float(10**low), float(10**high)))
    return tuple(found)


def lag(track: Curve, step: float) -> float | None:
    """How many decades of steps after a step the nearest knee of a key lies; negative if before; ``None`` without one.

    It is log10(knee / step).
    """
    if track.fit is None or not track.fit.knees:
        return None
    return float(min((knee - math.log10(step) for knee in track.fit.knees), key=abs))
