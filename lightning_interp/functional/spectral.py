"""Geometry of a cloud of representations from the eigenvalues of its covariance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, in_range, plogp, wide_dtype

__all__ = ["SpectralMeasures", "anisotropy", "covariance_from_sums", "curvature_sums", "spectral_measures"]


_FIRST_RANK, _LAST_RANK = 11, 100  # of the fit of α
_FEWEST_RANKS = 10


class SpectralMeasures(NamedTuple):
    """Shape of a spectrum; every entry a scalar."""

    rankme: Tensor
    """exp of the entropy of √λ, 1 to D: RankMe where λ are of the second moment about zero (Garrido et al. 2023)."""
    effective_rank: Tensor
    """exp of the entropy of the eigenvalues, 1 to D (Roy & Vetterli 2007)."""
    participation_ratio: Tensor
    """(Σλ)²/Σλ², 1 to D."""
    matrix_entropy: Tensor
    """Entropy of the eigenvalues divided by the log of the most there can be, 0 to 1: that of Skean et al. (2025) where
    λ are of the second moment about zero."""
    alpha: Tensor
    """Decay of the spectrum: minus the slope of log λ_i on log i, ranks 11 to 100 (Agrawal et al. 2022)."""
    alpha_r2: Tensor
    """How straight those ranks lie, R² with the weights of the fit."""


def covariance_from_sums(outer: Tensor, total: Tensor, count: Tensor | float) -> Tensor:
    """Σzzᵀ/N − (Σz/N)(Σz/N)ᵀ from sums.

    Args:
        outer: Σ z zᵀ, shape (D, D).
        total: Σ z, shape (D,).
        count: N.

    Returns:
        The covariance (divided by N), shape (D, D). Where the mean is far larger than the spread, centre first: the
        difference of two large numbers keeps few digits.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> covariance_from_sums(z.T @ z, z.sum(0), 2)
        tensor([[1., 0.],
                [0., 0.]])

    """
    mean = total / count
    return outer / count - torch.outer(mean, mean)


def spectral_measures(covariance: Tensor, count: Tensor | int, centred: bool = False) -> SpectralMeasures:
    r"""RankMe, effective rank, participation ratio, matrix entropy and α-ReQ of a covariance or second moment.

    With λ the eigenvalues in falling order, σ = √λ and p normalised to sum 1:
    RankMe = :math:`\exp(-\sum p \log p)` with p ∝ σ, effective rank the same with p ∝ λ, participation ratio
    :math:`(\sum\lambda)^2 / \sum\lambda^2`, matrix entropy :math:`-\sum p \log p / \log \min(N, D)` with p ∝ λ.
    Eigenvalues below 1.2e-7 of the largest count as zero. Sources: arXiv 2210.02885, 2502.02013, 2202.05808. RankMe and
    matrix entropy are published for :math:`Z^\top Z`, no mean taken out (Garrido et al. add 1e-7 to each p, which is
    left out here); effective rank, participation ratio and α for the covariance. Which of them is given is up to the
    caller: under a common mean the two differ by a factor of two and more.

    α is the slope of :math:`-\log\lambda_i` on :math:`\log i` over ranks 11 to 100, weighted by 1/i, as in the code of
    α-ReQ's group (reptrix 0.1.0). Eigenvalues of a sample fall off too fast towards the last, so with fewer than 200 of
    them the fit ends at half their number, and with fewer than 40 α is undefined. Planted α of 1, mean over draws
    (``benchmarks/alpha.py``): 1.02 for 300 rows of 256 dimensions, .95 for 1,000 of 768, 1.01 for 1,000 of 64, 1.06 for
    300 of 64, 1.15 for 128 of 64. :math:`R^2` says whether these ranks lie on a line. It does not say that the sample
    is large enough: it is above .98 in all of these.

    Args:
        covariance: Symmetric, shape (D, D): covariance, or :math:`Z^\top Z / N`.
        count: Number N of representations that it was formed from.
        centred: Whether their mean was taken out, which leaves N − 1 directions to them instead of N.

    Returns:
        :class:`SpectralMeasures`, float64 (float32 where a device has none). A point, which is what a cloud without
        spread is, counts as a single direction: 1, 1, 1, and 0 as matrix entropy. Where N or D allows one direction
        only, matrix entropy is NaN. Cost: one symmetric eigendecomposition, O(D³).

    Raises:
        ValueError: If the covariance is not square.

    Example:
        >>> measures = spectral_measures(torch.eye(4), count=100)
        >>> [round(value.item(), 3) for value in measures[:4]]
        [4.0, 4.0, 4.0, 1.0]

    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"`covariance` must be square, got shape {tuple(covariance.shape)}.")
    wide = wide_dtype(covariance.device)
    matrix = covariance.to(wide)
    eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
    dim = matrix.shape[0]
    # Sums of float32 products leave small eigenvalues where there should be none.
    floor = eigenvalues[0].clamp_min(0) * torch.finfo(torch.float32).eps
    eigenvalues = torch.where(eigenvalues > floor, eigenvalues, 0.0)
    if not bool(eigenvalues.any()) and count > centred:
        # A point is the least there can be in any direction; NaN would leave a gate on collapse with the last cloud.
        eigenvalues = torch.zeros_like(eigenvalues)
        eigenvalues[0] = 1.0
    total = eigenvalues.sum()
    singular = eigenvalues.sqrt()
    entropy = -plogp(eigenvalues / total).sum()
    rank_bound = min(float(count) - centred, dim)
    alpha, r2 = _decay(eigenvalues)
    return SpectralMeasures(
        rankme=(-plogp(singular / singular.sum()).sum()).exp(),
        effective_rank=entropy.exp(),
        participation_ratio=total**2 / (eigenvalues**2).sum(),
        matrix_entropy=entropy / math.log(rank_bound) if rank_bound > 1 else entropy * math.nan,
        alpha=alpha,
        alpha_r2=r2,
    )


def _decay(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    last = min(_LAST_RANK, int((eigenvalues > 0).sum()) // 2)
    if last - _FIRST_RANK + 1 < _FEWEST_RANKS:
        nan = eigenvalues.new_full((), math.nan)
        return nan, nan
    ranks = torch.arange(_FIRST_RANK, last + 1, dtype=eigenvalues.dtype, device=eigenvalues.device)
    weight = 1 / ranks / (1 / ranks).sum()
    x, y = ranks.log(), eigenvalues[_FIRST_RANK - 1 : last].log()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    slope = (weight * x * y).sum() / (weight * x * x).sum()
    spread = (weight * y * y).sum()
    fitted = 1 - (weight * (y - slope * x) ** 2).sum() / spread
    # Equal eigenvalues lie on the line exactly, though they leave nothing to explain.
    return -slope, torch.where(spread > 1e-20, fitted, torch.ones_like(fitted))


def anisotropy(unit_total: Tensor, count: Tensor | int) -> Tensor:
    r"""Mean cosine of two different representations, :math:`(\|\sum_i \bar z_i\|^2 - N) / (N (N - 1))`.

    Args:
        unit_total: Σ of representations scaled to unit length, shape (D,).
        count: Number N of them.

    Returns:
        A scalar in [−1/(N−1), 1]: 0 for directions spread evenly, 1 for a single direction; NaN below two.

    Example:
        >>> anisotropy(torch.tensor([3.0, 0.0]), 3)
        tensor(1.)

    """
    number = torch.as_tensor(count, dtype=unit_total.dtype, device=unit_total.device)
    pairs = torch.where(number > 1, number * (number - 1), math.nan)
    return ((unit_total**2).sum() - number) / pairs


def curvature_sums(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sum and number of the angles between successive steps :math:`z_{t+1} - z_t` along sequences.

    Args:
        z: Representations, shape (B, T, D).
        mask: Which positions count, bool (B, T); an angle needs three neighbouring ones and two steps of some length.

    Returns:
        The sum of angles in radians and how many there are. Their ratio is the mean curvature: 0 for a straight path,
        π/2 on average for independent steps in many dimensions, 2π/3 for independent positions.

    Example:
        >>> path = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
        >>> total, number = curvature_sums(path, torch.ones(1, 3, dtype=torch.bool))
        >>> round((total / number).item(), 4)
        1.5708

    """
    wide = wide_dtype(z.device)
    if z.shape[1] < 3:
        zero = torch.zeros((), dtype=wide, device=z.device)
        return zero, zero.clone()
    steps = in_range(as_float(z).diff(dim=1))
    length = torch.linalg.vector_norm(steps, dim=-1)
    moved = length > 0
    unit = steps / length.clamp_min(torch.finfo(steps.dtype).tiny).unsqueeze(-1)
    valid = mask[:, 2:] & mask[:, 1:-1] & mask[:, :-2] & moved[:, 1:] & moved[:, :-1]
    # Kahan's form: an arc cosine loses half its digits near 0 and π.
    apart = torch.linalg.vector_norm(unit[:, 1:] - unit[:, :-1], dim=-1)
    along = torch.linalg.vector_norm(unit[:, 1:] + unit[:, :-1], dim=-1)
    angle = torch.where(valid, 2 * torch.atan2(apart, along), 0.0)
    return angle.sum(dtype=wide), valid.sum().to(wide)
