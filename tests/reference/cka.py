"""Unbiased HSIC and CKA by their definitions, with kernel matrices and loops."""

from __future__ import annotations

import numpy as np


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    total = np.trace(k @ l)
    total += (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    total -= 2 / (n - 2) * (one @ k @ l @ one)
    return float(total / (n * (n - 3)))


def u_centred_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The same as an inner product of U-centred kernels (Székely & Rizzo 2014)."""
    n = len(x)
    total = 0.0
    centred = []
    for z in (x, y):
        k = z @ z.T
        np.fill_diagonal(k, 0)
        rows = k.sum(1)
        centred.append(k - rows[:, None] / (n - 2) - rows[None] / (n - 2) + k.sum() / ((n - 1) * (n - 2)))
    for i in range(n):
        for j in range(n):
            if i != j:
                total += centred[0][i, j] * centred[1][i, j]
    return total / (n * (n - 3))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
