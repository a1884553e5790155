"""What a causal language model makes of many sentences: their log-probabilities, and its perplexity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_interp.functional._numerics import as_float
from lightning_interp.language.batching import Share, dealt, length_batches, pad_right
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, model_logits, sentence_log_probs

__all__ = ["encoded_log_probs", "last_log_probs", "perplexity", "perplexity_from"]


def perplexity(
    model: nn.Module,
    encoded: Sequence[Tensor],
    *,
    batch_tokens: int = 4096,
    forward: Forward | None = None,
    pad_token_id: int = 0,
) -> float:
    r"""Perplexity of a causal language model per token.

    .. math:: \exp\Big(-\frac{1}{\sum_x (T_x - 1)} \sum_x \sum_{t=2}^{T_x} \log p(x_t \mid x_{<t})\Big)

    over all sentences together. The model is run in evaluation mode without gradients and left as it was.

    Args:
        model: See :func:`sentence_log_probs`.
        encoded: Sentences from :func:`encode_sentences`.
        batch_tokens: Tokens in a forward pass, padding included.
        forward: Calls the model in its stead.
        pad_token_id: The id in the padding.

    Raises:
        ValueError: If there is no sentence.

    Example:
        >>> model = nn.Embedding.from_pretrained(torch.zeros(4, 4))
        >>> round(perplexity(model, [torch.tensor([1, 2, 3])]), 6)
        4.0

    """
    if not encoded:
        raise ValueError("`encoded` is empty; perplexity needs at least one sentence.")
    with eval_mode(model):
        return perplexity_from(encoded_log_probs(model, encoded, batch_tokens, forward, pad_token_id), encoded)


def perplexity_from(log_probs: Tensor, encoded: Sequence[Tensor]) -> float:
    """The perplexity of sentences whose log-probabilities are known."""
    return float((-log_probs.sum() / sum(len(ids) - 1 for ids in encoded)).exp())


def encoded_log_probs(
    model: nn.Module,
    encoded: Sequence[Tensor],
    batch_tokens: int,
    forward: Forward | None,
    pad_token_id: int,
    share: Share = (0, 1),
    first: Tensor | None = None,
) -> Tensor:
    """:func:`sentence_log_probs` of any number of sentences, (N,) float64 on the CPU; within :func:`eval_mode`.

    With ``first``, (N,), only tokens from there on count. Of a share (r, n) only every n-th batch is scored, from batch
    r on, and the rest is 0: the shares sum to the whole.
    """
    scores = torch.zeros(len(encoded), dtype=torch.float64)
    for batch in dealt(length_batches([len(ids) for ids in encoded], batch_tokens), share):
        ids, mask = pad_right([encoded[item] for item in batch], pad_token_id, model_device(model))
        since = None if first is None else first[batch].to(ids.device)
        scores[batch] = sentence_log_probs(model, ids, mask, forward, since).to("cpu", torch.float64)
    return scores


def last_log_probs(
    model: nn.Module,
    encoded: Sequence[Tensor],
    batch_tokens: int,
    forward: Forward | None,
    pad_token_id: int,
    share: Share = (0, 1),
) -> dict[int, Tensor]:
    """Log-probabilities of the token behind each text, by its place, float32 (V,) on the CPU.

    Within :func:`eval_mode`. Of a share (r, n) those of every n-th batch, from batch r on.
    """
    found: dict[int, Tensor] = {}
    for batch in dealt(length_batches([len(ids) for ids in encoded], batch_tokens), share):
        ids, mask = pad_right([encoded[item] for item in batch], pad_token_id, model_device(model))
        logits = model_logits(model, ids, mask, forward)
        last = logits[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        found |= dict(zip(batch, as_float(last).log_softmax(-1).float().cpu().unbind(), strict=True))
    return found
