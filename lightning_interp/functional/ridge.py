"""Ridge regression in closed form, its strength chosen on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix
from lightning_interp.functional.folds import check_folds

__all__ = ["ALPHAS", "HeldOut", "RidgeFit", "held_out_ridge", "ridge"]

ALPHAS = tuple(10.0**power for power in range(-6, 3))
"""Strengths to choose from, as multiples of the mean squared singular value of the centred vectors."""


class RidgeFit(NamedTuple):
    """A linear map with an intercept."""

    weight: Tensor
    """(D, T)"""
    bias: Tensor
    """(T,)"""

    def predict(self, x: Tensor) -> Tensor:
        """What it says of vectors (N, D): (N, T)."""
        return x.to(self.weight) @ self.weight + self.bias


class HeldOut(NamedTuple):
    """What probes say of vectors that they were not fitted to."""

    predictions: Tensor
    """(N, T), each row from the fit without its fold."""
    alphas: Tensor
    """The strength chosen without each fold, (folds, T), as a multiple of the mean squared singular value."""


def ridge(x: Tensor, y: Tensor, alpha: float) -> RidgeFit:
    r"""Least squares with a penalty on the weights, and none on the intercept (Hoerl and Kennard 1970).

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Args:
        x: Vectors, (N, D).
        y: Targets, (N, T); each target has a solution of its own.
        alpha: Strength, above 0, in the unit of x squared.

    Returns:
        :class:`RidgeFit`, float64 on the CPU.

    Raises:
        ValueError: If shapes do not fit, values are not finite or ``alpha`` is not above 0.

    Cost: one symmetric eigendecomposition of min(N, D)².

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> fit = ridge(x, 3 * x + 1, alpha=2.0)
        >>> fit.weight, fit.predict(x[:1])
        (tensor([[1.5000]], dtype=torch.float64), tensor([[2.5000]], dtype=torch.float64))

    """
    if not alpha > 0:
        raise ValueError(f"`alpha` must be above 0, got {alpha}.")
    wide_x, wide_y = _checked(x, y)
    path = _Path(wide_x, wide_y)
    weight = path.weight(torch.full((wide_y.shape[1],), float(alpha), dtype=torch.float64))
    return RidgeFit(weight, path.y_mean - path.mean @ weight)


def held_out_ridge(x: Tensor, y: Tensor, folds: Tensor, alphas: Sequence[float] = ALPHAS) -> HeldOut:
    r"""Predictions of every vector by a ridge that saw neither it nor anything else of its fold.

    Without fold f, each target's strength is the one with the least squared error over all other folds g, each by a fit
    to the folds but f and g; the fit is then made anew to all folds but f. So nothing of a fold has a part in what is
    said of it. One fold to choose on would not do where folds are blocks: nearer to the middle of the map than
    the rest, it favours a ridge that says the mean everywhere.

    Args:
        x: Vectors, (N, D).
        y: Targets, (N, T). Their units are of no consequence.
        folds: The fold of each vector, 0 to at least 2, (N,); see :func:`random_folds` and :func:`block_folds`.
        alphas: Strengths to choose from, as multiples of :math:`\|X - \bar X\|^2 / \min(N, D)`, so that the scale of
            the vectors is of no consequence either.

    Returns:
        :class:`HeldOut`, float64 on the CPU.

    Raises:
        ValueError: If shapes do not fit, values are not finite, there are fewer than three folds, one is empty, or a
            strength is not above 0.

    Cost: folds · (folds + 1) / 2 eigendecompositions of min(N, D)².

    Example:
        >>> x = torch.arange(6.0)[:, None]
        >>> found = held_out_ridge(x, 3 * x + 1, torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> [round(value, 3) for value in found.predictions.squeeze(1).tolist()]
        [1.0, 4.0, 7.0, 10.0, 13.0, 16.0]

    """
    wide_x, wide_y = _checked(x, y)
    number = check_folds(folds, len(wide_x))
    if not alphas or min(alphas) <= 0:
        raise ValueError(f"`alphas` must hold strengths above 0, got {tuple(alphas)}.")
    grid = torch.tensor(list(alphas), dtype=torch.float64)
    predictions = torch.empty_like(wide_y)
    errors = torch.zeros(number, len(grid), wide_y.shape[1], dtype=torch.float64)
    for first, second in combinations(range(number), 2):
        # One fit without two folds tells something of each to the other.
        rest = (folds != first) & (folds != second)
        path = _Path(wide_x[rest], wide_y[rest])
        for fold, other in ((first, second), (second, first)):
            errors[fold] += path.errors(wide_x[folds == other], wide_y[folds == other], grid)
    chosen = grid[errors.argmin(1)]
    for fold in range(number):
        test = folds == fold
        path = _Path(wide_x[~test], wide_y[~test])
        predictions[test] = path.predict(path.project(wide_x[test]), chosen[fold] * path.scale)
    return HeldOut(predictions, chosen)


class _Path:
    """Training vectors through the eigenvectors of their products, from which every strength's solution follows."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.mean, self.y_mean = x.mean(0), y.mean(0)
        centred, target = x - self.mean, y - self.y_mean
        dual = len(x) < x.shape[1]
        values, vectors = torch.linalg.eigh(centred @ centred.T if dual else centred.T @ centred)
        self._values = values.clamp_min(0)[:, None]
        self._basis = centred.T @ vectors if dual else vectors
        self._target = vectors.T @ (target if dual else centred.T @ target)
        # Vectors that do not differ have no scale, and any will do: their weights are 0.
        self.scale = (centred.square().sum() / min(x.shape)).clamp_min(1e-30)

    def project(self, x: Tensor) -> Tensor:
        projected: Tensor = (x - self.mean) @ self._basis
        return projected

    def predict(self, projected: Tensor, alpha: Tensor) -> Tensor:
        predicted: Tensor = projected @ (self._target / (self._values + alpha)) + self.y_mean
        return predicted

    def errors(self, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
        """Sum of squared errors by strength and target, (strengths, T)."""
        projected = self.project(x)
        alphas = (grid * self.scale)[:, None].expand(-1, y.shape[1])
        return torch.stack([(self.predict(projected, alpha) - y).square().sum(0) for alpha in alphas])

    def weight(self, alpha: Tensor) -> Tensor:
        weight: Tensor = self._basis @ (self._target / (self._values + alpha))
        return weight


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    check_matrix("x", x)
    check_matrix("y", y)
    if len(x) != len(y):
        raise ValueError(f"`x` and `y` must have as many rows, got shapes {tuple(x.shape)} and {tuple(y.shape)}.")
    for name, value in (("x", x), ("y", y)):
        missing = int((~value.isfinite()).sum())
        if missing:
            raise ValueError(f"`{name}` has {missing} values of {value.numel()} that are not finite.")
    return x.detach().cpu().double(), y.detach().cpu().double()
