"""What becomes of facts that training puts in: how far they are learned, kept, and what else they change."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float

__all__ = ["add_decay", "kl_divergence", "retainability", "retention_decay"]

_LEAST = 0.1
_SUMS = 5


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence over the last dimension, in nats.

    .. math:: KL(p \| q) = \sum_k p_k (\log p_k - \log q_k)

    Args:
        log_p: Logarithms of probabilities, (..., n).
        log_q: The same shape.

    Returns:
        float64 (...), 0 for equal distributions; infinite where q has no probability and p has.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438, dtype=torch.float64)

    """
    if log_p.shape != log_q.shape:
        raise ValueError(f"`log_p` and `log_q` must have one shape, got {tuple(log_p.shape)} and {tuple(log_q.shape)}.")
    p, q = as_float(log_p).double(), as_float(log_q).double()
    # Where p has no probability nothing is lost, whatever q has.
    return torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(-1).clamp_min(0)


def retainability(now: Tensor, before: Tensor, best: Tensor, least: float = _LEAST) -> Tensor:
    r"""Share of what a fact had gained in log-probability that is left.

    .. math:: R = \frac{\ell_{now} - \ell_{before}}{\ell_{best} - \ell_{before}}

    After Chang et al. 2024 (arXiv 2406.11813), who leave out outliers, since the denominator may vanish; here facts are
    left out that gained too little.

    Args:
        now: Log-probability of each fact's answer, (N,).
        before: What it was before the fact was learned, (N,).
        best: The most that it has been, (N,).
        least: Facts that gained less, in nats, have none.

    Returns:
        float64 (N,): 1 at the most, 0 where all is forgotten, below 0 beyond; NaN where a fact gained too little.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> retainability(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -2.0]), torch.tensor([-1.0, -2.0]))
        tensor([1., nan], dtype=torch.float64)

    """
    if not now.shape == before.shape == best.shape:
        raise ValueError(
            f"`now`, `before` and `best` must have one shape, got {tuple(now.shape)}, {tuple(before.shape)} and "
            f"{tuple(best.shape)}."
        )
    gained = best.double() - before.double()
    return torch.where(gained >= least, (now.double() - before.double()) / gained, torch.nan)


def add_decay(sums: Tensor, retained: Tensor, steps: Tensor) -> Tensor:
    """Sums for :func:`retention_decay`, with one more reading of each fact.

    Args:
        sums: Of each fact those before, float64 (N, 5); zeros where there are none.
        retained: What is left, (N,); NaN is not added.
        steps: How many optimizer steps ago it was most, (N,); 0 is not added.

    Example:
        >>> add_decay(torch.zeros(1, 5, dtype=torch.float64), torch.tensor([0.5]), torch.tensor([1]))
        tensor([[1.0000, 0.0000, 0.0000, 0.5000, 0.0000]], dtype=torch.float64)

    """
    x, y = steps.double().clamp_min(1).log(), retained.double()
    more = torch.stack([torch.ones_like(x), x, x.square(), y, x * y], -1)
    return torch.where((y.isfinite() & (steps > 0))[:, None], sums + more, sums)


def retention_decay(sums: Tensor) -> Tensor:
    r"""How much of a fact is lost each time that the steps since it was learned best grow by a factor e.

    The slope, with its sign turned, of the least-squares line of what is retained over ln of steps: Chang et al. 2024
    find that it falls linearly there.

    Args:
        sums: From :func:`add_decay`, (N, 5): number, Σx, Σx², Σy, Σxy.

    Returns:
        float64 (N,); NaN where there are fewer than two readings at different steps.

    Raises:
        ValueError: If the shape is another.

    Example:
        >>> sums = torch.zeros(1, 5, dtype=torch.float64)
        >>> for step, left in ((1, 0.9), (10, 0.7), (100, 0.5)):
        ...     sums = add_decay(sums, torch.tensor([left]), torch.tensor([step]))
        >>> round(float(retention_decay(sums)), 6)
        0.086859

    """
    if sums.ndim != 2 or sums.shape[1] != _SUMS:
        raise ValueError(f"`sums` must be (N, {_SUMS}), got {tuple(sums.shape)}.")
    n, x, xx, y, xy = sums.double().unbind(1)
    spread = n * xx - x.square()
    # Equal steps leave rounding.
    return torch.where((n > 1) & (spread > 1e-9 * (n * xx).clamp_min(1)), -(n * xy - x * y) / spread, torch.nan)
