"""The binned estimator: every dimension cut into bins of equal width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix, plogp, wide_dtype

__all__ = ["bin_indices", "binned_entropy", "miller_madow"]

# Entries that one step works on, so that memory is bounded whatever N and D.
_STEP = 1 << 22


def bin_indices(z: Tensor, bins: int, lower: Tensor, upper: Tensor) -> Tensor:
    """The bin of every coordinate.

    Args:
        z: Representations, shape (N, D).
        bins: Number of bins, 1 to 256.
        lower: Lower end of the first bin, shape (D,).
        upper: Upper end of the last bin, shape (D,). A value on it belongs to the last bin; values outside the range
            belong to the outer bins; a dimension of no width has all in bin 0.

    Returns:
        uint8, shape (N, D). Bin edges are computed in float64, so that the dtype of ``z`` never moves a value.

    Example:
        >>> bin_indices(torch.tensor([[0.0], [0.5], [1.0]]), 4, torch.tensor([0.0]), torch.tensor([1.0])).flatten()
        tensor([0, 2, 3], dtype=torch.uint8)

    """
    wide = wide_dtype(z.device)
    low, high = lower.to(wide), upper.to(wide)
    # Multiplied and then divided, so that a value on an edge falls exactly there; a reciprocal would be off by an ulp.
    width = torch.where(high > low, high - low, math.inf)
    indices = torch.empty(z.shape, dtype=torch.uint8, device=z.device)
    rows = max(1, _STEP // max(1, z.shape[1]))
    for start in range(0, z.shape[0], rows):
        part = slice(start, start + rows)
        indices[part] = ((z[part].to(wide) - low) * bins / width).floor_().clamp_(0, bins - 1).to(torch.uint8)
    return indices


def miller_madow(entropy: Tensor, occupied: Tensor, samples: Tensor | int) -> Tensor:
    """The Miller–Madow correction: plug-in entropy + (occupied bins − 1) / (2 · samples), in nats."""
    return entropy + (occupied - 1) / (2 * samples)


def binned_entropy(
    z: Tensor,
    bins: int = 20,
    bounds: tuple[Tensor | float, Tensor | float] | None = None,
    correction: str | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""Dimension-wise binned entropy of representations.

    .. math::
        H(Z) = \frac{1}{D} \sum_d \sum_k -p_{dk} \log p_{dk}

    (Conklin & Smith 2024, arXiv 2406.02449), with p the share of values in each of ``bins`` bins of equal width.

    Args:
        z: Representations, shape (N, D), any floating dtype.
        bins: Number of bins, 2 to 256.
        bounds: Ends of the first and the last bin, each a number or a tensor of shape (D,); by default the minimum and
            maximum of each dimension. Values outside given bounds count in the outer bins.
        correction: ``None`` for the plug-in estimate, or ``"miller_madow"``, which adds (K − 1)/(2N) for K occupied
            bins. The corrected, normalised value can exceed 1.
        normalize: Divide by log ``bins``; otherwise nats.

    Returns:
        A scalar. A constant dimension has entropy 0. Cost: one pass over z; memory is bounded by a few MB beside it.

    Raises:
        ValueError: If an argument is out of range, or a bound lies above its partner.

    Example:
        >>> binned_entropy(torch.linspace(0, 1, 100)[:, None], bins=4)
        tensor(1.)

    """
    check_matrix("z", z)
    check_bins(bins, correction)
    wide = wide_dtype(z.device)
    lower, upper = _bounds(z, bounds)
    indices = bin_indices(z, bins, lower, upper)
    total = torch.zeros((), dtype=wide, device=z.device)
    dims = max(1, _STEP // z.shape[0])
    for start in range(0, z.shape[1], dims):
        part = indices[:, start : start + dims].long()
        part += torch.arange(part.shape[1], device=z.device) * bins
        counts = torch.bincount(part.flatten(), minlength=part.shape[1] * bins).view(part.shape[1], bins)
        entropy = -plogp(counts.to(wide) / z.shape[0]).sum(-1)
        if correction == "miller_madow":
            entropy = miller_madow(entropy, (counts > 0).sum(-1), z.shape[0])
        total += entropy.sum()
    value = total / z.shape[1]
    if normalize:
        value = value / math.log(bins)
    return value.to(torch.float64 if z.dtype == torch.float64 else torch.float32)


def check_bins(bins: int, correction: str | None) -> None:
    """Refuse a number of bins or a correction that no estimator here has."""
    if not 2 <= bins <= 256:
        raise ValueError(f"`bins` must be between 2 and 256, got {bins}.")
    check_correction(correction)


def check_correction(correction: str | None) -> None:
    """Refuse a correction that does not exist."""
    if correction not in (None, "miller_madow"):
        raise ValueError(f"`correction` must be None or 'miller_madow', got {correction!r}.")


def _bounds(z: Tensor, bounds: tuple[Tensor | float, Tensor | float] | None) -> tuple[Tensor, Tensor]:
    if bounds is None:
        return z.amin(0), z.amax(0)
    wide = wide_dtype(z.device)
    lower, upper = (torch.as_tensor(bound, dtype=wide, device=z.device).expand(z.shape[1]) for bound in bounds)
    if not bool((lower <= upper).all()):
        raise ValueError(f"`bounds` must be (lower, upper) with lower ≤ upper in every dimension, got {bounds}.")
    return lower, upper
