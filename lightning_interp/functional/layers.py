"""Where along the layers of a model something is found."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["best_layer", "centre_of_gravity"]


# A score that is above its level by less is at it, but for rounding.
_ROUNDING = 1e-9


def best_layer(scores: Sequence[float]) -> float:
    """The number of the layer with the largest score, from 0; the first of equal ones, NaN where none has a score.

    Example:
        >>> best_layer([0.5, 0.9, float("nan"), 0.9])
        1.0

    """
    known = [(score, -place) for place, score in enumerate(scores) if not math.isnan(score)]
    return float(-max(known)[1]) if known else math.nan


def centre_of_gravity(
    scores: Sequence[float], levels: Sequence[float], numbers: Sequence[float] | None = None
) -> float:
    r"""Mean number of the layers, weighted by what their scores are above a level.

    .. math:: \frac{\sum_\ell \ell\, g_\ell}{\sum_\ell g_\ell}, \quad g_\ell = \max(s_\ell - b_\ell, 0)

    After Tenney et al. 2019, *BERT Rediscovers the Classical NLP Pipeline* (arXiv 1905.05950), whose weights are those
    of a learned mixture of the layers.

    Args:
        scores: One for each layer; NaN where there is none.
        levels: What would be reached anyway, one for each layer.
        numbers: The layers that they are of, where these are not all; by default 0, 1, 2 …

    Returns:
        From the first of the layers to the last; NaN where no score is above its level.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> centre_of_gravity([0.5, 0.7, 0.9], [0.5, 0.5, 0.5])
        1.6666666666666667

    """
    numbers = range(len(scores)) if numbers is None else numbers
    if len(scores) != len(levels):
        raise ValueError(f"`levels` must have one entry for each of {len(scores)} scores, got {len(levels)}.")
    if len(scores) != len(numbers):
        raise ValueError(f"`numbers` must have one entry for each of {len(scores)} scores, got {len(numbers)}.")
    gains = [score - level if score > level + _ROUNDING else 0.0 for score, level in zip(scores, levels, strict=True)]
    total = sum(gains)
    return sum(at * gain for at, gain in zip(numbers, gains, strict=True)) / total if total > 0 else math.nan
