"""Linear probes in closed form from second moments, which add up over batches, folds and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.ridge import ALPHAS

__all__ = ["FoldProbe", "LinearMap", "ProbeMoments", "held_out_probes", "indicators", "majority_share"]

# A strength whose error is so little above the least one is as good: ties go to the strongest, whatever rounding says.
_TIE = 1e-9


class LinearMap(NamedTuple):
    """A probe: what it says of z is z·W + b."""

    weight: Tensor
    """(D, M)"""
    bias: Tensor
    """(M,)"""

    def predict(self, z: Tensor) -> Tensor:
        """What it says of vectors (N, D): (N, M)."""
        return z.to(self.weight) @ self.weight + self.bias


@dataclass(frozen=True)
class ProbeMoments:
    """All that ridge regression needs to know of rows: sums, which add up.

    Of vectors far from zero, subtract a common shift first, as the sums are about zero.
    """

    count: Tensor
    """Rows, ()."""
    z: Tensor
    """Σ z, (D,)."""
    y: Tensor
    """Σ y, (M,)."""
    zz: Tensor
    """Σ z zᵀ, (D, D)."""
    zy: Tensor
    """Σ z yᵀ, (D, M)."""
    yy: Tensor
    """Σ y², (M,)."""

    @classmethod
    def of(cls, z: Tensor, y: Tensor) -> ProbeMoments:
        """The sums of vectors (N, D) and what is to be read from them (N, M), in the dtype of the vectors."""
        y = y.to(z)
        return cls(z.new_tensor(float(len(z))), z.sum(0), y.sum(0), z.T @ z, z.T @ y, y.square().sum(0))

    def parts(self) -> tuple[Tensor, ...]:
        """All sums."""
        return self.count, self.z, self.y, self.zz, self.zy, self.yy

    def __add__(self, other: ProbeMoments) -> ProbeMoments:
        return ProbeMoments(*(a + b for a, b in zip(self.parts(), other.parts(), strict=True)))

    def __sub__(self, other: ProbeMoments) -> ProbeMoments:
        return ProbeMoments(*(a - b for a, b in zip(self.parts(), other.parts(), strict=True)))

    def about(self, z: Tensor, y: Tensor) -> ProbeMoments:
        """The same sums after z and y were subtracted from every row."""
        n = self.count
        zz = self.zz - torch.outer(self.z, z) - torch.outer(z, self.z) + n * torch.outer(z, z)
        zy = self.zy - torch.outer(self.z, y) - torch.outer(z, self.y) + n * torch.outer(z, y)
        return ProbeMoments(n, self.z - n * z, self.y - n * y, zz, zy, self.yy - 2 * y * self.y + n * y.square())

    def solve(self, alphas: Sequence[float]) -> Iterator[LinearMap]:
        r"""Ridge regression of y on z with each of several strengths.

        .. math:: \min_{W, b} \sum \|y - W^\top z - b\|^2 + \alpha\,\frac{\sum \|z - \bar z\|^2}{\min(N, D)} \|W\|^2

        In this unit the scale of the vectors is of no consequence. Vectors that do not differ give weights of 0.

        Cost: a Cholesky factor of D² each.
        """
        mean_z, mean_y = self.z / self.count, self.y / self.count
        own = self.about(mean_z, mean_y)
        unit = own.zz.diagonal().sum().clamp_min(0) / min(float(self.count), len(mean_z))
        # A spread below the rounding of the vectors themselves is none.
        nothing = unit <= torch.finfo(torch.float32).eps ** 2 * (self.zz.diagonal().sum() / self.count)
        unit = torch.where(nothing, 1.0, unit)
        for alpha in alphas:
            system = own.zz.clone()
            system.diagonal().add_(alpha * unit)
            factor, _ = torch.linalg.cholesky_ex(system)
            weight = torch.where(nothing, 0.0, torch.cholesky_solve(own.zy, factor))
            yield LinearMap(weight, mean_y - mean_z @ weight)

    def errors(self, probe: LinearMap) -> Tensor:
        """Σ (y − what the probe says)², (M,)."""
        rest = self.about(torch.zeros_like(self.z), probe.bias)
        w = probe.weight
        return (rest.yy - 2 * (w * rest.zy).sum(0) + (w * (self.zz @ w)).sum(0)).clamp_min(0)


class FoldProbe(NamedTuple):
    """The probe for one fold, fitted to all others."""

    probe: LinearMap
    alphas: list[float]
    """The strength chosen for each task."""


def held_out_probes(
    folds: Sequence[ProbeMoments], tasks: Sequence[slice], alphas: Sequence[float] = ALPHAS
) -> Iterator[FoldProbe]:
    r"""For every fold a linear probe that knows nothing of it.

    Without fold f, each task's strength is the one with the least squared error on fold f + 1 (the first one after the
    last) by a fit to all other folds; the fit is then made anew to all folds but f. With one row per class in y
    (:func:`indicators`), the class of the largest prediction is that of scikit-learn's ``RidgeClassifier``.

    Args:
        folds: The moments of each fold, at least 3.
        tasks: Which columns of y belong together and have one strength.
        alphas: Strengths to choose from, in the unit of :meth:`ProbeMoments.solve`.

    Yields:
        :class:`FoldProbe` of each fold in turn.

    Raises:
        ValueError: If there are fewer than three folds, one is without rows, or a strength is not above 0.

    Cost: two Cholesky factors of D² a fold and strength, at most.

    Example:
        >>> z = torch.arange(6.0, dtype=torch.float64)[:, None]
        >>> folds = [ProbeMoments.of(z[k::3], 3 * z[k::3] + 1) for k in range(3)]
        >>> probes = [found.probe for found in held_out_probes(folds, [slice(1)])]
        >>> [round(float(probe.predict(z[k : k + 1])), 3) for k, probe in enumerate(probes)]
        [1.0, 4.0, 7.0]

    """
    if len(folds) < 3:
        raise ValueError(f"`folds` must be at least 3, to fit, choose and test on; got {len(folds)}.")
    if any(float(fold.count) < 1 for fold in folds):
        raise ValueError(f"`folds` have {[int(fold.count) for fold in folds]} rows; none may be empty.")
    if not alphas or min(alphas) <= 0:
        raise ValueError(f"`alphas` must hold strengths above 0, got {tuple(alphas)}.")
    strong_first = sorted(alphas, reverse=True)
    whole = folds[0]
    for fold in folds[1:]:
        whole = whole + fold
    for place, fold in enumerate(folds):
        validation = folds[(place + 1) % len(folds)]
        rest = whole - fold
        errors = torch.stack([validation.errors(one) for one in (rest - validation).solve(strong_first)])
        chosen = [_chosen(strong_first, errors[:, task].sum(1).tolist()) for task in tasks]
        used = sorted(set(chosen))
        weight, bias = torch.zeros_like(rest.zy), torch.zeros_like(rest.y)
        for alpha, probe in zip(used, rest.solve(used), strict=True):
            for task, own in zip(tasks, chosen, strict=True):
                if own == alpha:
                    weight[:, task], bias[task] = probe.weight[:, task], probe.bias[task]
        yield FoldProbe(LinearMap(weight, bias), chosen)


def _chosen(alphas: Sequence[float], errors: Sequence[float]) -> float:
    least = min(errors)
    return next(alpha for alpha, error in zip(alphas, errors, strict=True) if error <= least * (1 + _TIE))


def indicators(classes: Tensor, number: int) -> Tensor:
    """A column for each class, 1 where a row is of it: (N,) → float64 (N, number).

    Example:
        >>> indicators(torch.tensor([1, 0]), 3).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]

    """
    columns = torch.zeros(len(classes), number, dtype=torch.float64, device=classes.device)
    return columns.scatter_(1, classes[:, None], 1.0)


def majority_share(classes: Tensor) -> float:
    """The accuracy of always naming the most frequent class.

    Example:
        >>> majority_share(torch.tensor([0, 1, 1, 2]))
        0.5

    """
    return float(classes.bincount().max()) / len(classes) if len(classes) else float("nan")
