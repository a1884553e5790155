"""Logistic regression of two classes, solved to the end."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional.linear_rule import LinearRule, check_classes

__all__ = ["logistic"]

_STEPS = 100
_TOLERANCE = 1e-10


def logistic(x: Tensor, labels: Tensor, l2: float = 1.0) -> LinearRule:
    r"""Logistic regression with a penalty on the weights, and none on the intercept.

    .. math:: \min_{w, b} \sum_i \log\bigl(1 + e^{-s_i (w \cdot x_i + b)}\bigr) + \tfrac{\lambda}{2} \|w\|^2,
        \quad s_i = \pm 1

    scikit-learn's ``LogisticRegression(C=1 / l2)``. Newton's method with halved steps, in float64, in the space that
    the vectors span: the weights of the solution lie in it.

    Args:
        x: Vectors, (N, D).
        labels: Two classes, bool or 0 and 1, (N,).
        l2: λ, above 0, in the unit of x squared.

    Returns:
        :class:`LinearRule`, float64 on the CPU: its score is the log of the odds of class 1.

    Raises:
        ValueError: If shapes do not fit, values are not finite, a class is missing or ``l2`` is not above 0.
        RuntimeError: If it does not converge.

    Cost: about ten solutions of min(N, D + 1) equations.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> rule = logistic(x, torch.tensor([False, False, True, True]))
        >>> rule.score(torch.tensor([[1.5]])).abs().item() < 1e-9
        True

    """
    if not l2 > 0:
        raise ValueError(f"`l2` must be above 0, got {l2}.")
    wide, positive = check_classes(x, labels)
    mean = wide.mean(0)
    centred = wide - mean
    basis = torch.linalg.qr(centred.T).Q if len(wide) < wide.shape[1] else None
    z = centred if basis is None else centred @ basis
    sign = positive.double() * 2 - 1
    solution = _newton(torch.cat([z, torch.ones(len(z), 1, dtype=torch.float64)], 1), sign, l2)
    weight = solution[:-1] if basis is None else basis @ solution[:-1]
    return LinearRule(weight, solution[-1] - mean @ weight)


def _newton(z: Tensor, sign: Tensor, l2: float) -> Tensor:
    """The last column of z is the intercept's."""
    penalty = torch.full((z.shape[1],), float(l2), dtype=torch.float64)
    penalty[-1] = 0

    def loss(w: Tensor) -> Tensor:
        total: Tensor = torch.nn.functional.softplus(-sign * (z @ w)).sum() + (penalty * w * w).sum() / 2
        return total

    w = torch.zeros(z.shape[1], dtype=torch.float64)
    value = loss(w)
    for _ in range(_STEPS):
        p = torch.sigmoid(-sign * (z @ w))
        gradient = penalty * w - z.T @ (sign * p)
        hessian = (z * (p * (1 - p))[:, None]).T @ z + penalty.diag()
        # All examples may be told apart so well that nothing is left to fix the intercept by.
        hessian[-1, -1] += 1e-14 * len(z)
        step = torch.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease <= _TOLERANCE * max(1.0, float(value)):
            solution: Tensor = w - step
            return solution
        size = 1.0
        while float(loss(w - size * step)) > float(value) - 1e-4 * size * decrease and size > 1e-10:
            size /= 2
        w = w - size * step
        value = loss(w)
    raise RuntimeError(f"logistic regression did not converge in {_STEPS} steps with l2={l2}.")
