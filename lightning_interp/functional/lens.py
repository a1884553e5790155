"""What a layer's residual already says of the next token, read through the model's own final norm and head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import as_float

__all__ = ["LensRows", "agreement_by_chance", "constant_loss", "lens_rows"]


class LensRows(NamedTuple):
    """What logits say at each position."""

    losses: Tensor
    """Nats, (N,)."""
    entropies: Tensor
    """Nats, (N,)."""
    tops: Tensor
    """The token with the largest logit, the first of equals, int64 (N,)."""


def lens_rows(logits: Tensor, targets: Tensor) -> LensRows:
    r"""Loss, entropy and top token of logits z, such as those of a layer's residual (nostalgebraist 2020, logit lens).

    .. math::
        \mathrm{loss} = -\log p_y, \quad \mathrm{entropy} = -\sum_k p_k \log p_k, \quad
        \mathrm{top} = \arg\max_k z_k, \quad p = \mathrm{softmax}(z)

    Args:
        logits: Shape (N, V).
        targets: The token y of each row, 0 to V − 1, int64 (N,).

    Returns:
        The three of each row, in the precision of the logits but at least float32. Nothing is read back from the
        device.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> rows = lens_rows(torch.zeros(1, 4), torch.tensor([2]))
        >>> rows.losses, rows.entropies, rows.tops
        (tensor([1.3863]), tensor([1.3863]), tensor([0]))

    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits` must be (N, V) and `targets` (N,), got {tuple(logits.shape)} and {tuple(targets.shape)}."
        )
    z = as_float(logits)
    losses = z.logsumexp(-1) - z.gather(-1, targets[:, None]).squeeze(-1)
    return LensRows(losses, torch.special.entr(z.softmax(-1)).sum(-1), z.argmax(-1))


def agreement_by_chance(one: Tensor, other: Tensor) -> Tensor:
    r"""How often top tokens agree where those of one layer are dealt to other positions: :math:`\sum_k f_k g_k`.

    Where both put a frequent token first almost everywhere, they agree often whatever they read.

    Args:
        one: How often each token is the top one of a layer, (V,).
        other: The same of another, (V,).

    Returns:
        Share of positions, float64 (); NaN where there are none.

    Example:
        >>> agreement_by_chance(torch.tensor([1, 1]), torch.tensor([4, 0]))
        tensor(0.5000, dtype=torch.float64)

    """
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"`one` and `other` must both be (V,), got {tuple(one.shape)} and {tuple(other.shape)}.")
    f, g = (counts.double() / counts.double().sum() for counts in (one, other))
    return f @ g


def constant_loss(counts: Tensor) -> Tensor:
    r"""The least loss of a prediction that is the same everywhere, :math:`-\sum_k f_k \log f_k`: that of frequencies.

    Args:
        counts: How often each token is the right one, (V,).

    Returns:
        Nats, float64 (); NaN where there are none.

    Example:
        >>> constant_loss(torch.tensor([2, 2]))
        tensor(0.6931, dtype=torch.float64)

    """
    if counts.ndim != 1:
        raise ValueError(f"`counts` must be (V,), got {tuple(counts.shape)}.")
    shares = counts.double() / counts.double().sum()
    loss: Tensor = torch.special.entr(shares).sum()
    return loss
