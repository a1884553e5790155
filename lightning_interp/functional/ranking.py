"""Where the right one of several candidates comes when they are ordered by score."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RankingMeasures", "ranking_measures"]


class RankingMeasures(NamedTuple):
    """Of each question, (N,) float64; NaN where a score is NaN."""

    first: Tensor
    """1 where the answer comes first (P@1)."""
    reciprocal_rank: Tensor
    """1 / rank of the answer."""
    margin: Tensor
    """Score of the answer less the best other one's."""


def ranking_measures(scores: Tensor, answers: Tensor, valid: Tensor | None = None) -> RankingMeasures:
    r"""P@1, reciprocal rank and margin of the right candidate.

    With g candidates above the answer and m others of its very score, whose order is anybody's guess, both ranks are
    expectations over a random order of the tied:

    .. math:: \mathrm{P@1} = [g = 0] / (m + 1), \qquad
        \mathrm{RR} = \frac{1}{m + 1} \sum_{j=0}^{m} \frac{1}{g + 1 + j}

    so that a model without a preference gets 1 / C, the level of chance.

    Args:
        scores: (N, C), more is better.
        answers: The right candidate of each question, (N,).
        valid: Which entries are candidates, bool (N, C); all by default. Each question has two or more, its answer
            among them.

    Returns:
        :class:`RankingMeasures`.

    Raises:
        ValueError: If shapes do not fit or a question has no answer among at least two candidates.

    Example:
        >>> found = ranking_measures(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]), torch.tensor([2, 0]))
        >>> [[round(value, 3) for value in one.tolist()] for one in found]
        [[0.0, 0.333], [0.5, 0.611], [-1.0, 0.0]]

    """
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    if scores.ndim != 2 or valid.shape != scores.shape or answers.shape != scores.shape[:1]:
        raise ValueError(
            f"`scores` must be (N, C), `valid` the same and `answers` (N,), got {tuple(scores.shape)}, "
            f"{tuple(valid.shape)} and {tuple(answers.shape)}."
        )
    right = torch.zeros_like(valid).scatter(1, answers[:, None], True)
    if not bool((valid & right).any(1).all()) or bool((valid.sum(1) < 2).any()):
        raise ValueError("every question needs at least two candidates, its answer among them.")
    own = scores.double().gather(1, answers[:, None])
    others = valid & ~right
    above = (others & (scores.double() > own)).sum(1)
    tied = (others & (scores.double() == own)).sum(1)
    at, ties = above.double(), tied.double()
    # A sum of reciprocals is a difference of digammas.
    spread = (torch.digamma(at + ties + 2) - torch.digamma(at + 1)) / (ties + 1)
    rank = torch.where(tied == 0, 1 / (at + 1), spread)
    margin = own.squeeze(1) - scores.double().masked_fill(~others, -torch.inf).amax(1)
    broken = (scores.isnan() & valid).any(1)
    first = (above == 0) / (ties + 1)
    return RankingMeasures(*(one.masked_fill(broken, torch.nan) for one in (first, rank, margin)))
