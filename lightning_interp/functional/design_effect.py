"""How many independent answers a share of right ones rests on, where several come from one sample."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["design_effect", "effective_count", "sample_sums"]

_UPPER = 0.8416212335729143  # normal quantile of .8: the limit that the correlation is below in four of five cases


def sample_sums(hits: Tensor, counts: Tensor) -> Tensor:
    r"""What :func:`design_effect` needs of some samples; sums of several batches or ranks add up.

    Args:
        hits: Right answers of each sample, h_s, shape (S, ...).
        counts: Answers of each sample, n_s, the same shape; samples without an answer are passed over.

    Returns:
        Number of samples with an answer, :math:`\sum n_s^2` and :math:`\sum h_s^2 / n_s`, shape (..., 3).

    Example:
        >>> sample_sums(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([2.0, 2.0, 0.0])).tolist()
        [2.0, 8.0, 2.0]

    """
    between = hits.square() / counts.clamp_min(1)
    return torch.stack([(counts > 0).to(counts.dtype).sum(0), counts.square().sum(0), between.sum(0)], -1)


def design_effect(hits: float, count: float, samples: float, squares: float, between: float) -> float:
    r"""How many answers of some samples count as one: the variance of their share over that of independent answers.

    .. math:: D = 1 + (m - 1)\, \rho, \quad m = \frac{\sum n_s^2}{n}, \quad
        \rho = \frac{A - W}{A + (n_0 - 1) W}, \quad n_0 = \frac{n - m}{S - 1}

    (Kish 1965; Donald & Donner 1987), with A and W the mean squares between and within samples, so that ρ is the
    correlation of two answers of one sample (Fleiss & Cuzick 1979), cut off at 0 and 1. A share of n answers is then
    as good as one of n / D (Rao & Scott 1992). What A may be at most takes its place, A / q with q the .2 quantile of
    :math:`\chi^2_{S-1} / (S - 1)` (Wilson & Hilferty 1931): with A alone, a handful of samples that happen to be alike
    would pass for many answers.

    Args:
        hits: Right answers h.
        count: Answers n, at least 1.
        samples: Samples S that they come from; with ``squares`` and ``between`` from :func:`sample_sums`.
        squares: Σ n_s².
        between: Σ h_s² / n_s.

    Returns:
        D, at least 1: exactly 1 where each sample has one answer. m, as if all answers of a sample were one, where ρ
        cannot be told: of a single sample, or where all answers are right or all are wrong.

    Raises:
        ValueError: If ``count`` is below 1 or hits are not between 0 and the count.

    Example:
        >>> of = sample_sums(torch.tensor([4.0, 0.0, 4.0, 0.0]), torch.full((4,), 4.0))  # as one or not at all
        >>> design_effect(8, 16, *of.tolist())
        4.0
        >>> of = sample_sums(torch.tensor([2.0, 2.0, 2.0, 2.0]), torch.full((4,), 4.0))  # no more alike than others
        >>> design_effect(8, 16, *of.tolist())
        1.0

    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"`hits` must be between 0 and `count`, at least 1; got {hits} of {count}.")
    size = squares / count
    if size <= 1:
        return 1.0
    if samples < 2 or hits in (0, count):
        return size
    spread = 2 / (9 * (samples - 1))
    lowest = (1 - spread - _UPPER * math.sqrt(spread)) ** 3
    apart = (between - hits**2 / count) / (samples - 1) / lowest
    within = (hits - between) / (count - samples)
    usual = (count - size) / (samples - 1)
    correlation = (apart - within) / (apart + (usual - 1) * within)
    return 1 + (size - 1) * min(max(correlation, 0.0), 1.0)


def effective_count(right: Tensor, samples: Sequence[Hashable]) -> float:
    """How many independent answers some answers are as good as: their number divided by :func:`design_effect`.

    Args:
        right: 1 for each right answer, 0 for each wrong one, and 1/2 for a tie, for which the result is an upper bound:
            shape (n,), at least one.
        samples: What each of them comes from.

    Returns:
        The number; n exactly where all samples differ.

    Raises:
        ValueError: If there is none, or not one sample an answer.

    Example:
        >>> effective_count(torch.tensor([1.0, 1.0, 0.0, 0.0]), ["a", "a", "b", "b"])
        2.0
        >>> effective_count(torch.tensor([1.0, 1.0, 0.0, 0.0]), "abcd")
        4.0

    """
    if not len(right) or len(right) != len(samples):
        raise ValueError(f"`right` and `samples` must be as many, at least one, got {len(right)} and {len(samples)}.")
    places = {name: place for place, name in enumerate(dict.fromkeys(samples))}
    at = torch.tensor([places[name] for name in samples])
    right = right.double().cpu()
    hits, counts = (right.new_zeros(len(places)).index_add(0, at, one) for one in (right, torch.ones_like(right)))
    number = float(len(right))
    return number / design_effect(float(right.sum()), number, *sample_sums(hits, counts).tolist())
