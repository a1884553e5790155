"""Whether a ranking of tokens says what a model needs: what removing them in that order does to its decision."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float, wide_dtype
from lightning_interp.functional.counter_noise import counter_hash

__all__ = [
    "FRACTIONS",
    "comprehensiveness",
    "decision_flip",
    "flip_fraction",
    "fractions_kept",
    "leading_tokens",
    "rank_agreement",
    "removal_orders",
    "sufficiency",
]

FRACTIONS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)
"""Shares of the tokens that are removed, for :func:`fractions_kept`."""

_TIES = ("average", "first")


def removal_orders(
    scores: Tensor,
    mask: Tensor | None = None,
    ties: str = "average",
    draws: int = 8,
    seed: int = 0,
    samples: Tensor | None = None,
) -> Tensor:
    """The tokens of each example from the highest score to the lowest: the order in which to remove them.

    Explanations in words have few levels, and an order among equal scores is none of theirs (Huang et al. 2023, arXiv
    2310.11207). ``average`` draws several orders that differ in nothing else, over which measures are to be averaged:
    each order of equal scores is as likely as another. Equal scores throughout give random orders: the level to compare
    with, from the same number of forwards.

    Args:
        scores: Of each token, (N,) or padded (B, N).
        mask: Which of them can be removed, bool of the same shape: no padding, no start token. All by default.
        ties: ``average``, or ``first`` for one order with the earlier of equal tokens first.
        draws: How many orders ``average`` draws, at least 1; all alike where no scores are equal.
        seed: Of the draws. No random stream is read or moved.
        samples: A number for each example, int64 (B,), such as its place in the data: it and the places of the
            tokens that can be removed tell the draw, whatever the batch and its padding. By default 0 to B − 1.

    Returns:
        Positions, int64 (draws, N) or (draws, B, N) on the device of the scores, with one draw for ``first``. What
        cannot be removed comes last, from left to right.

    Raises:
        ValueError: If the shapes do not fit, a score that counts is NaN, or an argument is out of range.

    Example:
        >>> removal_orders(torch.tensor([0.1, 0.9, 0.5, 0.9]), ties="first").tolist()
        [[1, 3, 2, 0]]
        >>> sorted(set(removal_orders(torch.tensor([0.1, 0.9, 0.5, 0.9]))[:, 0].tolist()))
        [1, 3]

    """
    if ties not in _TIES:
        raise ValueError(f"`ties` must be one of {list(_TIES)}, got {ties!r}.")
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, got {draws}.")
    real = _tokens("scores", scores, mask)
    _refuse_nan("scores", scores, real)
    single = scores.ndim == 1
    values, real = (scores.detach()[None], real[None]) if single else (scores.detach(), real)
    if samples is None:
        samples = torch.arange(len(values), device=values.device)
    elif samples.shape != (len(values),):
        raise ValueError(f"`samples` must be (B,) = ({len(values)},), got shape {tuple(samples.shape)}.")
    place = torch.arange(values.shape[1], device=values.device).expand(1, *values.shape)
    key = place
    if ties == "average":
        number = counter_hash(samples.to(values.device), operator.index(seed))[None, :, None]
        draw = torch.arange(draws, device=values.device)[:, None, None] << 32
        drawn = counter_hash(number + draw + real.cumsum(-1), operator.index(seed))
        key = torch.where(real, drawn, place)
    orders = key.argsort(-1)
    # One stable order after another; the last one rules. What is −0 is 0.
    falling = torch.where(real, 0.0 - values.to(wide_dtype(values.device)), 0.0)
    for key in (falling, (~real).to(torch.uint8)):
        after = key.expand(orders.shape).gather(-1, orders).argsort(dim=-1, stable=True)
        orders = orders.gather(-1, after)
    return orders[:, 0] if single else orders


def fractions_kept(n: Tensor | int, fractions: Sequence[float] = FRACTIONS) -> Tensor:
    r"""How many tokens the shares q of n tokens are: :math:`\max(1, \lfloor q n \rfloor)`.

    They are the tokens removed for comprehensiveness, and kept for sufficiency.

    Args:
        n: Tokens that can be removed, a whole number or int64 of any shape.
        fractions: Shares q, above 0 and at most 1.

    Returns:
        int64 of the shape of ``n`` with one more dimension, (…, Q).

    Raises:
        ValueError: If there is no token, no share, or a share is out of range.

    Example:
        >>> fractions_kept(torch.tensor([12, 100])).tolist()
        [[1, 1, 2, 6], [5, 10, 20, 50]]

    """
    if not len(fractions) or not all(0 < one <= 1 for one in fractions):
        raise ValueError(f"`fractions` must lie above 0 and not above 1, at least one, got {list(fractions)}.")
    counts = torch.as_tensor(n)
    if counts.is_floating_point() or bool((counts < 1).any()):
        raise ValueError(f"`n` must be whole numbers of tokens, at least 1, got {counts.tolist()}.")
    shares = torch.tensor(list(fractions), dtype=torch.float64)
    # .29 · 100 is a little less than 29.
    found = (counts.detach().cpu().unsqueeze(-1) * shares * (1 + 1e-9)).floor().long()
    return found.clamp_min(1).to(counts.device)


def leading_tokens(orders: Tensor, counts: Tensor) -> Tensor:
    """Where the first so many tokens of an order are: what to remove, or all that is to be kept.

    Args:
        orders: Positions, from :func:`removal_orders`, (…, N).
        counts: How many, int64 (Q,) or (B, Q), from :func:`fractions_kept`.

    Returns:
        bool (…, Q, N).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> leading_tokens(torch.tensor([2, 0, 1]), torch.tensor([1, 2])).int().tolist()
        [[0, 0, 1], [1, 0, 1]]

    """
    if orders.ndim < 1 or counts.ndim < 1 or (counts.ndim > 1 and counts.shape[:-1] != orders.shape[-counts.ndim : -1]):
        raise ValueError(
            f"`counts` must be (Q,) or (B, Q) beside `orders` (…, B, N), got {tuple(counts.shape)} and "
            f"{tuple(orders.shape)}."
        )
    return orders.argsort(-1).unsqueeze(-2) < counts.unsqueeze(-1)


def comprehensiveness(full: Tensor, without_top: Tensor) -> Tensor:
    r"""Probability that is lost with the tokens that a ranking puts first (DeYoung et al. 2020, arXiv 1911.03429).

    .. math:: \operatorname*{mean}_q\; p_c(x) - p_c(x \text{ without its top } q)

    with c the class predicted for x, not predicted anew, and the mean over shares of the tokens (Huang et al. 2023,
    arXiv 2310.11207). The removal of nothing is no share here.

    Args:
        full: Probability of c from the whole example, any shape such as (B,).
        without_top: The same with the first tokens removed, (…, Q) with ``full``'s shape before the Q shares; further
            dimensions, such as draws, may come first.

    Returns:
        −1 to 1, high where the ranking is faithful; of the shape of ``without_top`` but its last, at least float32.
        Average over draws afterwards.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> round(float(comprehensiveness(torch.tensor(0.9), torch.tensor([0.6, 0.2]))), 3)
        0.5

    """
    return _lost("without_top", full, without_top)


def sufficiency(full: Tensor, only_top: Tensor) -> Tensor:
    r"""Probability that is lost where only the tokens that a ranking puts first are left (DeYoung et al. 2020).

    .. math:: \operatorname*{mean}_q\; p_c(x) - p_c(x \text{ with only its top } q)

    Args:
        full: Probability of the class c predicted for the whole example, any shape such as (B,).
        only_top: The same with all tokens removed but the first ones, (…, Q), as in :func:`comprehensiveness`.

    Returns:
        −1 to 1, low where the ranking is faithful, negative where the other tokens speak against c; of the shape of
        ``only_top`` but its last, at least float32.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> round(float(sufficiency(torch.tensor(0.9), torch.tensor([0.8, 1.0]))), 3)
        0.0

    """
    return _lost("only_top", full, only_top)


def decision_flip(prediction: Tensor, prediction_without_top: Tensor) -> Tensor:
    """Whether the decision changes without the first token (DFMIT; Huang et al. 2023, arXiv 2310.11207).

    Where a model without its cue must guess, some guesses agree: the ceiling is 1 − 1/C of C equal classes.

    Args:
        prediction: The predicted class of each example, int64 of any shape such as (B,).
        prediction_without_top: The same without the token that the ranking puts first; further dimensions, such as
            draws, may come first.

    Returns:
        0 or 1, float32 of the shape of ``prediction_without_top``; its mean is the share of examples, high where the
        ranking is faithful.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> decision_flip(torch.tensor([0, 1]), torch.tensor([0, 2])).tolist()
        [0.0, 1.0]

    """
    _check_last("prediction", prediction, "prediction_without_top", prediction_without_top.shape)
    return (prediction != prediction_without_top).float()


def flip_fraction(predictions: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Smallest share of tokens, removed in order, that changes the decision (DFFrac; Huang et al. 2023).

    .. math:: \min \{ k / n : \hat y(x \text{ without its first } k) \ne \hat y(x) \}, \quad 1 \text{ if there is none}

    Args:
        predictions: The predicted class after so many removals, from none to all, int64 (…, N + 1).
        mask: Which of N tokens can be removed, bool (B, N) for predictions (…, B, N + 1): n of an example is how many,
            and only its first n + 1 predictions are looked at. All by default.

    Returns:
        Above 0 to 1, low where the ranking is faithful, of the shape of ``predictions`` but its last, float32; NaN
        for examples without a token that can be removed.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> flip_fraction(torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])).tolist()
        [0.5, 1.0]

    """
    if predictions.ndim < 1 or predictions.shape[-1] < 1:
        raise ValueError(f"`predictions` must be (…, N + 1), got shape {tuple(predictions.shape)}.")
    tokens = predictions.shape[-1] - 1
    if mask is None:
        mask = torch.ones(tokens, dtype=torch.bool, device=predictions.device)
    elif mask.ndim < 1 or mask.shape[-1] != tokens:
        raise ValueError(
            f"`mask` must be (B, N) for `predictions` (…, B, N + 1), got {tuple(mask.shape)} and "
            f"{tuple(predictions.shape)}."
        )
    _check_last("mask", mask[..., 0] if tokens else mask.sum(-1), "predictions", predictions.shape[:-1])
    n = mask.bool().sum(-1)
    steps = torch.arange(1, tokens + 1, device=predictions.device)
    flips = (predictions[..., 1:] != predictions[..., :1]) & (steps <= n.unsqueeze(-1))
    # Those before the first flip, and itself; all where there is none.
    first = ((flips.cumsum(-1) == 0) & (steps <= n.unsqueeze(-1))).sum(-1) + flips.any(-1)
    return first.float() / n


def rank_agreement(scores: Tensor, single_removal_drops: Tensor, mask: Tensor | None = None) -> Tensor:
    """Spearman's correlation of a ranking with what each removal alone costs (RankDel; Huang et al. 2023).

    1 by construction where the ranking is that of the drops. Equal values share the average of their ranks.

    Args:
        scores: Of each token, (…, N).
        single_removal_drops: Fall of the probability of c, or of its logarithm, without this token alone, (…, N).
        mask: Which tokens can be removed, bool (…, N); all by default.

    Returns:
        −1 to 1, (…), float64 (float32 on MPS); NaN where either list is constant or has fewer than two tokens.

    Raises:
        ValueError: If the shapes differ or values that count are NaN.

    Example:
        >>> rank_agreement(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.5, 0.0, 0.1]])).tolist()
        [1.0]

    """
    if scores.shape != single_removal_drops.shape:
        raise ValueError(
            f"`scores` and `single_removal_drops` must have one shape, got {tuple(scores.shape)} and "
            f"{tuple(single_removal_drops.shape)}."
        )
    real = _tokens("scores", scores, mask, flat=False)
    _refuse_nan("scores", scores, real)
    _refuse_nan("single_removal_drops", single_removal_drops, real)
    x, y = _centred_ranks(scores, real), _centred_ranks(single_removal_drops, real)
    size = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return (x * y).sum(-1) / size


def _centred_ranks(values: Tensor, real: Tensor) -> Tensor:
    """Average ranks among the tokens that count, less their mean, and 0 for the others."""
    wide = values.detach().to(wide_dtype(values.device)).masked_fill(~real, torch.inf).contiguous()
    rows = wide.sort(-1).values
    n = real.sum(-1, keepdim=True)
    # How many are less, and how many are not more; padding is as much as an infinite value.
    less, upto = torch.searchsorted(rows, wide), torch.searchsorted(rows, wide, right=True).minimum(n)
    return torch.where(real, ((less + upto).to(wide.dtype) - n) / 2, 0.0)


def _lost(name: str, full: Tensor, left: Tensor) -> Tensor:
    if left.ndim < 1 or left.shape[-1] < 1:
        raise ValueError(f"`{name}` must be (…, Q), got shape {tuple(left.shape)}.")
    _check_last("full", full, name, left.shape[:-1])
    return as_float(full) - as_float(left).mean(-1)


def _check_last(name: str, value: Tensor, other: str, shape: Sequence[int]) -> None:
    """Refuse a value whose shape is not the end of the other's."""
    if value.ndim > len(shape) or tuple(value.shape) != tuple(shape[len(shape) - value.ndim :]):
        raise ValueError(
            f"`{name}` does not fit to `{other}`: the shape {tuple(value.shape)} is not the end of {tuple(shape)}."
        )


def _tokens(name: str, values: Tensor, mask: Tensor | None, flat: bool = True) -> Tensor:
    """Which tokens can be removed, of the shape of the values."""
    if values.ndim < 1 or (flat and values.ndim > 2):
        raise ValueError(f"`{name}` must be {'(N,) or (B, N)' if flat else '(…, N)'}, got shape {tuple(values.shape)}.")
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    if mask.shape != values.shape:
        raise ValueError(
            f"`mask` must have the shape of `{name}`, {tuple(values.shape)}, got shape {tuple(mask.shape)}."
        )
    return mask.bool()


def _refuse_nan(name: str, values: Tensor, real: Tensor) -> None:
    number = int((values.isnan() & real).sum())
    if number:
        raise ValueError(f"`{name}` has {number} NaN among {int(real.sum())} tokens that can be removed.")
