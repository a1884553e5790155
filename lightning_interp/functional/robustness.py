"""What is left of a metric under noise of growing size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import variance as variance_of

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, finite_rows, in_range, wide_dtype
from lightning_interp.functional.student import t_quantile

__all__ = [
    "CLEAR",
    "IN_A_ROW",
    "area_under_noise",
    "checked_scales",
    "cosine_drift_sums",
    "differs",
    "half_scale",
    "retention",
    "share_learned",
    "shows_learning",
]

CLEAR = 4.0
"""A difference of so many half-widths of its noise is clear."""
IN_A_ROW = 3
"""Readings that must find a difference that is not."""
_LEARNED = 0.05  # of what there was to learn


def area_under_noise(scales: Sequence[float], values: Sequence[float], clean: float) -> float:
    r"""A quantity averaged over the size of the noise, from none to the largest scale.

    .. math:: \frac{1}{\sigma_n} \sum_{i=1}^{n} (\sigma_i - \sigma_{i-1}) \frac{v(\sigma_i) + v(\sigma_{i-1})}{2},
        \qquad \sigma_0 = 0

    the trapezoid rule, linear in σ and unclipped.

    Args:
        scales: Sizes of the noise σ, increasing, from 0 on.
        values: The quantity at each of them.
        clean: The quantity without noise.

    Returns:
        In the units of the values.

    Raises:
        ValueError: If scales are not as above, or scales and values differ in number.

    Example:
        >>> area_under_noise([0.5, 1.0], [0.5, 0.0], clean=1.0)
        0.5

    """
    scales = checked_scales(scales)
    if len(values) != len(scales):
        raise ValueError(f"`values` has {len(values)} entries for {len(scales)} scales.")
    at, of = [0.0, *scales], [clean, *values]
    steps = zip(itertools.pairwise(at), itertools.pairwise(of), strict=True)
    return sum((right - left) * (first + second) / 2 for (left, right), (first, second) in steps) / at[-1]


def share_learned(value: float, start: float, loss: bool) -> float:
    r"""How much of what there was to learn has been learned.

    .. math:: \frac{v_\mathrm{start} - v}{|v_\mathrm{start}|} \text{ of a loss}, \qquad
        \frac{v - v_\mathrm{start}}{1 - v_\mathrm{start}} \text{ of a score}

    A score whose start is not between 0 and 1 has no such end, and is measured by \|v_start\| as well.

    Args:
        value: The monitor now, v.
        start: Its value before training.
        loss: Whether less of it is better.

    Returns:
        1 where all is learned, 0 where nothing is, below 0 where it became worse; infinite of a start of 0 that any
        change is more than.

    Example:
        >>> share_learned(0.75, 0.5, loss=False), share_learned(1.5, 2.0, loss=True)
        (0.5, 0.25)

    """
    gain = start - value if loss else value - start
    whole = abs(start) if loss or not 0 <= start < 1 else 1 - start
    return gain / whole if whole else math.copysign(math.inf, gain) if gain else 0.0


def shows_learning(gain: float, width: float, share: float) -> int:
    r"""How many readings' worth of evidence a reading is that something was learned.

    It is evidence where the gain is beyond its noise and at least a twentieth of what there was to learn. A gain of
    ``CLEAR`` times its noise stands for ``IN_A_ROW`` readings, which otherwise have to find it one after the other.

    Args:
        gain: What was gained, positive where the monitor is better than before training.
        width: The half-width of its 95 % interval, :func:`differs`.
        share: :func:`share_learned`.

    Returns:
        0, 1, or ``IN_A_ROW``.

    Example:
        >>> [shows_learning(gain, width=0.1, share=0.5) for gain in (0.1, 0.2, 0.5)], shows_learning(0.5, 0.1, 0.01)
        ([0, 1, 3], 0)

    """
    if not gain > width or share < _LEARNED:
        return 0
    return IN_A_ROW if gain > CLEAR * width else 1


def retention(noisy: float, clean: float, start: float) -> float:
    r"""The share of what was learned that survives the noise.

    .. math:: r(\sigma) = \frac{v(\sigma) - v_\mathrm{start}}{v(0) - v_\mathrm{start}}

    1 where all of it survives, 0 where the model is no better than before its first step, below 0 where it is worse.
    The same for a loss and a score.

    Args:
        noisy: The monitor under noise, v(σ).
        clean: The monitor without noise on the same examples, v(0).
        start: The monitor before the first step on the same examples, or the level of chance.

    Returns:
        The share, unclipped; NaN where nothing was learned, v(0) = v_start.

    Example:
        >>> retention(noisy=0.5, clean=0.9, start=0.1)
        0.5

    """
    return (noisy - start) / (clean - start) if clean != start else math.nan


def half_scale(scales: Sequence[float], retained: Sequence[float]) -> float:
    r"""The smallest size of noise at which half of what was learned is gone.

    Linear between the scales, with a retention of 1 at no noise.

    Args:
        scales: Sizes of the noise, increasing, from 0 on.
        retained: :func:`retention` at each of them.

    Returns:
        The scale; NaN where more than half survives all of them.

    Raises:
        ValueError: If scales are not as above, or scales and values differ in number.

    Example:
        >>> half_scale([0.5, 1.0], [0.75, 0.25])
        0.75

    """
    scales = checked_scales(scales)
    if len(retained) != len(scales):
        raise ValueError(f"`retained` has {len(retained)} entries for {len(scales)} scales.")
    left, above = 0.0, 1.0
    for right, below in zip(scales, retained, strict=True):
        if below <= 0.5:
            return left + (right - left) * (above - 0.5) / (above - below)
        left, above = right, below
    return math.nan


def cosine_drift_sums(clean: Tensor, noisy: Tensor, mask: Tensor) -> Tensor:
    r"""How far vectors turn under noise, summed.

    .. math:: \sum_i 1 - \cos(z_i, z'_i) = \sum_i \tfrac{1}{2} \left\| \frac{z_i}{\|z_i\|} -
        \frac{z'_i}{\|z'_i\|} \right\|^2

    the right-hand side, which keeps its digits where the two are close.

    Args:
        clean: Representations without noise, (..., D).
        noisy: The same under noise.
        mask: Which vectors count, bool (...).

    Returns:
        Sum, number of vectors, and number of masked vectors left out because one of the two is not finite, float64 (3,)
        (float32 where the device has no float64). A pair of which one is zero has no angle and is left out too.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> cosine_drift_sums(z, z.flip(0), torch.ones(2, dtype=torch.bool)).tolist()
        [2.0, 2.0, 0.0]

    """
    clean, noisy = as_float(clean), as_float(noisy)
    finite = finite_rows(clean) & finite_rows(noisy)
    clean, noisy = in_range(clean), in_range(noisy)
    norms = [torch.linalg.vector_norm(z, dim=-1, keepdim=True) for z in (clean, noisy)]
    valid = finite & (norms[0] > 0).squeeze(-1) & (norms[1] > 0).squeeze(-1)  # zero has no direction
    tiny = torch.finfo(clean.dtype).tiny
    apart = clean / norms[0].clamp_min(tiny) - noisy / norms[1].clamp_min(tiny)
    turned = apart.square().sum(-1) / 2
    wide = wide_dtype(clean.device)
    counted = mask & valid
    total = turned.masked_fill(~counted, 0).sum(dtype=wide)
    return torch.stack([total, counted.sum().to(wide), (mask & ~finite).sum().to(wide)])


def differs(values: Sequence[float], others: Sequence[float]) -> float:
    r"""The half-width of the 95 % interval of the difference between two means over groups of examples.

    .. math:: t_{.975, G-1}\, \frac{s}{\sqrt{G}}

    with s the standard deviation over groups of the paired differences; of each side by itself where the two do not
    have the same groups.

    Args:
        values: One side's value in each of G groups.
        others: The other side's; a single entry is a constant.

    Returns:
        The half-width; NaN where there are fewer than two groups.

    Example:
        >>> round(differs([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]), 3)
        2.484

    """
    if len(others) == 1:
        others = list(others) * len(values)
    if len(values) < 2 or len(others) < 2:
        return math.nan
    if len(values) == len(others):
        variance = variance_of([one - other for one, other in zip(values, others, strict=True)]) / len(values)
    else:
        variance = variance_of(values) / len(values) + variance_of(others) / len(others)
    freedom = min(len(values), len(others)) - 1
    return t_quantile(0.025, freedom) * math.sqrt(variance)


def checked_scales(scales: Iterable[float]) -> tuple[float, ...]:
    """Sizes of noise as plain numbers, from a list, an array or a tensor.

    Raises:
        ValueError: If they are not finite, increasing and at least 0 with one above, or no list of numbers.

    Example:
        >>> import numpy as np
        >>> checked_scales(np.linspace(0.5, 1.5, 3))
        (0.5, 1.0, 1.5)

    """
    try:
        found = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`scales` must be a list of numbers, got {scales!r}.") from error
    increasing = all(left < right for left, right in itertools.pairwise(found))
    if not found or not increasing or found[0] < 0 or found[-1] == 0 or not all(map(math.isfinite, found)):
        raise ValueError(f"`scales` must be finite, increasing and at least 0, one of them above, got {list(found)}.")
    return found
