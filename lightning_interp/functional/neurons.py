"""What makes neurons fire: a look-up by token, and the contexts in which they fire most."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix

__all__ = ["LookUp", "context_churn", "lookup_scores", "lookup_sums", "pearson", "top_contexts"]

# Of a variance told from sums of squares, what is below this share of them is rounding.
_NOTHING = 1e-12


class LookUp(NamedTuple):
    """Sums of activations by token, which add up over parts of the data."""

    sums: Tensor
    """Of each token and neuron, float64 (K, n)."""
    counts: Tensor
    """How often each token is there, float64 (K,)."""
    squares: Tensor
    """Of each neuron the sum of squares, float64 (n,)."""


def lookup_sums(activations: Tensor, tokens: Tensor, number: int) -> LookUp:
    """Sums of activations by token.

    Args:
        activations: (N, n), on the CPU.
        tokens: The token of each row, 0 to ``number`` − 1, int64 (N,).
        number: How many tokens there are, K.

    Example:
        >>> lookup_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 0]), 2).sums.tolist()
        [[5.0], [2.0]]

    """
    if activations.ndim != 2 or tokens.shape != activations.shape[:1]:
        raise ValueError(
            f"`activations` must be (N, n) and `tokens` (N,), got {tuple(activations.shape)} and {tuple(tokens.shape)}."
        )
    wide = activations.double()
    sums = torch.zeros(number, wide.shape[1], dtype=torch.float64).index_add_(0, tokens, wide)
    return LookUp(sums, torch.bincount(tokens, minlength=number).double(), wide.square().sum(0))


def lookup_scores(fit: LookUp, held_out: LookUp) -> Tensor:
    r"""How well the mean activation of each token says what neurons do on other text: Pearson's r of each neuron.

    The prediction for a token is the neuron's mean over it in the one half, and its mean over all tokens for one that
    is not there: the explanation of a neuron that is a list of tokens, without a model that explains. It is scored as
    explanations are (Bills et al. 2023, *Language models can explain neurons in language models*), over all tokens of
    the other half at once; r does not hang on scale.

    Args:
        fit: Of the half that predicts.
        held_out: Of the half that is predicted, with the same tokens.

    Returns:
        −1 to 1, float64 (n,): 1 for a neuron that hangs on the present token alone, about 0 for one that does not; 0
        where the prediction is the same for all tokens, NaN where the neuron does not vary.

    Raises:
        ValueError: If the two are not of the same tokens and neurons.

    Example:
        >>> tokens = torch.tensor([0, 1, 2, 0])
        >>> fires = torch.nn.functional.one_hot(tokens, 3)[:, :1].float()  # on token 0
        >>> both = lookup_sums(fires, tokens, 3)
        >>> lookup_scores(both, both)
        tensor([1.], dtype=torch.float64)

    """
    if fit.sums.shape != held_out.sums.shape:
        raise ValueError(
            f"`fit` and `held_out` must be of the same tokens and neurons, got {tuple(fit.sums.shape)} and "
            f"{tuple(held_out.sums.shape)}."
        )
    seen = fit.counts > 0
    overall = fit.sums.sum(0) / fit.counts.sum()
    predicted = torch.where(seen[:, None], fit.sums / fit.counts.clamp_min(1)[:, None], overall)
    weight = held_out.counts / held_out.counts.sum()
    predicted = predicted - weight @ predicted
    variance = weight @ predicted.square()
    number = held_out.counts.sum()
    mean, square = held_out.sums.sum(0) / number, held_out.squares / number
    own = square - mean.square()
    # Deviations of the prediction sum to 0, so that the mean of the activations drops out.
    together = (predicted * held_out.sums).sum(0) / number
    says = variance > _NOTHING * (variance + overall.square())
    r = torch.where(says, together / (variance * own).clamp_min(0).sqrt(), 0.0)
    return torch.where(own > _NOTHING * square, r.clamp(-1, 1), math.nan)


def pearson(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of two (N,); 0 where the second does not vary, NaN where the first does not.

    Example:
        >>> round(pearson(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 5.0])), 6)
        1.0

    """
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"`one` and `other` must both be (N,), got {tuple(one.shape)} and {tuple(other.shape)}.")
    x, y = (values.double() - values.double().mean() for values in (one, other))
    if not float(x.norm()) > 0:
        return math.nan
    size = float(x.norm() * y.norm())
    return max(-1.0, min(1.0, float(x @ y) / size)) if size else 0.0


def top_contexts(activations: Tensor, places: Tensor, number: int = 20) -> tuple[Tensor, Tensor]:
    """Where each neuron fires most: the places of its largest activations above 0.

    Args:
        activations: (N, n).
        places: Of each row its place in the text, int64 (N,), or (N, n) by neuron; below 0 where there is none.
        number: How many places.

    Returns:
        Places, int64 (n, ``number``), and activations, (n, ``number``), from the largest on; of equal ones the first
        place comes first. −1 and 0 where a neuron has fewer.

    Example:
        >>> top_contexts(torch.tensor([[1.0], [3.0], [0.0], [3.0]]), torch.arange(4), 3)[0]
        tensor([[1, 3, 0]])

    """
    check_matrix("activations", activations)
    place = places[:, None].expand(activations.shape) if places.ndim == 1 else places
    fires = (activations > 0) & (place >= 0)
    # By place first: a stable sort keeps that order among equals.
    order = torch.where(fires, place, torch.iinfo(torch.int64).max).argsort(dim=0, stable=True)
    place, values, fires = (one.gather(0, order) for one in (place, activations, fires))
    order = torch.where(fires, values, -math.inf).argsort(dim=0, descending=True, stable=True)[:number]
    place, values, fires = (one.gather(0, order) for one in (place, values, fires))
    missing = number - len(order)
    pad = torch.nn.functional.pad
    found = torch.where(fires, place, -1).T, torch.where(fires, values, 0.0).T
    return pad(found[0], (0, missing), value=-1), pad(found[1], (0, missing))


def context_churn(before: Tensor, now: Tensor) -> Tensor:
    r"""How far the contexts of neurons are others than before: :math:`1 - |A \cap B| / |A \cup B|` of each.

    Args:
        before: Places of :func:`top_contexts`, (n, k).
        now: The same of a later reading.

    Returns:
        0 for the same contexts, 1 for none in common, float64 (n,); NaN where there are none in either.

    Example:
        >>> context_churn(torch.tensor([[1, 2], [1, -1], [3, 4]]), torch.tensor([[2, 1], [1, 5], [5, 6]]))
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)

    """
    if before.shape != now.shape or now.ndim != 2:
        raise ValueError(f"`before` and `now` must both be (n, k), got {tuple(before.shape)} and {tuple(now.shape)}.")
    there = now >= 0
    common = ((now[:, :, None] == before[:, None, :]).any(-1) & there).sum(-1)
    union = there.sum(-1) + (before >= 0).sum(-1) - common
    return 1 - common.double() / torch.where(union > 0, union.double(), math.nan)
