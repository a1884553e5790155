"""Geometry from an explicit singular value decomposition of the centred matrix."""

from __future__ import annotations

import math

import numpy as np

from reference.entropy import Array, entropy


def spectrum(z: Array, center: bool = True) -> Array:
    """Eigenvalues of the covariance (divided by N), falling."""
    about = z - z.mean(0) if center else z
    singular = np.linalg.svd(about, compute_uv=False)
    found = np.zeros(z.shape[1])
    found[: len(singular)] = singular**2 / len(z)
    return np.sort(found)[::-1]


def of_spectrum(eigenvalues: Array, count: int, dim: int, center: bool = False) -> dict[str, float]:
    """Every measure of a spectrum; without the mean there is one direction less than rows."""
    singular = np.sqrt(eigenvalues)
    share = eigenvalues / eigenvalues.sum()
    positive = eigenvalues[eigenvalues > eigenvalues[0] * 1e-12]
    most = min(count - center, dim)
    values = {
        "rankme": math.exp(entropy(singular / singular.sum())),
        "effective_rank": math.exp(entropy(share)),
        "participation_ratio": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        "matrix_entropy": entropy(share) / math.log(most) if most > 1 else math.nan,
        "alpha": math.nan,
        "alpha_r2": math.nan,
    }
    last = min(100, len(positive) // 2)
    if last >= 20:
        ranks = np.arange(11, last + 1)
        x, y = np.log(ranks), np.log(positive[10:last])
        slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(1 / ranks))  # of residuals, which are squared
        left, spread = (y - slope * x - intercept) ** 2, (y - np.average(y, weights=1 / ranks)) ** 2
        values["alpha"] = float(-slope)
        values["alpha_r2"] = float(1 - (left / ranks).sum() / (spread / ranks).sum())
    return values


def anisotropy(z: Array) -> float:
    """Mean cosine over all pairs of different rows."""
    if len(z) < 2:
        return math.nan
    unit = z / np.sqrt((z * z).sum(1, keepdims=True))
    cosines = unit @ unit.T
    return float(cosines[~np.eye(len(z), dtype=bool)].mean())


def angles(path: Array, mask: list[bool]) -> list[float]:
    """Angle between successive steps wherever three neighbouring positions count and both steps have a length."""
    found = []
    for t in range(len(path) - 2):
        one, two = path[t + 1] - path[t], path[t + 2] - path[t + 1]
        a, b = math.sqrt(math.fsum(one * one)), math.sqrt(math.fsum(two * two))
        if all(mask[t : t + 3]) and a > 0 and b > 0:
            one, two = one / a, two / b
            # Kahan's form, which keeps its digits for angles near 0 and π.
            difference, total = one - two, one + two
            found.append(2 * math.atan2(math.sqrt(math.fsum(difference**2)), math.sqrt(math.fsum(total**2))))
    return found


def curvature(sequences: Array, masks: Array) -> float:
    """Mean angle over all sequences."""
    found = [angle for path, mask in zip(sequences, masks, strict=True) for angle in angles(path, list(mask))]
    return math.fsum(found) / len(found) if found else math.nan
