"""How many bits the labels take, given the representations: online codelength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.linear_probe import LinearMap
from lightning_interp.functional.minimise import minimise

__all__ = [
    "Codelength",
    "block_starts",
    "multinomial_logistic",
    "online_bits",
    "online_codelength",
    "shortest_code",
]

LOGIT_VARIANCES = (0.01, 1.0, 100.0)
"""How far the logits may spread under the prior, to choose from; the first leaves little but the shares of classes."""

_HELD = 0.01  # the inverse variance of an intercept under the prior: one that saw a single class must stay finite
_TOLERANCE = 1e-8


class Codelength(NamedTuple):
    """What labels take, in bits a label."""

    bits: float
    """Online codelength a label."""
    uniform: float
    """log₂ of the number of classes: without a model."""

    @property
    def compression(self) -> float:
        """How many times fewer bits than without a model."""
        return self.uniform / self.bits if self.bits > 0 else math.nan


def block_starts(number: int, blocks: int = 10) -> list[int]:
    """Where the blocks of an online code begin and end: each as long as all before it, the last with a half.

    Args:
        number: Rows.
        blocks: Blocks after the first, at most: fewer where there are too few rows to halve so often.

    Example:
        >>> block_starts(1000, blocks=4)
        [0, 62, 125, 250, 500, 1000]

    """
    return sorted({0, *(number >> back for back in range(blocks, -1, -1))})


def multinomial_logistic(
    z: Tensor, classes: Tensor, num_classes: int, l2: float, tolerance: float = 1e-16
) -> LinearMap:
    r"""Multinomial logistic regression with a penalty on the weights, and none on the intercepts.

    .. math:: \min_{W, b} -\sum_i \log \mathrm{softmax}(W^\top z_i + b)_{y_i} + \tfrac{\lambda}{2} \|W\|^2

    scikit-learn's ``LogisticRegression(C=1 / l2)``, whose intercepts differ from these by one common number; of two
    classes it is its ``C=2 / l2``, since scikit-learn then has one vector of weights where this has two.

    Args:
        z: Vectors, (N, D).
        classes: Class of each, int64 (N,), from 0.
        num_classes: How many there are; one that does not occur gets probabilities near 0.
        l2: λ, above 0, in the unit of z squared.
        tolerance: See :func:`~lightning_interp.functional.minimise.minimise`.

    Returns:
        :class:`LinearMap` in float64: its predictions are logits.

    Raises:
        ValueError: If ``l2`` is not above 0.
        RuntimeError: If it does not converge.

    Example:
        >>> probe = multinomial_logistic(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1]), 2, l2=1.0)
        >>> probe.predict(torch.tensor([[0.0], [2.0]])).argmax(1).tolist()
        [0, 1]

    """
    if not l2 > 0:
        raise ValueError(f"`l2` must be above 0, got {l2}.")
    z = z.double()
    mean = z.mean(0)
    centred = z - mean
    params = _fit(centred, classes, num_classes, centred.T @ centred, l2, 0.0, None, tolerance)
    return LinearMap(params[:-1], params[-1] - mean @ params[:-1])


def online_codelength(
    z: Tensor,
    classes: Tensor,
    num_classes: int,
    blocks: int = 10,
    variances: Sequence[float] = LOGIT_VARIANCES,
) -> Codelength:
    r"""Bits a label that it takes to send the labels to someone who has the representations, row after row.

    .. math:: L = n_1 \log_2 C - \sum_{j} \sum_{i \in \text{block } j} \log_2 p_{\theta_{<j}}(y_i \mid z_i)

    Voita & Titov 2020, *Information-Theoretic Probing with Minimum Description Length* (arXiv 2003.12298), section
    2.2: the first block is sent with a uniform code, each later one with a probe fitted to all before it. Blocks double
    in length. The probe is :func:`multinomial_logistic` on centred vectors, with
    :math:`\lambda = \overline{\|z\|^2} / v`, and a slight penalty on the intercepts; v is the one of ``variances`` that
    gives the shortest code, and saying which takes log₂ of their number. A short code needs labels that are easy to
    read, and quickly learned.

    Args:
        z: Vectors in the order in which their labels are sent, (N, D).
        classes: Class of each, int64 (N,), from 0.
        num_classes: How many there are.
        blocks: See :func:`block_starts`.
        variances: Spread of the logits under the prior, to choose from.

    Returns:
        :class:`Codelength`.

    Raises:
        ValueError: If there are no rows, or a variance is not above 0.

    Cost: a logistic regression for each block and variance, started where the block before ended.

    Example:
        >>> z = torch.tensor([[-1.0], [1.0]]).repeat(512, 1)
        >>> found = online_codelength(z, (z[:, 0] > 0).long(), 2)
        >>> found.uniform, found.bits < 0.1
        (1.0, True)

    """
    bits = [online_bits(z, classes, num_classes, variance, blocks) for variance in variances]
    return shortest_code(bits, len(z), num_classes)


def shortest_code(bits: Sequence[float], number: int, num_classes: int) -> Codelength:
    """The shortest of several codes for so many labels, with what it takes to say which; bits in all → bits a label.

    Raises:
        ValueError: If there is no code.

    Example:
        >>> shortest_code([15.0, 10.0], number=10, num_classes=4)
        Codelength(bits=1.1, uniform=2.0)

    """
    if not bits:
        raise ValueError("`variances` is empty.")
    return Codelength((min(bits) + math.log2(len(bits))) / number, math.log2(num_classes))


def online_bits(z: Tensor, classes: Tensor, num_classes: int, variance: float, blocks: int = 10) -> float:
    """Bits in all of :func:`online_codelength` with one spread of the logits.

    Raises:
        ValueError: If there are no rows, or the variance is not above 0.

    """
    if not len(z):
        raise ValueError("`z` has no rows: there is nothing to send.")
    if not variance > 0:
        raise ValueError(f"`variances` must hold numbers above 0, got {variance}.")
    z = z.double()
    centred = z - z.mean(0)
    zz = centred.T @ centred
    # Vectors that do not differ have no scale, and any will do: their weights are 0.
    l2 = (float(zz.diagonal().sum()) / len(z) or 1.0) / variance
    starts = block_starts(len(z), blocks)
    bits = starts[1] * math.log2(num_classes)
    params: Tensor | None = None
    for start, stop in pairwise(starts[1:]):
        known = centred[:start], classes[:start]
        params = _fit(*known, num_classes, zz * (start / len(z)), l2, _HELD, params, _TOLERANCE)
        logits = centred[start:stop] @ params[:-1] + params[-1]
        bits += float(torch.nn.functional.cross_entropy(logits, classes[start:stop], reduction="sum")) / math.log(2)
    return bits


def _fit(
    z: Tensor,
    classes: Tensor,
    num_classes: int,
    zz: Tensor,
    l2: float,
    held: float,
    start: Tensor | None,
    tolerance: float,
) -> Tensor:
    """Weights (D, C) with the intercepts below them, of a logistic regression; ``zz`` is about Σ z zᵀ."""
    dim, number = z.shape[1], len(z)
    # p (1 − p) is a quarter at most: a bound on the curvature, which takes out how vectors differ in their directions.
    system = zz / 4
    system.diagonal().add_(l2)
    factor = torch.linalg.cholesky(system)
    at_bias = 1 / (number / 4 + held)
    penalty = torch.full((dim + 1, 1), l2, dtype=torch.float64, device=z.device)
    penalty[dim] = held
    rows = torch.arange(number, device=z.device)

    def precondition(gradient: Tensor) -> Tensor:
        return torch.cat([torch.cholesky_solve(gradient[:dim], factor), gradient[dim:] * at_bias])

    def evaluate(params: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (z @ params[:dim] + params[dim]).log_softmax(1)
        error = log_p.exp()
        error[rows, classes] -= 1
        gradient = torch.cat([z.T @ error, error.sum(0, keepdim=True)])
        return (penalty * params.square()).sum() / 2 - log_p[rows, classes].sum(), gradient + penalty * params

    first = torch.zeros(dim + 1, num_classes, dtype=torch.float64, device=z.device) if start is None else start
    return minimise(first, evaluate, precondition, tolerance)
