"""How much of a sum its largest values have."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["top_mass", "top_mass_chance"]


def top_mass(values: Tensor, share: float = 0.01) -> float:
    """The part of the sum of values that the largest of them have.

    Args:
        values: Not negative, (N,).
        share: Which share of the values count as the largest; one at least.

    Returns:
        The part, from :func:`top_mass_chance`, which it is where all are equal, also all 0, to 1; NaN without a value.

    Raises:
        ValueError: If the shape or the share is another, or a value is negative or NaN.

    Example:
        >>> import torch
        >>> top_mass(torch.tensor([6.0, 1.0, 1.0, 2.0]), share=0.25)
        0.6

    """
    number = _largest(len(values) if values.ndim == 1 else -1, share, tuple(values.shape))
    wide = values.detach().cpu().double()
    if not bool((wide >= 0).all()):
        raise ValueError(f"`values` must not be negative or NaN, got {int((~(wide >= 0)).sum())} such of {len(wide)}.")
    total = float(wide.sum())
    return float(wide.topk(number).values.sum()) / total if total > 0 else top_mass_chance(len(wide), share)


def top_mass_chance(number: int, share: float = 0.01) -> float:
    """What :func:`top_mass` is where all of so many values are equal.

    Example:
        >>> top_mass_chance(1000), top_mass_chance(10)
        (0.01, 0.1)

    """
    return _largest(number, share, (number,)) / number if number else math.nan


def _largest(number: int, share: float, shape: tuple[int, ...]) -> int:
    if number < 0:
        raise ValueError(f"`values` must be (N,), got shape {shape}.")
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie above 0 and not above 1, got {share}.")
    return min(number, max(1, math.ceil(share * number - 1e-9)))
