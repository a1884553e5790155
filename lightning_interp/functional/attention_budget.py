"""Attention on a budget: which keys a query keeps, and weights that are divided among them."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["POLICIES", "kept_keys", "renormalised"]

POLICIES: tuple[str, ...] = ("top", "recent", "recent_first", "anchors", "random")
"""By what keys are kept, for :func:`kept_keys`."""

_LEAST = torch.iinfo(torch.int64).min


def kept_keys(
    weights: Tensor,
    visible: Tensor,
    policy: str,
    k: int,
    first: int = 1,
    anchors: Tensor | None = None,
    real: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    r"""The keys that each query keeps of those that it sees, by one of these policies.

    - ``top``: the k with the largest weights; of equal ones any. No other k keys have as much of the attention.
    - ``recent``: the last k, a window.
    - ``recent_first``: the last k, and the first real keys of the text, where the sink is (Xiao et al. 2023, arXiv
      2309.17453).
    - ``anchors``: the last k, and those that are marked.
    - ``random``: k drawn by seed, head, and places of query and key, counted from the first real key: the same whatever
      the batch, its padding, rank and device.

    All are kept where a query sees no more than k.

    Args:
        weights: Attention weights, (B, H, T, S), of any dtype; only ``top`` looks at them.
        visible: Which keys each query may see, bool, of a shape that broadcasts to (B, H, T, S).
        policy: One of :data:`POLICIES`.
        k: How many, at least 1.
        first: How many of the first real keys ``recent_first`` keeps.
        anchors: Which keys are marked, bool (B, S), for ``anchors``.
        real: Which keys are no padding, bool (B, S); the others are never kept. Without it all are real.
        seed: Of ``random``. No random stream is read or moved.

    Returns:
        bool (B, H, T, S); at least one key of a query that sees any. Nothing is read back from the device. Memory: up
        to three times the weights in float32.

    Raises:
        ValueError: If the policy is none of these, a number is out of range, or the shapes do not fit.

    Example:
        >>> weights, causal = torch.tensor([[[[0.6, 0.1, 0.3]]]]), torch.ones(1, 3, dtype=torch.bool)
        >>> [kept_keys(weights, causal, one, k=1).int().flatten().tolist() for one in ("top", "recent", "recent_first")]
        [[1, 0, 0], [0, 0, 1], [1, 0, 1]]

    """
    if policy not in POLICIES:
        raise ValueError(f"`policy` must be one of {list(POLICIES)}, got {policy!r}.")
    for name, number in (("k", k), ("first", first)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")
    if weights.ndim != 4:
        raise ValueError(f"`weights` must be (B, H, T, S), got shape {tuple(weights.shape)}.")
    batch, keys = weights.shape[0], weights.shape[3]
    if policy == "anchors" and anchors is None:
        raise ValueError("`policy='anchors'` needs `anchors`, bool (B, S): which keys are marked.")
    for name, one in (("anchors", anchors), ("real", real)):
        if one is not None and one.shape != (batch, keys):
            raise ValueError(f"`{name}` must be (B, S) = {(batch, keys)}, got shape {tuple(one.shape)}.")
    try:
        seen = visible.bool().expand(weights.shape)
    except RuntimeError as error:
        raise ValueError(
            f"`visible` must broadcast to the shape of `weights`, {tuple(weights.shape)}, got shape "
            f"{tuple(visible.shape)}."
        ) from error
    if real is None:
        real = torch.ones(1, keys, dtype=torch.bool, device=weights.device)
    real = real.bool()
    seen = seen & real[:, None, None]
    if policy == "top":
        return _largest(torch.where(seen, as_float(weights.detach()), -torch.inf), k) & seen
    place = real.cumsum(-1)  # from 1 on
    if policy == "random":
        return _largest(_drawn(place, weights, seed).masked_fill(~seen, _LEAST), k) & seen
    # Keys that a query sees from here on, this one among them.
    kept = seen & (seen.flip(-1).cumsum(-1).flip(-1) <= k)
    if policy == "recent_first":
        kept = kept | (seen & (place <= first)[:, None, None])
    elif anchors is not None and policy == "anchors":
        kept = kept | (seen & anchors.bool()[:, None, None])
    return kept


def renormalised(weights: Tensor, kept: Tensor) -> Tensor:
    r"""Attention weights divided among the keys that are kept.

    .. math:: \tilde A_{ij} = \frac{A_{ij}\, m_{ij}}{\sum_l A_{il}\, m_{il}}

    as if the others had been masked before the softmax.

    Args:
        weights: Attention weights, (B, H, T, S).
        kept: Which keys each query keeps, m, bool, of a shape that broadcasts to it.

    Returns:
        (B, H, T, S) in float32 or wider. Where the kept keys have no weight at all they have equal ones, and a row that
        keeps none is 0.

    Example:
        >>> renormalised(torch.tensor([[[[0.5, 0.25, 0.25]]]]), torch.tensor([False, True, True])).flatten().tolist()
        [0.0, 0.5, 0.5]

    """
    rows = torch.where(kept, as_float(weights), 0.0)
    total = rows.sum(-1, keepdim=True)
    equal = kept.to(rows.dtype) / kept.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(total == 0, equal, rows / torch.where(total == 0, 1.0, total))


def _largest(scores: Tensor, k: int) -> Tensor:
    """Where the k largest of each row are."""
    if k >= scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    found = scores.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, found, True)


def _drawn(place: Tensor, weights: Tensor, seed: int) -> Tensor:
    """A number for each head, query and key, no two alike in a row: int64, of the shape of the weights."""
    _, heads, queries, keys = weights.shape
    head = torch.arange(heads, device=weights.device)[None, :, None, None]
    # Queries are the last positions, as where a cache precedes them.
    query = place[:, max(keys - queries, 0) :]
    if query.shape[-1] != queries:
        query = torch.arange(queries, device=weights.device)[None]
    counters = (head << 48) + (query[:, None, :, None] << 24) + place[:, None, None]
    return counter_hash(counters, operator.index(seed)).expand(weights.shape)
