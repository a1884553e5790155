"""What a prediction loses without each word: its score, the words of a text, and how loss is spread over them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float

__all__ = [
    "Score",
    "ablation_concentration",
    "cue_first",
    "cue_share",
    "masked_word",
    "prediction_scores",
    "word_positions",
]

Score = Literal["log_prob", "log_odds"]
"""What a prediction is measured by."""


def prediction_scores(logits: Tensor, target: int, score: Score = "log_prob") -> Tensor:
    r"""How far a class is predicted, from logits z.

    .. math::
        \mathrm{log\_prob} = z_c - \ln \sum_k e^{z_k}, \quad
        \mathrm{log\_odds} = \ln \frac{p_c}{1 - p_c} = z_c - \ln \sum_{k \ne c} e^{z_k}

    Of two classes the second is the difference of their logits, which is linear where the model is.

    Args:
        logits: Shape (..., C). One logit, C = 1, is that of class 1 over class 0, whose logit is 0.
        target: The class c.
        score: Which of the two.

    Returns:
        Nats, (...), in the precision of the logits but at least float32.

    Raises:
        ValueError: If the score is none of these, or there is no such class.

    Example:
        >>> prediction_scores(torch.tensor([[0.0, 2.0]]), 1, "log_odds")
        tensor([2.])

    """
    if score not in get_args(Score):
        raise ValueError(f"`score` must be one of {list(get_args(Score))}, got {score!r}.")
    z = as_float(logits)
    if z.shape[-1] == 1:
        z = torch.cat([torch.zeros_like(z), z], -1)
    if not 0 <= target < z.shape[-1]:
        raise ValueError(f"`target` must be one of {z.shape[-1]} classes, got {target}.")
    others = z
    if score == "log_odds":
        others = z.index_fill(-1, torch.tensor([target], device=z.device), -math.inf)
    return z[..., target] - others.logsumexp(-1)


def word_positions(words: Tensor) -> Tensor:
    """Where the words of a text stand.

    Args:
        words: The word of each position, int64 (T,); below 0 where there is none that may be left out.

    Returns:
        bool (n, T): a row for each word, in the order in which they begin.

    Example:
        >>> word_positions(torch.tensor([-1, 7, 7, 3])).int().tolist()
        [[0, 1, 1, 0], [0, 0, 0, 1]]

    """
    if words.ndim != 1:
        raise ValueError(f"`words` must have one dimension, got shape {tuple(words.shape)}.")
    if not len(words):
        return torch.zeros(0, 0, dtype=torch.bool, device=words.device)
    names = torch.unique(words)
    rows = names[names >= 0, None] == words
    found: Tensor = rows[rows.int().argmax(1).argsort()]
    return found


def masked_word(ids: Tensor, words: Tensor, mask_token_id: int, draw: float) -> tuple[Tensor, Tensor, int]:
    """The place of a text at which a masked language model predicts: a masked one, or one that is masked for it.

    Args:
        ids: Token ids, int64 (T,).
        words: The word of each position, int64 (T,); below 0 where there is none that may be left out.
        mask_token_id: The id of the mask.
        draw: Which of the masked words, or of all words where none is masked, 0 ≤ u < 1.

    Returns:
        The ids, where none was the mask with one word masked whole; the words, of which masked positions are none; and
        the position, the first one masked of the word that was drawn, −1 where there is no word.

    Example:
        >>> masked_word(torch.tensor([5, 6, 7]), torch.tensor([0, 1, 1]), mask_token_id=2, draw=0.6)
        (tensor([5, 2, 2]), tensor([ 0, -1, -1]), 1)

    """
    if ids.ndim != 1 or words.shape != ids.shape:
        raise ValueError(f"`ids` and `words` must both be (T,), got {tuple(ids.shape)} and {tuple(words.shape)}.")
    if not len(ids):
        return ids, words, -1
    masked, rows = ids == mask_token_id, word_positions(words)
    if not bool(masked.any()) and len(rows):
        masked = rows[int(draw * len(rows))]
    # Where a mask belongs to no word it is one by itself.
    alone = torch.arange(len(ids), device=ids.device) + words.max().clamp_min(-1) + 1
    starts = word_positions(torch.where(words < 0, alone, words).masked_fill(~masked, -1)).int().argmax(1)
    place = int(starts[int(draw * len(starts))]) if len(starts) else -1
    return ids.masked_fill(masked, mask_token_id), words.masked_fill(masked, -1), place


def ablation_concentration(weights: Tensor) -> float:
    r"""Whether a prediction hangs on few words: 1 where it does on one, 0 where on all alike.

    .. math:: 1 - \frac{H(a)}{\log n}, \quad a_i = \frac{|w_i|}{\sum_j |w_j|}

    Args:
        weights: What the prediction loses without each of n words, (n,).

    Returns:
        0 to 1; NaN for fewer than two words, where nothing is lost, or weights are not finite.

    Example:
        >>> ablation_concentration(torch.tensor([0.0, -3.0, 0.0]))
        1.0

    """
    sizes = _sizes("weights", weights)
    if len(sizes) < 2:
        return math.nan
    shares = sizes / sizes.sum()
    return float(1 + torch.special.xlogy(shares, shares).sum() / math.log(len(shares)))


def cue_share(weights: Tensor, cue: Tensor) -> float:
    r"""Share of what all words weigh that words of a cue S do.

    .. math:: \frac{\sum_{i \in S} |w_i|}{\sum_i |w_i|}

    Args:
        weights: What the prediction loses without each of n words, (n,).
        cue: Which of them belong to the cue, bool (n,).

    Returns:
        0 to 1, |S| / n where all words weigh alike; NaN without a word of the cue, and as in
        :func:`ablation_concentration`.

    Example:
        >>> cue_share(torch.tensor([1.0, -3.0]), torch.tensor([False, True]))
        0.75

    """
    sizes = _sizes("weights", weights, cue)
    return float(sizes[cue].sum() / sizes.sum()) if bool(cue.any()) else math.nan


def cue_first(weights: Tensor, cue: Tensor) -> float:
    """Whether the word that weighs most belongs to a cue: 1 or 0, and the share of those that do where several tie.

    Args:
        weights: What the prediction loses without each of n words, (n,).
        cue: Which of them belong to the cue, bool (n,).

    Returns:
        0 to 1; NaN as in :func:`cue_share`.

    Example:
        >>> cue_first(torch.tensor([1.0, -3.0, 3.0]), torch.tensor([False, True, False]))
        0.5

    """
    sizes = _sizes("weights", weights, cue)
    if not bool(cue.any()) or not bool(sizes.sum() > 0):
        return math.nan
    return float(cue[sizes == sizes.max()].double().mean())


def _sizes(name: str, weights: Tensor, cue: Tensor | None = None) -> Tensor:
    """|w|, float64; NaN all of it where one is not finite."""
    if weights.ndim != 1 or (cue is not None and (cue.shape != weights.shape or cue.dtype != torch.bool)):
        told = "" if cue is None else f" and a cue {cue.dtype} {tuple(cue.shape)}"
        raise ValueError(f"`{name}` must be (n,) and a cue bool (n,), got {tuple(weights.shape)}{told}.")
    sizes = weights.double().abs()
    return sizes if bool(sizes.isfinite().all()) else torch.full_like(sizes, math.nan)
