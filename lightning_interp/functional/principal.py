"""The axes along which a cloud spreads most."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix

__all__ = ["principal_axes"]


def principal_axes(z: Tensor, dims: int = 2) -> tuple[Tensor, Tensor]:
    r"""Mean and first principal axes of a cloud (Pearson 1901): eigenvectors of its covariance.

    ``(z - mean) @ axes`` are coordinates in which the cloud spreads most. Each axis points to the side of its largest
    entry, so that one cloud gives one answer; over time use :func:`~lightning_interp.functional.procrustes` besides.

    Args:
        z: Representations, (N, D).
        dims: Number of axes; those beyond min(N − 1, D), and of no spread, are 0.

    Returns:
        Mean (D,) and axes (D, dims), float64 on the CPU.

    Raises:
        ValueError: If ``z`` is no non-empty matrix or ``dims`` below 1.

    Cost: one eigendecomposition of the smaller side, O(min(N, D)³).

    Example:
        >>> mean, axes = principal_axes(torch.tensor([[0.0, 1.0], [4.0, 1.0], [2.0, 1.0]]), dims=1)
        >>> mean.tolist(), axes.flatten().tolist()
        ([2.0, 1.0], [1.0, 0.0])

    """
    check_matrix("z", z)
    if dims < 1:
        raise ValueError(f"`dims` must be at least 1, got {dims}.")
    cloud = z.detach().cpu().double()
    mean = cloud.mean(0)
    centred = cloud - mean
    rows, width = centred.shape
    product = centred.T @ centred if width <= rows else centred @ centred.T
    eigenvalues, vectors = torch.linalg.eigh(product)
    values, found = eigenvalues.flip(0)[:dims], vectors.flip(1)[:, :dims]
    rounding = max(rows, width) * torch.finfo(torch.float64).eps * eigenvalues.abs().max()
    real = values > rounding
    if width > rows:
        found = centred.T @ found
    found = torch.where(real, found / found.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    found = torch.where(found.gather(0, found.abs().argmax(0, keepdim=True)) < 0, -found, found)
    axes = torch.zeros(width, dims, dtype=torch.float64)
    axes[:, : found.shape[1]] = found
    return mean, axes
