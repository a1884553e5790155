"""The soft estimator: representations assigned to fixed points on the unit sphere."""

from __future__ import annotations

import math
import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, check_matrix, full_precision, in_range, plogp, wide_dtype

__all__ = ["reference_points", "soft_assignment", "soft_entropy", "vmf_temperature"]

# Below this many dimensions the temperature is so small that float32 cosines are wrong in the sixth digit of H; over
# few rows their rounding does not average out, while float64 costs nothing.
_FLOAT64_BELOW_DIM = 64
_FLOAT64_BELOW_SIZE = 1 << 16
_SMALLEST_NORM = 1e-12


@lru_cache(maxsize=64)
def reference_points(num_points: int, dim: int, seed: int = 0) -> Tensor:
    """Points drawn uniformly from the unit sphere, the same on every device and rank.

    Normals from a CPU generator in float32, scaled to unit length.

    Args:
        num_points: How many points, at least 2.
        dim: Dimension of the representations, at least 2.
        seed: Seed of the generator.

    Returns:
        float32, shape (num_points, dim), on the CPU. Shared between callers: do not write to it.

    Raises:
        ValueError: If ``num_points`` or ``dim`` is below 2.

    Example:
        >>> reference_points(100, 512).shape
        torch.Size([100, 512])

    """
    _check_sizes(dim, num_points)
    # Not the seed itself: after `torch.manual_seed(seed)` the first embedding of a model would be these very points.
    generator = torch.Generator().manual_seed(zlib.crc32(f"reference points {seed}".encode()))
    points = torch.randn(num_points, dim, generator=generator, dtype=torch.float32, device="cpu")
    return torch.nn.functional.normalize(points, dim=-1)


@lru_cache(maxsize=256)
def vmf_temperature(dim: int, num_points: int) -> float:
    r"""The temperature at which one point is told from ``num_points`` others.

    Solves :math:`KL(vMF(1/\varepsilon) \| U(S^{d-1})) = \log n` (Conklin 2025, arXiv 2505.23960): a von Mises–Fisher
    distribution of that concentration carries as many nats as a choice among n reference points. The divergence is the
    integral :math:`\kappa E[\cos\theta] - \log E_U[e^{\kappa\cos\theta}]` over the angle with weight
    :math:`\sin^{d-2}\theta`, by Gauss–Legendre quadrature around its peak in log space, where Bessel functions would
    under- or overflow. To leading order :math:`\varepsilon \approx 1/\sqrt{2 d \log n}`.

    Args:
        dim: Dimension d of the representations, at least 2.
        num_points: Number n of reference points, at least 2.

    Returns:
        The temperature, at which the divergence is within 1e-9 of log n. Cost: about 3 ms, then cached.

    Raises:
        ValueError: If an argument is below 2.

    Example:
        >>> round(vmf_temperature(512, 100), 7)
        0.0143677

    """
    _check_sizes(dim, num_points)
    target = math.log(num_points)
    low, high = -30.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        if _vmf_divergence(math.exp(middle), dim) < target:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * abs(middle):
            break
    return math.exp(-(low + high) / 2)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(512)


def _vmf_divergence(kappa: float, dim: int) -> float:
    """KL of von Mises–Fisher with concentration kappa from the uniform distribution on the sphere, in nats."""
    peak_cosine = 2 * kappa / ((dim - 2) + math.hypot(dim - 2, 2 * kappa))
    # There κ sin²θ = (d − 2) cos θ, which tells small angles better than an arc cosine.
    peak = math.atan2(math.sqrt((dim - 2) * peak_cosine / kappa), peak_cosine)
    curvature = kappa * peak_cosine + (kappa / peak_cosine if dim > 2 else 0.0)
    reach = 15 / math.sqrt(curvature)
    start, stop = max(0.0, peak - reach), min(math.pi, peak + reach)
    theta = start + (stop - start) * (_NODES + 1) / 2
    excess = -2 * np.sin(theta / 2) ** 2  # cos θ − 1 without cancellation
    log_density = kappa * excess
    if dim > 2:
        log_density = log_density + (dim - 2) * np.log(np.sin(theta))
    top = float(log_density.max())
    weights = _WEIGHTS * np.exp(log_density - top)
    mass = float(weights.sum())
    log_integral = math.log(mass * (stop - start) / 2) + top
    log_uniform = math.lgamma((dim - 1) / 2) + math.lgamma(0.5) - math.lgamma(dim / 2)
    return kappa * float((weights * excess).sum()) / mass - (log_integral - log_uniform)


def soft_assignment(z: Tensor, reference_points: Tensor, temperature: float) -> Tensor:
    r"""How much of each representation falls to each reference point.

    .. math::
        a_i = \mathrm{softmax}(\bar z_i W^\top / \varepsilon), \quad \bar z = z / \|z\|

    (Conklin 2025). Autocast and TF32 are off inside. A zero vector is assigned evenly.

    Args:
        z: Representations, shape (N, D), any floating dtype.
        reference_points: W, unit vectors, shape (n, D).
        temperature: ε, as :func:`vmf_temperature` gives it.

    Returns:
        Rows that sum to 1, shape (N, n): float64 for float64 input, else float32. Below 64 dimensions, and for up to
        65,536 numbers, the arithmetic is float64 where the device has it, since a small temperature magnifies the
        rounding of float32.

    Raises:
        ValueError: If the shapes do not fit or the temperature is not positive.

    Example:
        >>> points = reference_points(10, 4)
        >>> soft_assignment(points, points, vmf_temperature(4, 10)).argmax(-1)
        tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])

    """
    check_matrix("z", z)
    check_matrix("reference_points", reference_points)
    if z.shape[1] != reference_points.shape[1]:
        raise ValueError(
            f"`z` {tuple(z.shape)} and `reference_points` {tuple(reference_points.shape)} differ in dimension."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    return assigned(z, reference_points, temperature)


def assigned(z: Tensor, reference_points: Tensor, temperature: float, norm: Tensor | None = None) -> Tensor:
    """:func:`soft_assignment` without its checks, for rows whose lengths (N,) may be known."""
    values = as_float(z)
    result = values.dtype
    small = norm is None or values.device.type != "cpu" or (len(norm) and float(norm.min()) < _SMALLEST_NORM)
    if small:
        # Squares of such entries vanish in float32, and what is left depends on how many rows come at once.
        values, norm = in_range(values), None
    if z.shape[1] < _FLOAT64_BELOW_DIM or z.numel() <= _FLOAT64_BELOW_SIZE:
        values, norm = values.to(wide_dtype(z.device)), None
    with full_precision(z.device):
        # Scaling n scores a row by 1/‖z‖ is cheaper than scaling its D coordinates.
        scale = torch.linalg.vector_norm(values, dim=-1) if norm is None else norm
        scale = scale[:, None].clamp_min(torch.finfo(values.dtype).tiny).reciprocal()
        points = reference_points.to(values) / temperature
        scores = (values @ points.T).mul_(scale)
        return torch.softmax(scores, dim=-1).to(result)


def soft_entropy(
    z: Tensor,
    reference_points: Tensor,
    temperature: float | None = None,
    normalize: bool = True,
    floor_corrected: bool = False,
) -> Tensor:
    r"""Entropy of representations over reference points: high when they spread, low when they cluster.

    .. math::
        H(Z) = -\sum_k p_k \log p_k, \quad p = \tfrac{1}{N} \sum_i a_i

    with :math:`a_i` of :func:`soft_assignment` (Conklin 2025). Even N equal representations score above 0, since each
    is spread over several points; the floor-corrected form :math:`H(Z) - \tfrac{1}{N} \sum_i H(a_i)` is 0 for them.

    Args:
        z: Representations, shape (N, D).
        reference_points: Unit vectors, shape (n, D).
        temperature: Of the assignment; by default :func:`vmf_temperature` of D and n.
        normalize: Divide by log n, so that 1 is the even spread; otherwise nats.
        floor_corrected: Subtract the mean entropy of single representations.

    Returns:
        A scalar. Cost: one product (N, D) × (D, n) and one softmax.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> points = reference_points(100, 8)
        >>> one = torch.ones(5, 8)
        >>> bool(soft_entropy(one, points) > 0.01), bool(soft_entropy(one, points, floor_corrected=True).abs() < 1e-6)
        (True, True)

    """
    if temperature is None:
        check_matrix("reference_points", reference_points)
        temperature = vmf_temperature(reference_points.shape[1], reference_points.shape[0])
    assignment = soft_assignment(z, reference_points, temperature)
    wide = wide_dtype(z.device)
    entropy = -plogp(assignment.mean(0, dtype=wide)).sum()
    if floor_corrected:
        entropy = entropy + plogp(assignment).sum(dtype=wide) / assignment.shape[0]
    if normalize:
        entropy = entropy / math.log(assignment.shape[1])
    return entropy.to(assignment.dtype)


def _check_sizes(dim: int, num_points: int) -> None:
    if dim < 2:
        raise ValueError(f"`dim` must be at least 2: a sphere of fewer dimensions has no area; got {dim}.")
    if num_points < 2:
        raise ValueError(f"`num_points` must be at least 2, got {num_points}.")
