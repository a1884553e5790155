"""Vectors times the inverse of a symmetric matrix and a damping."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional._numerics import wide_dtype

__all__ = ["damped_solve"]


def damped_solve(matrix: Tensor, damping: Tensor, vectors: Tensor) -> Tensor:
    r"""Solve :math:`(G + \mathrm{diag}(\lambda)) \, x = v` for several v, by Cholesky.

    Args:
        matrix: G, symmetric, of shape (P, P).
        damping: λ of each row, (P,).
        vectors: One v a row, (Q, P).

    Returns:
        float64 (float32 where there is none), (Q, P).

    Raises:
        ValueError: If shapes do not fit, or the sum is not positive definite.

    Cost: P³/3 operations and two matrices (P, P) in float64.

    Example:
        >>> damped_solve(torch.tensor([[1.0]]), torch.tensor([1.0]), torch.tensor([[4.0]])).float()
        tensor([[2.]])

    """
    size = len(matrix)
    if tuple(matrix.shape) != (size, size) or tuple(damping.shape) != (size,) or vectors.shape[-1:] != (size,):
        raise ValueError(
            "`matrix`, `damping` and `vectors` must be (P, P), (P,) and (Q, P), got shapes "
            f"{tuple(matrix.shape)}, {tuple(damping.shape)} and {tuple(vectors.shape)}."
        )
    wide = wide_dtype(matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix.to(wide) + damping.to(wide).diag())
    if int(failed) or not bool(factor.isfinite().all()):
        raise ValueError(
            f"`damping` of {float(damping.min()):.3g} to {float(damping.max()):.3g} does not make the matrix positive "
            "definite: give a larger one."
        )
    return torch.cholesky_solve(vectors.to(wide).T, factor).T
