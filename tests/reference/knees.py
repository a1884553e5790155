"""A broken stick by brute force: one least-squares fit for each choice of knees from a dense grid."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def squares(x: Array, y: Array, knees: tuple[float, ...]) -> float:
    """Residual sum of squares of the best continuous piecewise-linear curve with these knees."""
    columns = [np.ones_like(x), x] + [np.where(x > knee, x - knee, 0.0) for knee in knees]
    design = np.stack(columns, 1)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ coefficients) ** 2).sum())


def allowed(x: Array, knees: tuple[float, ...], min_points: int) -> bool:
    """Whether each piece, its ends included, holds enough readings."""
    edges = [x[0], *knees, x[-1]]
    return all(
        sum(left - 1e-9 <= reading <= right + 1e-9 for reading in x) >= min_points
        for left, right in itertools.pairwise(edges)
    )


def grid(x: Array, per_gap: int) -> list[float]:
    """Readings, and evenly spaced positions between neighbours."""
    inner = [left + (right - left) * k / per_gap for left, right in itertools.pairwise(x) for k in range(per_gap)]
    return [*inner, float(x[-1])]


def best(x: Array, y: Array, count: int, min_points: int = 3, per_gap: int = 5) -> tuple[float, tuple[float, ...]]:
    """The smallest residual sum of squares over the grid, and its knees."""
    choices = (knees for knees in itertools.combinations(grid(x, per_gap), count) if allowed(x, knees, min_points))
    return min((squares(x, y, knees), knees) for knees in choices)
