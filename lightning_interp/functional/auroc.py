"""How well a score orders two classes, and where to cut it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_interp.functional.rank_correlation import average_ranks

__all__ = ["auroc", "auroc_chance_sd", "best_threshold", "permuted_auroc"]


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative that the score orders rightly.

    Equal scores count half (Mann and Whitney 1947).

    Args:
        scores: (N,), without NaN.
        labels: Two classes, bool or 0 and 1, (N,).

    Returns:
        0 to 1, .5 at chance.

    Raises:
        ValueError: If the shapes differ, values are NaN or a class is missing.

    Example:
        >>> auroc(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([0, 1, 0, 1]))
        0.625

    """
    positive = _positive(scores, labels)
    ones = int(positive.sum())
    ranks = average_ranks(scores.detach().cpu())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(positive) - ones)))


def auroc_chance_sd(scores: Tensor, labels: Tensor) -> float:
    r"""Standard deviation of :func:`auroc` over all ways of dealing the labels to the scores: how far chance reaches.

    .. math:: \sigma^2 = \frac{1}{12\, n_1 n_0} \Big( N + 1 - \sum_t \frac{t^3 - t}{N (N - 1)} \Big)

    with t scores of each value (Hollander, Wolfe & Chicken 2014, chapter 4). It is exact; the mean is .5.

    Args:
        scores: (N,), without NaN.
        labels: Two classes, bool or 0 and 1, (N,).

    Returns:
        Above 0, or 0 where all scores are equal.

    Raises:
        ValueError: As for :func:`auroc`.

    Example:
        >>> round(auroc_chance_sd(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([0, 1, 0, 1])), 4)
        0.3062

    """
    positive = _positive(scores, labels)
    number, ones = len(positive), int(positive.sum())
    ties = torch.unique(scores.detach().cpu(), return_counts=True)[1].double()
    equal = float((ties**3 - ties).sum()) / (number * (number - 1))
    return math.sqrt(max(0.0, number + 1 - equal) / (12 * ones * (number - ones)))


def permuted_auroc(scores: Tensor, labels: Tensor, permutations: int = 20, seed: int = 0) -> float:
    """:func:`auroc` with labels dealt to other scores at random, mean over several permutations.

    A single one lies within sqrt((N + 1) / (12 · ones · zeros)) of .5, the mean nearer by the root of their number.

    Args:
        scores: (N,), without NaN.
        labels: Two classes, bool or 0 and 1, (N,).
        permutations: How often labels are dealt.
        seed: Of the permutations; torch's random streams are not read.

    Raises:
        ValueError: As :func:`auroc`, and if ``permutations`` is below 1.

    Example:
        >>> found = permuted_auroc(torch.arange(200.0), torch.arange(200) >= 100)
        >>> 0.45 < found < 0.55
        True

    """
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, got {permutations}.")
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=draw) for _ in range(permutations)]
    return sum(auroc(scores, labels.cpu()[order]) for order in orders) / permutations


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The threshold above which scores are class 1 with the fewest errors.

    Half way between two scores that follow one another; beyond the last where one class is best said of all. Of several
    it is the lowest.

    Args:
        scores: (N,), without NaN.
        labels: Two classes, bool or 0 and 1, (N,).

    Returns:
        The threshold, in the unit of the scores.

    Raises:
        ValueError: If the shapes differ, values are NaN or a class is missing.

    Example:
        >>> best_threshold(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([False, False, True]))
        3.0

    """
    positive = _positive(scores, labels)
    values, order = scores.detach().cpu().double().sort()
    if bool(values.isnan().any()):
        raise ValueError(f"`scores` has {int(values.isnan().sum())} NaN of {len(values)} values.")
    ones = positive[order].double()
    # Errors of cutting below the k-th score: positives below it and negatives from it on.
    zero = torch.zeros(1, dtype=torch.float64)
    errors = torch.cat([zero, ones.cumsum(0)]) + torch.cat([(1 - ones).flip(0).cumsum(0).flip(0), zero])
    cuts = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    apart = torch.cat([zero, values.diff(), zero]) > 0
    apart[0] = apart[-1] = True
    return float(cuts[torch.where(apart, errors, torch.inf).argmin()])


def _positive(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"`scores` and `labels` must be of one length, got {tuple(scores.shape)} and {tuple(labels.shape)}."
        )
    positive = labels.detach().cpu().bool()
    if not 0 < int(positive.sum()) < len(positive):
        raise ValueError(f"`labels` must have both classes, got {int(positive.sum())} of class 1 in {len(positive)}.")
    return positive
