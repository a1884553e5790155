"""Places that are evenly spread."""

from __future__ import annotations

__all__ = ["evenly_spread"]


def evenly_spread(number: int, most: int) -> list[int]:
    """At most so many of the places 0 to number - 1, evenly spread, the first and the last among them.

    Example:
        >>> evenly_spread(10, 4), evenly_spread(2, 4)
        ([0, 3, 6, 9], [0, 1])

    """
    shown = min(number, most)
    return sorted({round(place * (number - 1) / max(shown - 1, 1)) for place in range(shown)})
