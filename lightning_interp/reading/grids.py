"""What a history holds of one measure, by site and step."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_interp.reading.history import History

__all__ = ["site_grid"]


def site_grid(history: History, keys: Mapping[str, str]) -> tuple[list[int], list[str], list[list[float]]]:
    """Steps, rows and the measure by row and step, NaN where there is none; a row without a reading is left out.

    Args:
        history: The readings.
        keys: Name of a row → key of its measure.

    """
    lines = {name: history.series(key) for name, key in keys.items()}
    lines = {name: line for name, line in lines.items() if line[0]}
    steps = sorted({step for found, _ in lines.values() for step in found})
    rows = [dict(zip(*line, strict=True)) for line in lines.values()]
    return steps, list(lines), [[values.get(step, math.nan) for step in steps] for values in rows]
