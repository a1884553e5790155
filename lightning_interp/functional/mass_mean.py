"""The direction from the mean of one class to that of the other."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional.linear_rule import LinearRule, check_classes

__all__ = ["mass_mean"]


def mass_mean(x: Tensor, labels: Tensor, whiten: bool = False, shrinkage: float = 0.1) -> LinearRule:
    r"""Mass-mean probe (Marks and Tegmark 2023): the difference of the means of two classes as the direction.

    .. math:: w = \mu_1 - \mu_0 \quad\text{or, whitened,}\quad w = \Sigma^{-1} (\mu_1 - \mu_0)

    with Σ the covariance within classes and the threshold half way between the means. Σ is shrunk to
    :math:`(1 - \gamma) \Sigma + \gamma \operatorname{tr}(\Sigma) / D \cdot I`, since of fewer vectors than dimensions
    it has no inverse: linear discriminant analysis with equal priors. Nothing is fitted by descent and, without
    whitening, there is next to nothing to overfit with.

    Args:
        x: Vectors, (N, D).
        labels: Two classes, bool or 0 and 1, (N,).
        whiten: Whether directions in which the classes vary within themselves count less.
        shrinkage: γ, above 0 and at most 1; only with ``whiten``.

    Returns:
        :class:`LinearRule`, float64 on the CPU.

    Raises:
        ValueError: If shapes do not fit, values are not finite, a class is missing or ``shrinkage`` is out of range.

    Cost: a pass over x; whitened, a solution of D equations.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 1.0], [2.0, 3.0]])
        >>> rule = mass_mean(x, torch.tensor([0, 0, 1, 1]))
        >>> rule.weight, rule.score(torch.tensor([[1.0, 9.0], [1.5, 0.0]]))
        (tensor([2., 0.], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))

    """
    if whiten and not 0 < shrinkage <= 1:
        raise ValueError(f"`shrinkage` must lie above 0 and not above 1, got {shrinkage}.")
    wide, positive = check_classes(x, labels)
    means = wide[~positive].mean(0), wide[positive].mean(0)
    weight = means[1] - means[0]
    if whiten:
        within = wide - torch.where(positive[:, None], means[1], means[0])
        covariance = (1 - shrinkage) * within.T @ within / len(wide)
        level = shrinkage * within.square().sum() / wide.numel()
        # Classes without any spread have no covariance to divide by.
        covariance.diagonal().add_(level if level > 0 else 1.0)
        weight = torch.linalg.solve(covariance, weight)
    return LinearRule(weight, -(means[0] + means[1]) @ weight / 2)
