"""How alike two representations of the same inputs are, whatever their axes: centred kernel alignment."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix, full_precision, wide_dtype

__all__ = ["CenteredCloud", "debiased_cka", "linear_cka", "unbiased_hsic"]

_LEAST = 4


def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment from the unbiased estimate of HSIC.

    .. math::
        \mathrm{CKA} = \frac{\mathrm{HSIC}_1(X, Y)}{\sqrt{\mathrm{HSIC}_1(X, X)\,\mathrm{HSIC}_1(Y, Y)}}

    with :func:`unbiased_hsic` (Kornblith et al. 2019 for CKA; Nguyen et al. 2021 and Murphy et al. 2024 for this
    estimate). It does not change when either cloud is moved, rotated, mirrored or scaled as a whole. Where there are
    few rows for the dimensions, :func:`linear_cka` is near 1 for unrelated clouds; this one is near 0.

    Args:
        x: Representations, (N, D), N at least 4.
        y: Those of the same N inputs, (N, E).

    Returns:
        At most 1, float64 scalar (float32 on MPS); 0 on average for unrelated clouds, which may be a little below 0.
        NaN where all vectors of a cloud are the same.

    Raises:
        ValueError: If the shapes do not fit or there are fewer than 4 rows.

    Cost: three products of the two clouds, N·D·E multiplications and the like, or N²·(D + E) and 16·N² bytes where
        dimensions are more than rows.

    Example:
        >>> z = torch.randn(50, 400, generator=torch.Generator().manual_seed(0))
        >>> other = torch.randn(50, 400, generator=torch.Generator().manual_seed(1))
        >>> round(float(linear_cka(z, other)), 1), abs(float(debiased_cka(z, other))) < 0.1
        (0.9, True)
        >>> round(float(debiased_cka(z, 3 * z.flip(1) + 1)), 6)
        1.0

    """
    first, second = _pair(x, y)
    return first.debiased_cka(second)


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centred kernel alignment as first defined (Kornblith et al. 2019).

    :math:`\|X^\top Y\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)` of the centred clouds, which is biased upwards: use
    :func:`debiased_cka` unless rows are many times more than dimensions.

    Args:
        x: Representations, (N, D).
        y: Those of the same N inputs, (N, E).

    Returns:
        0 to 1, float64 scalar (float32 on MPS); NaN where all vectors of a cloud are the same.

    Raises:
        ValueError: If the shapes do not fit or there are fewer than 4 rows.

    Example:
        >>> z = torch.eye(4)
        >>> round(float(linear_cka(z, z)), 6)
        1.0

    """
    first, second = _pair(x, y)
    return _ratio(first.product(second), first.product(first), second.product(second))


def unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased estimate of the Hilbert–Schmidt independence criterion with linear kernels (Song et al. 2012).

    .. math::
        \frac{1}{N (N - 3)} \left[ \operatorname{tr}(\tilde K \tilde L)
        + \frac{1^\top \tilde K 1 \; 1^\top \tilde L 1}{(N - 1)(N - 2)}
        - \frac{2}{N - 2}\, 1^\top \tilde K \tilde L 1 \right]

    with :math:`\tilde K = X X^\top` and :math:`\tilde L = Y Y^\top` without their diagonals. Moving a cloud changes
    nothing, so both are centred first: each row of a kernel then sums to 0 with its diagonal, and no N × N matrix is
    needed.

    Args:
        x: Representations, (N, D), N at least 4.
        y: Those of the same N inputs, (N, E).

    Returns:
        float64 scalar (float32 on MPS), in squared units of both clouds.

    Raises:
        ValueError: If the shapes do not fit or there are fewer than 4 rows.

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
        >>> round(float(unbiased_hsic(z, z)), 6) == round(31 / 6, 6)
        True

    """
    first, second = _pair(x, y)
    return first.hsic(second)


class CenteredCloud:
    """Representations around their mean, for :func:`debiased_cka` with several others: what they share is made once.

    Args:
        z: Representations, (N, D), N at least 4.

    Example:
        >>> z = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> now = CenteredCloud(z)
        >>> [round(float(now.debiased_cka(CenteredCloud(z[:, :width]))), 1) for width in (8, 4, 2)]
        [1.0, 0.7, 0.5]

    """

    def __init__(self, z: Tensor) -> None:
        self.z = _centred(z)
        self.squares = self.z.square().sum(1)
        """Diagonal of the kernel; with its sign turned, the sums of the rows of the kernel without it."""

    @cached_property
    def kernel(self) -> Tensor:
        """X·Xᵀ, (N, N)."""
        with full_precision(self.z.device):
            return self.z @ self.z.T

    @cached_property
    def own_hsic(self) -> Tensor:
        """HSIC with itself."""
        return self.hsic(self)

    def product(self, other: CenteredCloud) -> Tensor:
        """‖XᵀY‖²."""
        rows, width = self.z.shape
        if width * other.z.shape[1] > rows * max(width, other.z.shape[1]):
            return (self.kernel * other.kernel).sum()
        with full_precision(self.z.device):
            return (self.z.T @ other.z).square().sum()

    def hsic(self, other: CenteredCloud) -> Tensor:
        """See :func:`unbiased_hsic`."""
        rows = len(self.z)
        both = self.squares @ other.squares
        corners = self.squares.sum() * other.squares.sum() / ((rows - 1) * (rows - 2))
        hsic: Tensor = (self.product(other) - both + corners - 2 * both / (rows - 2)) / (rows * (rows - 3))
        return hsic

    def debiased_cka(self, other: CenteredCloud) -> Tensor:
        """See :func:`debiased_cka`."""
        return _ratio(self.hsic(other), self.own_hsic, other.own_hsic)


def _pair(x: Tensor, y: Tensor) -> tuple[CenteredCloud, CenteredCloud]:
    for name, value in (("x", x), ("y", y)):
        check_matrix(name, value)
    if len(x) != len(y):
        raise ValueError(f"`x` and `y` must be of the same inputs, got {len(x)} and {len(y)} rows.")
    if len(x) < _LEAST:
        raise ValueError(f"`x` and `y` must have at least {_LEAST} rows, got {len(x)}.")
    return CenteredCloud(x), CenteredCloud(y)


def _centred(z: Tensor) -> Tensor:
    z = z.detach().to(wide_dtype(z.device))
    mean = z.mean(0)
    centred = z - mean
    # A spread below the rounding of the vectors themselves is none.
    rounding = len(z) * (torch.finfo(torch.float32).eps * mean).square().sum()
    return torch.where(centred.square().sum() > rounding, centred, 0.0)


def _ratio(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    # Either root by itself: the product of small numbers would vanish.
    size = first.clamp_min(0).sqrt() * second.clamp_min(0).sqrt()
    return torch.where(size > 0, both / size, math.nan)
