"""How far representations lie along a direction, and along random ones of the same data."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix
from lightning_interp.functional.mass_mean import mass_mean

__all__ = ["covariance_directions", "mean_direction", "projections"]


def mean_direction(x: Tensor, labels: Tensor) -> Tensor:
    r"""The direction from the mean of one class to that of the other, of unit length: :math:`v \propto \mu_1 - \mu_0`.

    Args:
        x: Vectors, (N, D).
        labels: Two classes, bool or 0 and 1, (N,).

    Returns:
        (D,), float64 on the CPU; NaN where the means are the same.

    Raises:
        ValueError: As for :func:`mass_mean`.

    Example:
        >>> mean_direction(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1]))
        tensor([0., 1.], dtype=torch.float64)

    """
    weight = mass_mean(x, labels).weight
    unit: Tensor = weight / weight.norm()
    return unit


def projections(h: Tensor, directions: Tensor) -> Tensor:
    r"""How far vectors lie along directions v, in units of their size: :math:`h \cdot v / \mathrm{rms}(h)`.

    With :math:`\mathrm{rms}(h) = \|h\| / \sqrt{D}` what a norm behind a layer makes of its scale does not count. For a
    v that has nothing to do with h it is of size 1.

    Args:
        h: Vectors, (N, D).
        directions: Of unit length, (K, D).

    Returns:
        (N, K), −√D to √D, float64 on the CPU; 0 for a vector of zeros.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> projections(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.8485]], dtype=torch.float64)

    """
    check_matrix("h", h)
    if directions.ndim != 2 or directions.shape[1] != h.shape[1]:
        raise ValueError(f"`directions` must be (K, {h.shape[1]}), as wide as `h`, got {tuple(directions.shape)}.")
    wide = h.detach().cpu().double()
    size = wide.norm(dim=1, keepdim=True) / wide.shape[1] ** 0.5
    return wide @ directions.detach().cpu().double().T / torch.where(size > 0, size, 1.0)


def covariance_directions(x: Tensor, groups: Tensor, number: int = 32, seed: int = 0) -> Tensor:
    r"""Random directions along which data vary as they do: of unit length, from :math:`N(0, \Sigma)`.

    .. math:: u \propto \sum_i g_i\, (x_i - \mu_{\mathrm{group}(i)}), \quad g_i \sim N(0, 1)

    with Σ the covariance within groups, so that what tells the groups apart is in none of them. Directions from
    :math:`N(0, I)` would lie where data hardly vary, and everything would be far out beside them.

    Args:
        x: Vectors, (N, D).
        groups: Which group each belongs to, int64 (N,).
        number: How many directions, K.
        seed: Of g.

    Returns:
        (K, D), float64 on the CPU; NaN where nothing varies within groups. No random stream is read or moved.

    Raises:
        ValueError: If shapes do not fit or ``number`` is below 1.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [5.0, 1.0], [5.0, 2.0]])
        >>> covariance_directions(x, torch.tensor([0, 0, 1, 1]), number=2).abs()
        tensor([[0., 1.],
                [0., 1.]], dtype=torch.float64)

    """
    check_matrix("x", x)
    if groups.shape != (len(x),):
        raise ValueError(f"`groups` must be one a row of `x`, ({len(x)},); got shape {tuple(groups.shape)}.")
    if number < 1:
        raise ValueError(f"`number` must be at least 1, got {number}.")
    wide = x.detach().cpu().double()
    inside = torch.zeros_like(wide)
    for group in torch.unique(groups):
        here = groups == group
        inside[here] = wide[here] - wide[here].mean(0)
    generator = torch.Generator().manual_seed(operator.index(seed))
    drawn = torch.randn(number, len(x), generator=generator, dtype=torch.float64) @ inside
    units: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return units
