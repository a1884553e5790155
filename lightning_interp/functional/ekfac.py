"""The Fisher information of a linear layer as a Kronecker product with corrected eigenvalues, and its inverse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import wide_dtype

__all__ = ["KroneckerSums", "eigenbasis", "ekfac_inverse_product", "kronecker_sums", "rotated"]


class KroneckerSums(NamedTuple):
    """Sums of outer products of what a layer was given, and of what came back to it; they add up over batches."""

    inputs: Tensor
    """Σ a aᵀ, (I, I)."""
    errors: Tensor
    """Σ δ δᵀ, (O, O)."""
    positions: int
    """How many they are of."""


def kronecker_sums(inputs: Tensor, errors: Tensor) -> KroneckerSums:
    r"""The two factors of a layer's Fisher information, A = E[a aᵀ] and S = E[δ δᵀ] (Martens & Grosse 2015), as sums.

    Positions with δ = 0, of which padding is a kind, add nothing to any gradient and are left out of both.

    Args:
        inputs: What the layer was given, a, of shape (B, T, I).
        errors: The gradient of the loss with respect to what it gave, δ, of shape (B, T, O), with labels drawn from
            the model.

    Returns:
        Sums in float64 (float32 where there is none), of products in the precision of what is given.

    Example:
        >>> inputs, errors = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]]), torch.tensor([[[3.0], [0.0]]])
        >>> found = kronecker_sums(inputs, errors)
        >>> found.inputs.tolist(), found.errors.tolist(), found.positions
        ([[1.0, 2.0], [2.0, 4.0]], [[9.0]], 1)

    """
    reached = errors.any(-1).flatten()
    wide = wide_dtype(inputs.device)
    a, d = (one.flatten(0, 1)[reached] for one in (inputs, errors))
    return KroneckerSums((a.T @ a).to(wide), (d.T @ d).to(wide), len(a))


def eigenbasis(factor: Tensor) -> Tensor:
    """The eigenvectors of a symmetric matrix (D, D) as columns, (D, D), eigenvalues rising.

    A factor's size does not change them, so that a sum does as well as a mean.

    Raises:
        ValueError: If the matrix is not square or not finite.

    Cost: one symmetric eigendecomposition in the precision of the matrix.

    Example:
        >>> eigenbasis(torch.tensor([[2.0, 0.0], [0.0, 1.0]])).abs()
        tensor([[0., 1.],
                [1., 0.]])

    """
    if factor.ndim != 2 or factor.shape[0] != factor.shape[1]:
        raise ValueError(f"`factor` must be (D, D), got shape {tuple(factor.shape)}.")
    if not bool(factor.isfinite().all()):
        raise ValueError("`factor` must be finite, and is not.")
    vectors: Tensor = torch.linalg.eigh((factor + factor.T) / 2)[1]
    return vectors


def rotated(gradients: Tensor, errors_basis: Tensor, inputs_basis: Tensor) -> Tensor:
    r"""Gradients in the basis of a layer's factors, :math:`Q_S^\top V Q_A`.

    Args:
        gradients: V, of shape (..., O, I).
        errors_basis: Q_S, of shape (O, O).
        inputs_basis: Q_A, of shape (I, I).

    Returns:
        (..., O, I).

    """
    return errors_basis.T @ gradients @ inputs_basis


def ekfac_inverse_product(
    gradients: Tensor, errors_basis: Tensor, inputs_basis: Tensor, eigenvalues: Tensor, damping: float
) -> Tensor:
    r"""Gradients times the inverse of a layer's damped Fisher information by EK-FAC (George et al. 2018).

    .. math::
        (G + \lambda)^{-1} V = Q_S \left[ \frac{Q_S^\top V Q_A}{\Lambda + \lambda} \right] Q_A^\top, \qquad
        \Lambda = \mathrm{E}_z \left[ (Q_S^\top G_z Q_A)^2 \right]

    as Grosse et al. (2023, arXiv 2308.03296) use it for influence functions. Λ are the eigenvalues that are best in
    this basis; with the Kronecker product's own it would be K-FAC.

    Args:
        gradients: V, of shape (..., O, I).
        errors_basis: Q_S, the :func:`eigenbasis` of E[δ δᵀ], (O, O).
        inputs_basis: Q_A, that of E[a aᵀ], (I, I).
        eigenvalues: Λ, of shape (O, I), in the unit of a squared gradient.
        damping: λ, at least 0, in the same unit.

    Returns:
        (..., O, I).

    Raises:
        ValueError: If an eigenvalue and the damping are both 0, or the damping is below 0.

    Example:
        >>> one = torch.eye(1)
        >>> ekfac_inverse_product(torch.tensor([[6.0]]), one, one, torch.tensor([[2.0]]), damping=1.0)
        tensor([[2.]])

    """
    if damping < 0 or not bool((eigenvalues + damping > 0).all()):
        least = float(eigenvalues.min())
        raise ValueError(
            f"`damping` must be above 0 where an eigenvalue is 0, got {damping} for eigenvalues from {least:.3g} on."
        )
    within = rotated(gradients, errors_basis, inputs_basis) / (eigenvalues + damping)
    return errors_basis @ within @ inputs_basis.T
