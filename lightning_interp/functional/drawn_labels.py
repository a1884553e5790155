"""Labels drawn from what a model predicts, the same ones whatever the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.counter_noise import counter_uniform

__all__ = ["drawn_labels"]


def drawn_labels(logits: Tensor, counters: Tensor, seed: int = 0) -> Tensor:
    r"""A class for each row, drawn with its probability: :math:`\Pr(y = c) = \mathrm{softmax}(z)_c`.

    By the inverse of the cumulative distribution at a uniform number that the row's counter gives, see
    :func:`~lightning_interp.functional.counter_uniform`: no random stream is read or moved.

    Args:
        logits: (R, C).
        counters: A number for each row, int64 (R,); rows with one number get the same uniform number.
        seed: Another seed gives unrelated draws.

    Returns:
        int64 (R,).

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> logits = torch.tensor([0.7, 0.3]).log().expand(10_000, 2)
        >>> bool(abs(drawn_labels(logits, torch.arange(10_000)).float().mean() - 0.3) < 0.015)
        True

    """
    if logits.ndim != 2 or tuple(counters.shape) != (len(logits),):
        raise ValueError(
            f"`logits` and `counters` must be (R, C) and (R,), got shapes {tuple(logits.shape)} and "
            f"{tuple(counters.shape)}."
        )
    reached = as_float(logits).softmax(-1).cumsum(-1)
    # The last may end below 1 by rounding; a class of probability 0 is never drawn.
    at = counter_uniform(counters, seed).to(reached)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, at, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
