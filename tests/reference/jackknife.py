"""Delete-a-group standard error, literally."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence


def standard_error(statistic: Callable[[list[int]], float], groups: Sequence[Hashable]) -> float:
    """√((G − 1)/G Σ (θ₍g₎ − θ̄)²), with θ₍g₎ the statistic of the rows outside group g."""
    names = sorted(set(groups), key=repr)
    values = [statistic([row for row, group in enumerate(groups) if group != name]) for name in names]
    mean = math.fsum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * math.fsum((value - mean) ** 2 for value in values))
