"""How well confidence tells what is right: calibration errors, Brier score, accuracy of what is most confident."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, wide_dtype

__all__ = [
    "CalibrationBins",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "calibration_bins",
    "expected_calibration_error",
    "multiclass_brier",
    "permuted_calibration_error",
    "selective_accuracy",
]

# Numbers of logits that one step works on.
_BLOCK = 1 << 22
_ROUNDING = 1e-6
# Beyond so many standard deviations no count of right predictions adds anything.
_WIDEST = 12


class CalibrationBins(NamedTuple):
    """Predictions by confidence; sums, so that batches and ranks add up."""

    number: Tensor
    """Predictions in each bin, (bins,)."""
    confidence: Tensor
    """Sum of their confidences, (bins,)."""
    correct: Tensor
    """How many of them are right, (bins,)."""


def calibration_bins(
    confidence: Tensor, correct: Tensor, bins: int = 15, counted: Tensor | None = None
) -> CalibrationBins:
    r"""Sort predictions into bins of equal width over confidence.

    Bin m is :math:`((m - 1) / M, m / M]`, as in Guo et al. 2017 (arXiv 1706.04599), and the first one also holds 0. A
    confidence of exactly 1 is in the last bin; ``torchmetrics`` puts it into one of its own. What is less
    than a millionth above an edge counts as on it: rounding does not cut a confidence that is always .9 in two.

    Args:
        confidence: 0 to 1, (N,).
        correct: Whether each is right, bool or 0 to 1, (N,).
        bins: Number M of bins.
        counted: Which of them count, bool (N,); all by default.

    Returns:
        :class:`CalibrationBins` in float64 (float32 on MPS). Nothing is read back from the device.

    Raises:
        ValueError: If shapes differ or ``bins`` is below 1.

    Example:
        >>> calibration_bins(torch.tensor([0.5, 0.51, 1.0]), torch.tensor([1, 0, 1]), bins=2).number.tolist()
        [1.0, 2.0]

    """
    _check_pair(confidence, correct)
    _check_bins(bins)
    wide = wide_dtype(confidence.device)
    value = as_float(confidence.detach().flatten())
    weight = torch.ones_like(value, dtype=wide) if counted is None else counted.flatten().to(wide)
    value = torch.where(weight > 0, value, 0.0)
    # In the dtype of the confidences: the float32 nearest to 0.1 lies above the float64 nearest to it.
    edges = (torch.arange(1, bins, dtype=wide, device=value.device) / bins).to(value.dtype)
    which = torch.bucketize(value, edges + _ROUNDING)
    inside = (which[:, None] == torch.arange(bins, device=value.device)).to(wide)
    sums = torch.stack([weight, value.to(wide) * weight, correct.flatten().to(wide) * weight]) @ inside
    return CalibrationBins(*sums.unbind())


def expected_calibration_error(bins: CalibrationBins) -> Tensor:
    r"""Mean distance between confidence and accuracy over bins, each weighted by its predictions (Guo et al. 2017).

    .. math:: \mathrm{ECE} = \sum_m \frac{n_m}{N} \left| \mathrm{acc}_m - \mathrm{conf}_m \right|

    Args:
        bins: From :func:`calibration_bins`, added up over batches.

    Returns:
        0 to 1, scalar; NaN without predictions.

    Example:
        >>> sure = calibration_bins(torch.tensor([0.95, 1.0]), torch.tensor([1, 0]))
        >>> round(float(expected_calibration_error(sure)), 3)
        0.475

    """
    return (bins.correct - bins.confidence).abs().sum() / bins.number.sum()


def permuted_calibration_error(bins: CalibrationBins) -> Tensor:
    r"""The calibration error that is expected where confidences are dealt to other predictions at random.

    .. math:: \frac1N \sum_m E \left| Y_m - \mathrm{conf}_m n_m \right|

    where :math:`Y_m`, how many in bin m are right, is hypergeometric: :math:`n_m` drawn from all N without putting
    back. It is exact, without drawing permutations. A confidence that tells nothing has this error; it is small where
    confidences are near the accuracy, whichever prediction they belong to.

    Args:
        bins: From :func:`calibration_bins`, added up over batches.

    Returns:
        0 to 1, float64 scalar; NaN without predictions.

    Example:
        >>> told = calibration_bins(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
        >>> float(expected_calibration_error(told)), float(permuted_calibration_error(told))
        (0.0, 0.5)

    """
    number, confidence, correct = (one.detach().cpu().double() for one in bins)
    total, right = number.sum(), correct.sum().round()
    if not total > 0:
        return torch.full((), torch.nan, dtype=torch.float64)
    error = torch.zeros((), dtype=torch.float64)
    for size, sure in zip(number.tolist(), confidence, strict=True):
        share = right / total
        spread = (size * share * (1 - share)).sqrt() * _WIDEST + 1
        low = max(0.0, size + float(right - total), float((size * share - spread).floor()))
        high = min(size, float(right), float((size * share + spread).ceil()))
        count = torch.arange(low, high + 1, dtype=torch.float64)
        ways = _log_choose(right, count) + _log_choose(total - right, size - count)
        error = error + ((ways - ways.logsumexp(0)).exp() * (count - sure).abs()).sum()
    return error / total


def adaptive_calibration_error(
    confidence: Tensor, correct: Tensor, bins: int = 15, order: Tensor | None = None
) -> Tensor:
    r"""Calibration error over bins of equally many predictions (Nixon et al. 2019, arXiv 1904.01685).

    Predictions are sorted by confidence and cut into M runs of N/M; a prediction across a cut belongs to both in part.
    Those of equal confidence share their mean accuracy, so that their order means nothing. This is the top-label form:
    the confidence of what was predicted, as in :func:`expected_calibration_error`.

    Args:
        confidence: 0 to 1, (N,).
        correct: Whether each is right, (N,).
        bins: Number M of bins.
        order: What to sort by instead of the confidence itself, such as one rounded, (N,).

    Returns:
        0 to 1, float64 scalar; NaN without predictions.

    Raises:
        ValueError: If shapes differ or ``bins`` is below 1.

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.9, 0.8, 0.8]), torch.tensor([1, 0, 1, 1])
        >>> round(float(adaptive_calibration_error(confidence, correct, bins=2)), 3)
        0.3

    """
    _check_pair(confidence, correct)
    _check_bins(bins)
    if not len(confidence):
        return torch.full((), torch.nan, dtype=torch.float64)
    scores = confidence if order is None else order
    ranked, sums = _ranked(scores, torch.stack([confidence.double(), correct.double()]))
    # The sums up to any share of the predictions, by straight lines between whole numbers of them.
    at = torch.arange(bins + 1, dtype=torch.float64) * ranked / bins
    below = at.floor().long().clamp_max(ranked - 1)
    upto = sums[:, below] + (at - below) * (sums[:, below + 1] - sums[:, below])
    gaps = upto.diff(dim=1)
    return (gaps[1] - gaps[0]).abs().sum() / ranked


def selective_accuracy(confidence: Tensor, correct: Tensor, coverages: Tensor, order: Tensor | None = None) -> Tensor:
    r"""Accuracy on the share of predictions that are most confident (Geifman & El-Yaniv 2017, arXiv 1705.08500).

    Of N predictions the :math:`\lceil c N \rceil` most confident are answered. Equal confidences share their mean
    accuracy, so that their order means nothing.

    Args:
        confidence: (N,).
        correct: Whether each is right, (N,).
        coverages: Shares c, above 0 and at most 1, (C,).
        order: What to sort by instead of the confidence itself, (N,).

    Returns:
        0 to 1, float64 (C,); NaN without predictions.

    Raises:
        ValueError: If shapes differ or a coverage is out of range.

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 0, 1])
        >>> selective_accuracy(confidence, correct, torch.tensor([0.5, 1.0])).tolist()
        [1.0, 0.75]

    """
    _check_pair(confidence, correct)
    shares = coverages.detach().cpu().double()
    if bool(((shares <= 0) | (shares > 1)).any()):
        raise ValueError(f"`coverages` must lie above 0 and not above 1, got {shares.tolist()}.")
    if not len(confidence):
        return torch.full_like(shares, torch.nan)
    rows, sums = _ranked(confidence if order is None else order, correct.double()[None], descending=True)
    # A share in float32 may be a little more than the decimal it was written as.
    answered = (shares * rows * (1 - 1e-7)).ceil().long().clamp(1, rows)
    return sums[0, answered] / answered


def area_under_risk_coverage(confidence: Tensor, correct: Tensor, order: Tensor | None = None) -> Tensor:
    r"""Mean share of errors among the k most confident predictions, over all k (AURC, Geifman et al. 2019).

    .. math:: \mathrm{AURC} = \frac1N \sum_{k=1}^N \left( 1 - \mathrm{acc}(k / N) \right)

    with the accuracies of :func:`selective_accuracy` (arXiv 1805.08206). Lower is better; confidence that orders
    nothing gives the error rate.

    Args:
        confidence: (N,).
        correct: Whether each is right, (N,).
        order: What to sort by instead of the confidence itself, (N,).

    Returns:
        0 to 1, float64 scalar; NaN without predictions.

    Raises:
        ValueError: If shapes differ.

    Example:
        >>> round(float(area_under_risk_coverage(torch.tensor([0.9, 0.8]), torch.tensor([1, 0]))), 3)
        0.25

    """
    _check_pair(confidence, correct)
    if not len(confidence):
        return torch.full((), torch.nan, dtype=torch.float64)
    rows, sums = _ranked(confidence if order is None else order, correct.double()[None], descending=True)
    return 1 - (sums[0, 1:] / torch.arange(1, rows + 1, dtype=torch.float64)).mean()


def multiclass_brier(logits: Tensor, targets: Tensor, log_norm: Tensor | None = None) -> Tensor:
    r"""Brier's score of each prediction over all classes (Brier 1950).

    .. math:: \sum_k (p_k - y_k)^2 = 1 - 2 p_y + \sum_k p_k^2

    with p the softmax of the logits and y one for the right class. It lies between 0 and 2, and is twice the score
    :math:`(p - y)^2` of one probability where there are two classes.

    Args:
        logits: (N, C); −inf for a class is allowed.
        targets: The right class, int64 (N,).
        log_norm: log Σ exp of the logits, (N,), where it is known.

    Returns:
        (N,), at least float32. Logits are worked on in blocks; nothing is read back from the device.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> multiclass_brier(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 1])).tolist()
        [0.5, 2.0]

    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits` must be (N, C) and `targets` (N,), got {tuple(logits.shape)} and {tuple(targets.shape)}."
        )
    parts = [torch.zeros(0, device=logits.device, dtype=as_float(logits[:0]).dtype)]
    step = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(logits), step):
        some = as_float(logits[start : start + step].detach())
        norm = some.logsumexp(-1) if log_norm is None else log_norm[start : start + step]
        p = (some - norm[:, None]).exp()
        right = p.gather(-1, targets[start : start + step, None]).squeeze(-1)
        parts.append(1 - 2 * right + p.square().sum(-1))
    return torch.cat(parts)


def _log_choose(number: Tensor, some: Tensor) -> Tensor:
    """Logarithm of how many sets of so many there are."""
    return (number + 1).lgamma() - (some + 1).lgamma() - (number - some + 1).lgamma()


def _ranked(scores: Tensor, values: Tensor, descending: bool = False) -> tuple[int, Tensor]:
    """Number of rows N, and sums (…, N + 1) of the values up to each rank, equal scores sharing their mean."""
    key = -scores.detach().cpu().double() if descending else scores.detach().cpu().double()
    _, group, counts = torch.unique(key, return_inverse=True, return_counts=True)
    totals = torch.zeros(len(values), len(counts), dtype=torch.float64).index_add_(1, group, values.detach().cpu())
    shared = (totals / counts).repeat_interleave(counts, dim=1)
    return len(key), torch.cat([torch.zeros(len(values), 1, dtype=torch.float64), shared.cumsum(1)], dim=1)


def _check_pair(confidence: Tensor, correct: Tensor) -> None:
    if confidence.shape != correct.shape:
        raise ValueError(
            f"`confidence` and `correct` must have one shape, got {tuple(confidence.shape)} and {tuple(correct.shape)}."
        )


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
