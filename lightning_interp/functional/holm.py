"""p values for many tests at once."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction (1979): the chance of any false rejection stays below the level.

    That holds however the tests depend on each other.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min(1, (m - j + 1)\, p_{(j)})

    Args:
        p: The p values of all m tests that were tried, in any order.

    Returns:
        The adjusted ones in the same order: reject where they are at most the level.

    Raises:
        ValueError: If a value is not between 0 and 1.

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    """
    if wrong := [value for value in p if not 0 <= value <= 1]:
        raise ValueError(f"`p` must hold values between 0 and 1, got {wrong}.")
    adjusted, largest = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = largest
    return adjusted
