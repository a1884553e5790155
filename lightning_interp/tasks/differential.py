"""The gradient differential of minimal pairs, and its largest entries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_interp.distributed.sharding import is_sharded
from lightning_interp.language.batching import length_batches, pad_right
from lightning_interp.language.encoding import EncodedPair
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, sentence_log_probs

__all__ = ["gradient_differential", "mean_gradient", "squared_norm", "top_entries", "trainable_parameters"]

_HIGH, _LOW = 1 << 15, 1 << 16


def gradient_differential(
    model: nn.Module,
    pairs: Sequence[EncodedPair],
    *,
    batch_tokens: int = 4096,
    forward: Forward | None = None,
    pad_token_id: int = 0,
) -> dict[str, Tensor]:
    r"""What separates the gradients of acceptable and unacceptable sentences (Weber et al. 2024).

    .. math:: D = \frac{1}{B} \sum_{b=1}^{B} \nabla_\theta \left[ S(x^+_b) - S(x^-_b) \right],
        \qquad S(x) = -\sum_t \log p(x_t \mid x_{<t})

    S is a sum, not a mean over tokens: only then do the tokens of a prefix that the two sentences share cancel, to
    rounding. -D is the gradient of the mean margin of :meth:`Scorer.score_task`. That S is a sum is this
    library's reading; the paper's own formula was not at hand.

    The model is run in evaluation mode, so without dropout, without autocast and TF32, whatever mode for gradients
    the caller is in. It, its ``.grad`` fields and the random streams are left as they were.

    Args:
        model: A causal language model; see :func:`sentence_log_probs`.
        pairs: B pairs of encoded sentences; see :func:`encode_sentences`.
        batch_tokens: Tokens in a forward and backward pass, padding included; the two sentences of a pair are always in
            one. What it is changes the result by rounding only.
        forward: Calls the model in its stead.
        pad_token_id: The id in the padding.

    Returns:
        For every parameter with ``requires_grad``, by its name, a tensor of its shape; a parameter that occurs twice
        (tied embeddings) is there once. Memory: one copy of these parameters, a second one for more than one batch.

    Raises:
        ValueError: If there is no pair, no trainable parameter, or a parameter is sharded or in less than float32,
            which has too few digits for a difference of two gradients.

    Example:
        >>> model = nn.Embedding.from_pretrained(torch.zeros(3, 3), freeze=False)
        >>> pair = torch.tensor([0, 1]), torch.tensor([0, 2])
        >>> gradient_differential(model, [pair])["weight"]
        tensor([[ 0., -1.,  1.],
                [ 0.,  0.,  0.],
                [ 0.,  0.,  0.]])

    """
    parameters = trainable_parameters(model)
    with eval_mode(model, gradients=True):
        return mean_gradient(model, parameters, pairs, (1.0, -1.0), batch_tokens, forward, pad_token_id)


def mean_gradient(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    pairs: Sequence[EncodedPair],
    weights: tuple[float, float],
    batch_tokens: int,
    forward: Forward | None,
    pad_token_id: int,
) -> dict[str, Tensor]:
    """The gradient of the mean over pairs of w⁺·S(x⁺) + w⁻·S(x⁻); within :func:`eval_mode`.

    A sentence of weight 0 is not run.
    """
    if not pairs:
        raise ValueError("`pairs` is empty; a gradient needs at least one pair.")
    kept = [side for side in (0, 1) if weights[side]]
    # As many padded tokens as all its sentences take, so that a pair stays together.
    lengths = [len(kept) * max(len(pair[side]) for side in kept) for pair in pairs]
    total: list[Tensor] | None = None
    for batch in length_batches(lengths, batch_tokens):
        ids, mask = pad_right([pairs[item][side] for item in batch for side in kept], pad_token_id, model_device(model))
        scores = sentence_log_probs(model, ids, mask, forward)
        signs = torch.tensor([-weights[side] for _ in batch for side in kept], dtype=scores.dtype, device=scores.device)
        loss = (signs * scores).sum() / len(pairs)
        # A parameter that took no part has the gradient zero. `.grad` is not written.
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        if total is None:
            total = list(found)
        else:
            torch._foreach_add_(total, list(found))
    assert total is not None
    return dict(zip(parameters, total, strict=True))


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with ``requires_grad`` by name, each once; refuses what gradients of pairs cannot be taken of."""
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise ValueError(f"parameter {name!r} is sharded over ranks; give a model that is whole on this one.")
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"parameter {name!r} is {parameter.dtype}; the shared tokens of a pair cancel in float32 only. "
                "Give a copy of the model made with `.float()`."
            )
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(f"{type(model).__name__} has no parameter with `requires_grad`.")
    return found


def top_entries(
    values: Mapping[str, Tensor], fraction: float, threshold: Literal["model", "tensor"] = "model"
) -> dict[str, Tensor]:
    """Where the largest entries are, by absolute value.

    Exactly max(1, round(fraction × entries)) of them, where entries are counted over all tensors or in each one. They
    are ranked in float32; of equal entries the first in order are taken, so the choice does not depend on a device's
    sorting. Found by counting (a radix search) in passes over the tensors: no copy of all of them is made, only of one
    tensor at a time (the embeddings, in most models).

    Args:
        values: Tensors by name.
        fraction: The share of entries, above 0 and at most 1.
        threshold: ``"model"`` ranks the entries of all tensors together, ``"tensor"`` those of each by themselves.

    Returns:
        For every name positions in the flattened tensor, int64 and rising, on its device; possibly none.

    Raises:
        ValueError: If the fraction or the threshold is not as above, or an entry is not finite.

    Example:
        >>> values = {"a": torch.tensor([[1.0, -4.0], [2.0, 0.0]]), "b": torch.tensor([3.0, 0.5])}
        >>> top_entries(values, 0.5)
        {'a': tensor([1, 2]), 'b': tensor([0])}
        >>> top_entries(values, 0.5, threshold="tensor")
        {'a': tensor([1, 2]), 'b': tensor([0])}

    """
    check_selection(fraction, threshold)
    broken = [name for name, value in values.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"not all entries are finite in {', '.join(map(repr, broken))}.")
    if threshold == "model":
        return _largest(values, fraction)
    return {name: _largest({name: value}, fraction)[name] for name, value in values.items()}


def check_selection(fraction: float, threshold: str) -> None:
    """Refuse arguments that :func:`top_entries` would."""
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must be above 0 and at most 1, got {fraction}.")
    if threshold not in ("model", "tensor"):
        raise ValueError(f"`threshold` must be 'model' or 'tensor', got {threshold!r}.")


def _largest(values: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    count = max(1, round(fraction * sum(value.numel() for value in values.values())))
    bound, ties = _bound(values, count)
    chosen = {}
    for name, value in values.items():
        key = _key(value)
        above, equal = (key > bound).nonzero().squeeze(1), (key == bound).nonzero().squeeze(1)[:ties]
        ties -= len(equal)
        chosen[name] = torch.cat([above, equal]).sort().values
    return chosen


def _bound(values: Mapping[str, Tensor], count: int) -> tuple[int, int]:
    """The key of the count-th largest entry, and how many entries of that very key belong to the largest."""
    high, count = _bin([torch.bincount(_key(value) >> 16, minlength=_HIGH) for value in values.values()], count)
    lows = []
    for value in values.values():
        key = _key(value)
        lows.append(torch.bincount(key[key >> 16 == high] & (_LOW - 1), minlength=_LOW))
    low, count = _bin(lows, count)
    return high << 16 | low, count


def _bin(histograms: Sequence[Tensor], count: int) -> tuple[int, int]:
    """The bin that holds the count-th largest entry, and its place among those in this bin."""
    counts = torch.stack([one.cpu() for one in histograms]).sum(0)
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, count))
    return len(counts) - 1 - place, count - int(from_top[place] - counts.flip(0)[place])


def _key(value: Tensor) -> Tensor:
    """The bits of |value| in float32 as integers, which are ordered as the values are."""
    return value.detach().abs().to(torch.float32).contiguous().view(-1).view(torch.int32)


def squared_norm(values: Mapping[str, Tensor]) -> float:
    """The sum of squares of all entries of all tensors."""
    return math.fsum(float(torch.linalg.vector_norm(value)) ** 2 for value in values.values())
