"""How far a von Mises–Fisher distribution is from uniform, in arbitrary precision and by quadrature."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
from scipy.integrate import quad


def vmf_divergence(dim: int, temperature: float, digits: int = 40) -> float:
    """A·κ − log Z by Bessel functions, with κ = 1/ε, ν = d/2 − 1, A = I_{ν+1}(κ)/I_ν(κ)."""
    with mpmath.workdps(digits):
        kappa, nu = 1 / mpmath.mpf(temperature), mpmath.mpf(dim) / 2 - 1
        here = mpmath.besseli(nu, kappa)
        ratio = mpmath.besseli(nu + 1, kappa) / here
        log_z = nu * mpmath.log(2 / kappa) + mpmath.loggamma(mpmath.mpf(dim) / 2) + mpmath.log(here)
        return float(ratio * kappa - log_z)


def vmf_divergence_by_quadrature(dim: int, temperature: float) -> float:
    """The same from the integral over θ with weight sin^{d−2} θ, by adaptive quadrature in log space."""
    kappa = 1 / temperature

    def log_density(theta: float) -> float:
        return -2 * kappa * math.sin(theta / 2) ** 2 + (dim - 2) * math.log(math.sin(theta))

    grid = np.linspace(1e-9, math.pi - 1e-9, 200_001)
    values = -2 * kappa * np.sin(grid / 2) ** 2 + (dim - 2) * np.log(np.sin(grid))
    peak, top = grid[values.argmax()], values.max()
    inside = grid[values > top - 60]
    edges = [max(inside[0] - 1e-4, 1e-12), peak, min(inside[-1] + 1e-4, math.pi - 1e-12)]

    def integral(function) -> float:
        return sum(quad(function, a, b, epsabs=0, epsrel=1e-11, limit=400)[0] for a, b in itertools.pairwise(edges))

    mass = integral(lambda theta: math.exp(log_density(theta) - top))
    first = integral(lambda theta: -2 * math.sin(theta / 2) ** 2 * math.exp(log_density(theta) - top))
    log_uniform = math.lgamma((dim - 1) / 2) + math.lgamma(0.5) - math.lgamma(dim / 2)
    return kappa * first / mass - (math.log(mass) + top - log_uniform)
