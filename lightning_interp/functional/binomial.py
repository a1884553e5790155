"""How sure a share of right answers is."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["binomial_se"]


def binomial_se(shares: Sequence[float], counts: Sequence[int]) -> float:
    r"""Standard error of the mean of several shares, each of independent answers.

    .. math:: \frac{1}{T} \sqrt{\sum_{t=1}^{T} \frac{p_t (1 - p_t)}{n_t}}

    For answers that count half (ties) it is an upper bound. It says how far the share would be off with other examples
    of the same kinds, not with another model.

    Args:
        shares: p_t, from 0 to 1.
        counts: n_t, at least 1.

    Raises:
        ValueError: If there is none, their numbers differ, or one is out of range.

    Example:
        >>> round(binomial_se([0.8], [100]), 6), round(binomial_se([0.5, 0.5], [100, 100]), 6)
        (0.04, 0.035355)

    """
    if not shares or len(shares) != len(counts):
        raise ValueError(f"`shares` and `counts` must be as many, at least one, got {len(shares)} and {len(counts)}.")
    for share, count in zip(shares, counts, strict=True):
        if not 0 <= share <= 1 or count < 1:
            raise ValueError(
                f"a share must lie between 0 and 1 and have a count of at least 1, got {share} of {count}."
            )
    parts = (share * (1 - share) / count for share, count in zip(shares, counts, strict=True))
    return math.sqrt(sum(parts)) / len(shares)
