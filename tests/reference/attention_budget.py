"""Keys on a budget, one query after another, from nested lists."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kept(
    row: Sequence[float],
    seen: Sequence[int],
    policy: str,
    k: int,
    first: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> set[int]:
    """The keys that one query keeps, of those that it sees, in their order; not of random ones."""
    if policy == "top":
        return set(sorted(seen, key=lambda key: -row[key])[:k])
    also = {"recent": (), "recent_first": first, "anchors": marked}[policy]
    return set(seen[-k:]) | (set(also) & set(seen))


def shared_out(row: Sequence[float], keys: set[int]) -> list[float]:
    """The row divided among these keys."""
    total = math.fsum(row[key] for key in keys)
    return [row[key] / total if key in keys else 0.0 for key in range(len(row))]


def mass(row: Sequence[float], seen: Sequence[int], keys: set[int]) -> float:
    """How much of the row these keys have."""
    return math.fsum(row[key] for key in keys) / math.fsum(row[key] for key in seen)
