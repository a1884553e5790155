"""How sure a share of right answers is."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["binomial_se"]


def binomial_se(shares: Sequence[float], counts: Sequence[float]) -> float:
    r"""Standard error of the mean of several shares, each of independent answers.

    .. math:: \frac{1}{T} \sqrt{\sum_{t=1}^{T} \frac{q_t (1 - q_t)}{n_t + 4}},
        \quad q_t = \frac{n_t p_t + 2}{n_t + 4}

    with two right and two wrong answers added to each share (Agresti & Coull 1998). Without them it would be 0 where
    all answers are right, which says that no other examples could be answered wrongly. A share of n answers, all right,
    has about 1.4 / n.

    For answers that count half (ties) it is an upper bound. It says how far the share would be off with other examples
    of the same kinds, not with another model.

    Args:
        shares: p_t, from 0 to 1.
        counts: n_t, at least 1; where answers are not independent, the :func:`effective_count` of them.

    Raises:
        ValueError: If there is none, their numbers differ, or one is out of range.

    Example:
        >>> round(binomial_se([0.8], [100]), 6), round(binomial_se([0.5, 0.5], [100, 100]), 6)
        (0.040047, 0.034669)

    """
    if not shares or len(shares) != len(counts):
        raise ValueError(f"`shares` and `counts` must be as many, at least one, got {len(shares)} and {len(counts)}.")
    for share, count in zip(shares, counts, strict=True):
        if not 0 <= share <= 1 or count < 1:
            raise ValueError(
                f"a share must lie between 0 and 1 and have a count of at least 1, got {share} of {count}."
            )
    added = [((share * count + 2) / (count + 4), count + 4) for share, count in zip(shares, counts, strict=True)]
    parts = (share * (1 - share) / count for share, count in added)
    return math.sqrt(sum(parts)) / len(shares)
