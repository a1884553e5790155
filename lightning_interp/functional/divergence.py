"""Jensen–Shannon divergence of discrete distributions."""

from __future__ import annotations

from torch import Tensor

from lightning_interp.functional._numerics import as_float, plogp

__all__ = ["js_divergence"]


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    r"""Jensen–Shannon divergence over the last dimension, in nats.

    .. math::
        JS(p, q) = \tfrac{1}{2} KL(p \| m) + \tfrac{1}{2} KL(q \| m), \quad m = (p + q) / 2

    (Lin 1991), computed as :math:`H(m) - H(p)/2 - H(q)/2`. It lies in [0, ln 2]: 0 for equal distributions, ln 2 for
    distributions that share no outcome.

    Args:
        p: Probabilities, shape (..., n); each last dimension sums to 1.
        q: Probabilities of a shape that broadcasts with ``p``.

    Returns:
        The divergence, shape (...), in float32 or wider.

    Raises:
        ValueError: If the last dimensions differ.

    Example:
        >>> import torch
        >>> js_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)

    """
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"`p` and `q` must have the same number of outcomes, got {tuple(p.shape)} and {tuple(q.shape)}."
        )
    p, q = as_float(p), as_float(q)
    middle = plogp((p + q) / 2).sum(-1)
    return (plogp(p).sum(-1) / 2 + plogp(q).sum(-1) / 2 - middle).clamp_min(0)
