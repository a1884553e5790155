"""How far a value may lie from its level of chance, from a few draws of labels that carry nothing."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["chance_spread"]


def chance_spread(levels: Tensor, expected: Tensor | None = None) -> Tensor:
    r"""Standard deviation of value − chance for labels that carry nothing, from S draws of such labels.

    Where chance is the mean of the draws :math:`x_s`, it errs itself:

    .. math:: \frac{1}{c_4(S)} \sqrt{1 + \frac{1}{S}} \sqrt{\frac{\sum_s (x_s - \bar x)^2}{S - 1}}

    with :math:`c_4(S) = \sqrt{2 / (S - 1)}\; \Gamma(S / 2) / \Gamma((S - 1) / 2)`, what the standard deviation of S
    normal draws is on average for a true one of 1 (.886 for three). Where the level is known, it is
    :math:`\sqrt{\sum_s (x_s - \mu)^2 / S} / c_4(S + 1)`.

    Args:
        levels: The draws, (S,).
        expected: The level of chance μ, where it is known.

    Returns:
        A scalar; NaN for fewer draws than two, or than one where the level is known.

    Example:
        >>> import torch
        >>> round(float(chance_spread(torch.tensor([1.0, 2.0, 3.0]))), 4)
        1.3029

    """
    centre = levels.mean() if expected is None else expected
    free = len(levels) - (expected is None)
    if free < 1:
        return levels.new_full((), math.nan)
    correction = math.sqrt(2 / free) * math.exp(math.lgamma((free + 1) / 2) - math.lgamma(free / 2))
    of_the_mean = 1 + 1 / len(levels) if expected is None else 1.0
    spread: Tensor = ((levels - centre).square().sum() / free * of_the_mean).sqrt() / correction
    return spread
