"""Causal tracing: how far restoring one hidden state brings back a prediction that noise at the subject has lost."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TOKEN_CLASSES", "noise_scale", "normalised_effect", "state_window", "token_classes"]

TOKEN_CLASSES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token behind",
    "further tokens",
    "last token",
)
"""What the tokens of a prompt are to its subject, from where the subject begins."""
_LEAST = 0.01


def normalised_effect(effects: Tensor, totals: Tensor, least: float = _LEAST) -> Tensor:
    r"""Share of what noise takes from the probability of an answer that restoring a state gives back.

    .. math::
        \frac{\sum_n p^*_n - p^-_n}{\sum_n p_n - p^-_n}

    with p the probability without noise, p⁻ with noise at the subject and p* with noise and one state restored, of
    prompts n: the average indirect effect over the average total effect of Meng et al. 2022 (ROME, arXiv 2202.05262).
    A mean of ratios would be that of the prompt that lost least.

    Args:
        effects: p* − p⁻ of N prompts and any number of states, (N, ...); NaN where a prompt has no such state.
        totals: p − p⁻ of each prompt, (N,).
        least: Below this mean total effect there is nothing to give back.

    Returns:
        float64 (...): 1 where all comes back, 0 where nothing does; NaN where no prompt has the state, or the mean
        total effect of those that have it is below ``least``.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> normalised_effect(torch.tensor([[0.4, 0.0], [0.2, 0.0]]), torch.tensor([0.4, 0.2]))
        tensor([1., 0.], dtype=torch.float64)

    """
    if totals.ndim != 1 or effects.shape[:1] != totals.shape:
        raise ValueError(f"`effects` must be (N, ...) and `totals` (N,), got {effects.shape} and {totals.shape}.")
    found = effects.double()
    has = ~found.isnan()
    total = (totals.double().view(-1, *[1] * (found.ndim - 1)) * has).sum(0)
    enough = total >= least * has.sum(0).clamp_min(1)
    return torch.where(enough, found.nansum(0) / total, torch.nan)


def noise_scale(embedded: Tensor) -> float:
    """Standard deviation of all numbers of the embeddings of subjects, around their common mean.

    Args:
        embedded: Embeddings of tokens, (tokens, D), as the code of Meng et al. 2022 pools them.

    Raises:
        ValueError: If there are fewer than two numbers.

    Example:
        >>> noise_scale(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        1.1547005383792515

    """
    if embedded.numel() < 2:
        raise ValueError(f"`embedded` must hold two numbers or more, got shape {tuple(embedded.shape)}.")
    return float(embedded.double().std())


def state_window(layer: int, number: int, size: int) -> range:
    """The layers whose states are restored together around one: layer − size // 2 and on, as far as there are.

    Args:
        layer: The layer, from 0.
        number: How many layers there are.
        size: How many are restored.

    Raises:
        ValueError: If ``size`` is below 1 or there is no such layer.

    Example:
        >>> state_window(7, 24, 10), state_window(1, 24, 10), state_window(7, 24, 1)
        (range(2, 12), range(0, 6), range(7, 8))

    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}.")
    if not 0 <= layer < number:
        raise ValueError(f"`layer` must be one of {number}, from 0 on, got {layer}.")
    start = layer - size // 2
    return range(max(0, start), min(number, start + size))


def token_classes(length: int, start: int, end: int) -> list[int]:
    """Which of :data:`TOKEN_CLASSES` each token of a prompt is, −1 before the subject.

    A subject of one token is its last one; where the subject ends the prompt, the last token is its last one.

    Args:
        length: Tokens of the prompt.
        start: Where the subject begins.
        end: Where it ends, exclusive.

    Raises:
        ValueError: If the subject is not in the prompt.

    Example:
        >>> token_classes(length=9, start=1, end=4)
        [-1, 0, 1, 2, 3, 4, 4, 4, 5]

    """
    if not 0 <= start < end <= length:
        raise ValueError(f"`start` and `end` must be a part of {length} tokens, got {start} and {end}.")
    found = [-1] * start + [1] * (end - start) + [4] * (length - end)
    found[start] = 0
    if end < length:
        found[end] = 3
        found[-1] = 5
    found[end - 1] = 2
    return found
