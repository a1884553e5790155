"""The pseudo-log-likelihood that a masked language model gives to a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_interp.functional._numerics import as_float
from lightning_interp.language.batching import Share, dealt, length_batches, pad_right
from lightning_interp.language.encoding import Tokenizer, padding_id
from lightning_interp.language.likelihood import Forward, eval_mode, model_device, model_logits, takes_mask

__all__ = ["MaskedToken", "check_takes_mask", "masked_log_probs", "masked_rows", "pseudo_log_likelihoods"]


class MaskedToken(NamedTuple):
    """One sentence with one token to be predicted."""

    sentence: int
    ids: Tensor
    position: int
    target: int


def pseudo_log_likelihoods(
    model: nn.Module,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    within_word: bool = False,
    batch_tokens: int = 4096,
    forward: Forward | None = None,
) -> Tensor:
    r"""Pseudo-log-likelihood of each sentence under a masked language model (Salazar et al. 2020).

    .. math:: \mathrm{PLL}(x) = \sum_t \log p(x_t \mid x_{\setminus t})

    over all tokens but the special ones that the tokenizer puts around a sentence, each masked in turn. A word of
    several tokens is too easy so, since its other parts give it away. With ``within_word`` the tokens of the same word
    to the right of x_t are masked too (Kauf & Ivanova 2023, "PLL-word-l2r").

    Args:
        model: As in :func:`sentence_log_probs`, and it must take the attention mask.
        tokenizer: A transformers tokenizer with a mask token; a fast one for ``within_word``.
        sentences: N sentences.
        within_word: Whether the rest of the word is masked as well.
        batch_tokens: Tokens in a forward pass, padding included.
        forward: Calls the model in its stead.

    Returns:
        Nats, (N,), on the CPU, at least float32. Cost: as many sequences as there are tokens.

    Raises:
        ValueError: If the tokenizer has no mask token, does not know its words, a sentence has no token, or the
            model takes no attention mask and there is no ``forward``.

    """
    rows = masked_rows(tokenizer, sentences, within_word)
    check_takes_mask(model, forward)
    with eval_mode(model):
        return masked_log_probs(model, rows, len(sentences), batch_tokens, forward, padding_id(tokenizer)).float()


def check_takes_mask(model: nn.Module, forward: Forward | None) -> None:
    """An error where a masked model would see padding."""
    if forward is None and not takes_mask(model):
        raise ValueError(
            f"{type(model).__name__} takes no `attention_mask`, so it would see padding; give `forward=`, a function "
            "of (model, input_ids, attention_mask) that returns logits."
        )


def masked_log_probs(
    model: nn.Module,
    rows: Sequence[MaskedToken],
    number: int,
    batch_tokens: int,
    forward: Forward | None,
    pad_token_id: int,
    share: Share = (0, 1),
) -> Tensor:
    """Log-probabilities of masked tokens, summed by sentence: (number,) float64 on the CPU; within :func:`eval_mode`.

    Of a share (r, n) only every n-th batch is scored, from batch r on: the shares sum to the whole.
    """
    totals = torch.zeros(number, dtype=torch.float64)
    device = model_device(model)
    for batch in dealt(length_batches([len(row.ids) for row in rows], batch_tokens), share):
        chosen = [rows[item] for item in batch]
        ids, mask = pad_right([row.ids for row in chosen], pad_token_id, device)
        positions = torch.tensor([row.position for row in chosen], device=device)
        targets = torch.tensor([row.target for row in chosen], device=device)
        at = torch.arange(len(chosen), device=device)
        logits = as_float(model_logits(model, ids, mask, forward)[at, positions])
        scores = logits[at, targets] - logits.logsumexp(-1)
        totals.index_add_(0, torch.tensor([row.sentence for row in chosen]), scores.to("cpu", torch.float64))
    return totals


def masked_rows(tokenizer: Tokenizer, sentences: Sequence[str], within_word: bool) -> list[MaskedToken]:
    """Every sentence once for each of its tokens, with that token masked."""
    if isinstance(sentences, str):
        raise TypeError(f"`sentences` must be a sequence of strings, got the single string {sentences!r}.")
    mask_id = getattr(tokenizer, "mask_token_id", None)
    if mask_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no `mask_token_id`, which a masked language model needs.")
    if within_word and not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"`within_word` needs a fast tokenizer, which knows the words; got {type(tokenizer).__name__}."
        )
    if not sentences:
        return []
    encoding = tokenizer(list(sentences), return_special_tokens_mask=True)
    rows = []
    for number, sentence in enumerate(sentences):
        ids, special = encoding["input_ids"][number], encoding["special_tokens_mask"][number]
        if all(special):
            raise ValueError(f"the sentence {sentence!r} has no token besides the special ones.")
        words = encoding.word_ids(number) if within_word else range(len(ids))
        for position in (place for place, one in enumerate(special) if not one):
            masked = torch.tensor(ids, dtype=torch.long)
            # The token itself, and what follows it in its word; without `within_word` every token is its own word.
            for place in range(position, len(ids)):
                if words[place] is not None and words[place] == words[position]:
                    masked[place] = mask_id
            rows.append(MaskedToken(number, masked, position, int(ids[position])))
    return rows
